"""The explorer: what it records, packs and, in a real browser, shows."""

import base64
import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import explorer
from experiments.common.build import make_task
from experiments.common.explorer_data import start_grid, step_counts
from experiments.common.launch import check_fields
from experiments.configs.explorer.explorer import get_config
from learned_opt import evaluation, update_rules
from learned_opt.figures.explorer import box, pack_bytes, pack_numbers, pack_points
from learned_opt.tasks import Surface

RATES = (0.01, 0.1)
T, TRAINING = 20, 12


def make_config(**settings):
    defaults = {
        "surfaces": ("ravine", "saddle"),
        "rules": (("sgd", RATES), ("adam", RATES)),
        "start_side": 2,
        "num_steps": T,
        "training_rules": (("adam", 0.01), ("sgd", 0.3)),
        "training_steps": TRAINING,
    }
    return ConfigDict(defaults | settings)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("explorer") / "run"
    explorer.main(make_config(), workdir, None)
    return workdir


def unpack(text, shape):
    """The inverse of `pack_bytes` for one array of uint16."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    low, high = raw.reshape(2, -1).astype(np.uint16)
    return np.cumsum((low + 256 * high).reshape(shape), axis=-1, dtype=np.uint16)


def test_points_and_numbers_are_packed_and_found_again():
    window = Surface("rosenbrock").window
    rng = np.random.default_rng(0)
    points = rng.uniform((-2, -1), (2, 3), (3, 50, 2))
    points[0, 7] = np.nan, 100.0
    codes = np.moveaxis(pack_points(points, window), -1, 1)
    found = np.moveaxis(unpack(pack_bytes([codes]), codes.shape), 1, -1).astype(float)
    assert (found[0, 7] == 65535).all()
    low, high = box(window)
    np.testing.assert_allclose(
        np.delete((low + found / 65534 * (high - low)).reshape(-1, 2), 7, axis=0),
        np.delete(points.reshape(-1, 2), 7, axis=0),
        atol=1e-4,
    )
    values = np.array([1.5, -3e30, 1e-20, np.inf], np.float32)
    floats = (pack_numbers(values).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(floats, values, rtol=2**-8)


def test_starts_lie_on_the_map_and_one_is_the_surfaces_own():
    for name in ("saddle", "beale", "ravine"):
        surface = Surface(name)
        grid = start_grid(surface, 4)
        low, high = np.asarray(surface.window).T
        assert ((low < grid) & (grid < high)).all() and grid.shape == (16, 2)
        assert (np.abs(grid - surface.start).sum(axis=1) < 1e-6).sum() == 1


def test_steps_are_counted_by_their_decade():
    steps = np.array([[0.0, 0.05, -0.5, 1e-9, 30.0], [0.05] * 5])
    counts = step_counts(steps, np.array([-3.0, -2.0, -1.0, 0.0]))
    np.testing.assert_allclose(counts, [[0.2, 0.2, 0.4], [0, 1, 0]])


def test_the_page_is_one_file_without_any_other(workdir):
    text = (workdir / "explorer.html").read_text(encoding="utf-8")
    script = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//cdn|@import|url\((?!#)|<link|src=", script)
    assert "{{" not in text
    for rule in ("beta", "sqrt(v", "0.999"):
        assert rule not in text  # no rule is written again


def test_the_same_command_goes_on_with_what_is_kept(workdir):
    before = (workdir / "explorer.html").read_text(encoding="utf-8")
    part = workdir / "parts" / "ravine.json"
    kept, seen = part.read_text(encoding="utf-8"), part.stat().st_mtime_ns
    (workdir / "parts" / "saddle.json").unlink()
    explorer.main(make_config(), workdir, None)
    assert part.read_text(encoding="utf-8") == kept and part.stat().st_mtime_ns == seen
    assert (workdir / "explorer.html").read_text(encoding="utf-8") == before


def test_the_config_is_the_programs_default():
    config = check_fields(get_config(), explorer.DEFAULTS)
    assert explorer.CONFIG.is_file() and 5 == len(config.surfaces)
    assert len({name for name, _ in config.rules}) <= 6  # lines in a panel


def test_the_program_runs_without_a_config_flag(tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "experiments.explorer", f"--workdir={tmp_path / 'file'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1  # of the work directory: the config was found
    assert done.stderr.startswith("error: ") and "is a file, not a directory" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(surfaces=()), "must each name at least one"),
        (dict(surfaces=("hill",)), "unknown surface 'hill'"),
        (dict(rules=(("adamm", RATES),)), "unknown rule 'adamm'"),
        (dict(start_side=0), "start_side must be a whole number"),
    ],
)
def test_bad_configs_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        explorer.main(make_config(**settings), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()


# ---- in a browser ----

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """Chromium, by Playwright: the system's, or the one that `playwright install` fetched."""
    try:
        api = importlib.import_module("playwright.sync_api")
    except ImportError:
        pytest.skip("no playwright: pip install '.[browser]'")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as playwright:
        found = found or playwright.chromium.executable_path
        if not os.path.exists(found):
            pytest.skip("no Chromium: install the package chromium, or run playwright install")
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, workdir):
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    errors = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((workdir / "explorer.html").as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    assert errors == []
    page.close()


def drawn(page, rule):
    """The way of a rule as it is drawn on the map, in the surface's coordinates."""
    text = page.get_attribute(f"#ways polyline[data-rule={rule}]", "points")
    u, v = np.array([pair.split(",") for pair in text.split()], float).T
    (x0, x1), (y0, y1) = Surface(page.input_value("#surface")).window
    return np.stack([x0 + (x1 - x0) * u / 1000, y1 - (y1 - y0) * v / 1000], axis=1)


@pytest.mark.parametrize("surface", ["ravine", "saddle"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_ways_shown_are_the_librarys(page, surface, rule):
    page.select_option("#surface", surface)
    page.wait_for_function(f"state.surface === '{surface}' && surfaces.{surface}")
    for n, rate in enumerate(RATES):
        page.select_option(f"select[data-rate={rule}]", str(n))
        page.keyboard.press("Escape")
        page.fill("#time", str(T))
        task, made = Surface(surface), getattr(update_rules, rule)(rate)
        points, losses = evaluation.trajectory(
            made, made.init(jax.random.key(0)), task, jax.random.key(0), num_steps=T
        )
        shown, points = drawn(page, rule), np.asarray(points)
        assert len(shown) == T + 1 or len(shown) < T + 1 and np.abs(points[len(shown)]).max() > 4
        np.testing.assert_allclose(shown, points[: len(shown)], atol=3e-4)
        found = np.array(page.evaluate(f"wayOf('{rule}').loss"))
        np.testing.assert_allclose(found, losses, rtol=5e-3, atol=1e-6)
    if rule == "adam":
        memory = page.evaluate("wayOf('adam').memory")
        second = np.array(memory["second moment"])[:, -1]
        g = np.asarray(jax.vmap(jax.grad(lambda p: task.value(p[0], p[1])))(points))[:T]
        v = np.sum(0.001 * 0.999 ** np.arange(T)[::-1, None] * g**2, axis=0)
        np.testing.assert_allclose(second, v, rtol=0.02)


def test_rates_are_at_first_the_best_of_their_list(page):
    ends = []
    for rate in RATES:
        made = update_rules.adam(rate)
        theta = made.init(jax.random.key(0))
        ends.append(
            evaluation.trajectory(made, theta, Surface("ravine"), jax.random.key(0), num_steps=T)[
                1
            ][-1]
        )
    assert page.input_value("select[data-rate=adam]") == str(np.argmin(ends))
    assert page.evaluate("data.surfaces.ravine.starts[state.start]") == pytest.approx([-2.5, -1.5])


def test_every_control_does_what_it_says(page):
    now = lambda: page.inner_text("#now")  # noqa: E731
    lines = lambda: page.locator("#ways polyline.way").count()  # noqa: E731
    assert now() == f"{T} / {T}" and lines() == 2
    page.click("#back")
    assert now() == f"{T - 1} / {T}" and len(drawn(page, "sgd")) == T
    page.click("#next")
    page.fill("#time", "5")
    assert now() == f"5 / {T}" and len(drawn(page, "sgd")) == 6
    page.click("#play")
    assert page.inner_text("#play") == "Pause"
    page.wait_for_function("state.step === 20 && !state.playing")
    assert page.inner_text("#play") == "Play"
    page.uncheck("#rules input[data-rule=sgd]")
    assert lines() == 1 and page.locator("#loss [data-line=sgd]").count() == 0
    page.check("#rules input[data-rule=sgd]")
    assert lines() == 2 and page.locator("#loss [data-line=sgd]").count() == 1
    before = drawn(page, "sgd")[0]
    other = page.locator("#ways circle.start:not(.chosen)").first
    wanted = json.loads(page.evaluate("JSON.stringify(data.surfaces.ravine.starts)"))
    index = int(other.get_attribute("data-start"))
    other.click()
    np.testing.assert_allclose(drawn(page, "sgd")[0], wanted[index], atol=3e-4)
    assert not np.allclose(drawn(page, "sgd")[0], before)
    assert page.input_value("#start") == str(index)
    page.select_option("#start", "3")
    np.testing.assert_allclose(drawn(page, "adam")[0], wanted[3], atol=3e-4)
    assert page.locator("#memory path.curve").count() == 4  # velocity and second moment, x and y
    page.select_option("#inner", "sgd")
    assert "remembers nothing" in page.inner_text("#inner-hint")
    assert page.locator("#memory path.curve").count() == 0


def test_the_keyboard_alone_is_enough(page):
    page.keyboard.press("Home")
    assert page.inner_text("#now") == f"0 / {T}"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#now") == f"1 / {T}"
    page.keyboard.press("Space")
    page.wait_for_function("state.step > 3")
    page.keyboard.press("Space")
    assert page.inner_text("#play") == "Play"
    page.keyboard.press("Tab")  # the first control: the chosen tab
    assert page.evaluate("document.activeElement.id") == "tab-surfaces"
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#training") and not page.is_visible("#surfaces")
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.dataset.rule")
        )
    assert {"adam", "sgd", "play", "time", "back", "next"} <= reached


def test_the_training_shown_is_the_librarys(page):
    page.click("#tab-training")
    page.fill("#time", str(TRAINING))
    assert page.inner_text("#now") == f"{TRAINING} / {TRAINING}"
    rule, task = update_rules.adam(0.01), make_task({"name": "image_classifier"})
    params, losses = evaluation.trajectory(
        rule, rule.init(jax.random.key(0)), task, jax.random.key(0), num_steps=TRAINING
    )
    np.testing.assert_allclose(page.evaluate("runs.adam.losses"), losses, rtol=5e-3)
    flat = np.concatenate(
        [np.asarray(p).reshape(TRAINING + 1, -1) for p in jax.tree.leaves(params)], 1
    )
    share = step_counts(np.diff(flat, axis=0), np.linspace(-7, 0, 43))
    counts = np.array(page.evaluate("Array.from(runs.adam.counts)")).reshape(TRAINING, 42)
    np.testing.assert_allclose(counts / 255 * share.max(), share, atol=0.01)
    assert page.inner_text("#weights") == f"{flat.shape[1]:,}"
    assert page.locator("#histograms .histogram").count() == 2
    page.uncheck("#training-rules input[data-rule=sgd]")
    assert page.locator("#histograms .histogram").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_a_desk_in_the_light_and_in_the_dark(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 740})
    page.emulate_media(color_scheme=scheme)
    for tab in ("surfaces", "training"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for button in page.locator("button:visible, select:visible").all():
            shape = button.bounding_box()
            assert shape["height"] >= 24 and shape["x"] + shape["width"] <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light, dark = sorted((_luminance(ink), _luminance(paper)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 7  # WCAG AAA
    assert (_luminance(paper) > 0.5) == (scheme == "light")


def _luminance(color):
    values = [int(v) / 255 for v in re.findall(r"\d+", color)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else math.pow((v + 0.055) / 1.055, 2.4) for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_pages_files_travel_in_the_wheel():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"learned_opt.figures" = ["explorer_page/*"]' in text
