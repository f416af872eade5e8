"""The two programs of style transfer, on pictures of 8 × 8."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experiments import style_board, style_transfer
from experiments.common import style_runs
from experiments.common.style_runs import Runs
from learned_opt.tasks import StyleTransfer, pictures
from learned_opt.tasks.style_transfer import as_picture
from learned_opt.update_rules import adam

ROOT = Path(__file__).parents[2]
FLAGS = {
    "content": "china", "style": "scream", "size": 8, "rule": "adam", "learning_rate": None,
    "steps": 3, "save_every": 0, "style_weight": 10.0, "variation_weight": 2.0,
}  # fmt: skip


def flags(output, **changes):
    return SimpleNamespace(output=str(output), **FLAGS | changes)


def loop(content, style, rate, num_steps):
    """Adam in a Python loop: the pictures and losses after 0 … num_steps updates."""
    task = StyleTransfer.from_arrays(content[None], style[None])
    instance, tx = task.instance(0), optax.adam(rate)
    params, state = instance["start"], tx.init(instance["start"])
    value_and_grad = jax.jit(jax.value_and_grad(lambda p: task.loss(p, instance, None)))
    made, losses = [], []
    for _ in range(num_steps + 1):
        loss, grad = value_and_grad(params)
        made.append(as_picture(params))
        losses.append(float(loss))
        updates, state = tx.update(grad, state)
        params = optax.apply_updates(params, updates)
    return made, losses


def test_a_picture_is_painted(tmp_path, capsys):
    Image.new("L", (20, 20), 90).save(tmp_path / "grey.png")
    changes = {"content": str(tmp_path / "grey.png"), "learning_rate": 0.1}
    values = flags(tmp_path / "out.png", **changes, save_every=2, steps=4)
    with pytest.warns(UserWarning, match="grey.png is grey"):
        style_transfer.make_picture(values)
    made, losses = loop(
        np.full((8, 8, 3), 90, np.uint8), pictures.styles("scream", None, 8)[0], 0.1, 4
    )
    names = {path.name for path in tmp_path.glob("out*")}
    assert names == {"out.png", "out_0002.png", "out_0004.png"}
    for name, expected in [("out", made[4]), ("out_0002", made[2]), ("out_0004", made[4])]:
        found = np.asarray(Image.open(tmp_path / f"{name}.png"), np.int32)
        assert np.abs(found - expected).max() <= 1  # of 255: rounding
    shown = capsys.readouterr().out
    assert f"loss {losses[0]:.3f} at first, {losses[4]:.3f} after 4 updates" in shown


def test_rates_go_with_the_number_of_pixels(tmp_path, monkeypatch):
    thetas: list[dict] = []
    monkeypatch.setattr(
        style_transfer,
        "paint",
        lambda task, rule, theta, *a, **k: (thetas.append(theta), (1, 1))[1],
    )
    for rule, size in [("adam", 64), ("adam", 32), ("momentum", 64), ("momentum", 32)]:
        style_transfer.make_picture(flags(tmp_path / "out.png", rule=rule, size=size))
    rates = [float(theta["learning_rate"]) for theta in thetas]
    assert rates[0] == rates[1] and rates[2] == 4 * rates[3]


def test_a_learned_rule_paints(tmp_path):
    style_transfer.make_picture(flags(tmp_path / "out.webp", rule="lstm_mnist@0.1", steps=1))
    with Image.open(tmp_path / "out.webp") as picture:
        assert picture.size == (8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 10}, "size must be a multiple of 4, .*got 10: take 8 or 12"),
        ({"content": "none.jpg"}, "there is no picture none.jpg"),
        ({"content": __file__}, "test_style_transfer.py is no picture that can be read"),
        ({"style": "cry"}, "unknown style 'cry'; known: church_at_auvers"),
        ({"rule": "adamm"}, "unknown rule 'adamm'"),
        ({"rule": "lstm_mnist", "learning_rate": 1.0}, "--rule=lstm_mnist@FACTOR"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"style_weight": float("nan")}, "style_weight must be finite"),
        ({"output": "out.txt"}, "--output must end as a picture does"),
        ({"output": "nowhere/out.png"}, "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    values = SimpleNamespace(**FLAGS | {"output": "out.png"} | changes)
    with pytest.raises((ValueError, OSError), match=message):
        style_transfer.make_picture(values)
    assert not list(tmp_path.iterdir())


def test_divergence_is_said(tmp_path):
    values = flags(tmp_path / "out.png", rule="sgd", learning_rate=1e30, steps=4)
    with pytest.raises(FloatingPointError, match="the loss is .* take a smaller --learning_rate"):
        style_transfer.make_picture(values)


def test_from_the_command_line(tmp_path):
    Image.new("L", (20, 20), 90).save(tmp_path / "grey.png")
    command = [sys.executable, "-m", "experiments.style_transfer", "--size=8", "--steps=1"]
    command += [f"--output={tmp_path / 'out.png'}"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = [
        subprocess.run([*command, more], cwd=ROOT, env=env, capture_output=True, text=True)
        for more in (f"--content={tmp_path / 'grey.png'}", "--content=none.jpg")
    ]
    assert [run.returncode for run in done] == [0, 1]
    assert f"note: {tmp_path / 'grey.png'} is grey" in done[0].stderr
    assert done[1].stderr.splitlines()[-1] == "error: there is no picture none.jpg"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(style_board, "device_mesh", lambda: None)


@pytest.fixture
def content_dir(tmp_path):
    """Three test contents and two of valid."""
    rng = np.random.default_rng(0)
    for split, number in (("test", 3), ("valid", 2)):
        (tmp_path / "content" / split).mkdir(parents=True)
        for n in range(number):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "content" / split / f"{n}.png")
    return tmp_path / "content"


def board(content_dir, **changes):
    return ConfigDict(
        {
            "task": {
                "name": "style_transfer",
                "style": ("scream", "minotaur"),
                "size": 8,
                "content_dir": str(content_dir),
            },
            "rules": ("adam", "lstm_mnist@0.1"),
            "rates": {"adam": (0.1, 0.1), "lbfgs": (0.01, 0.01)},
            "num_seeds": 3,
            "num_steps": 3,
            "report_steps": (2, 3),
            "shown": (2, 0),
            "tuning": {"num_steps": (3,), "num_seeds": 1, "split": "", "max_extensions": 0},
        }
        | changes
    )  # fmt: skip


def test_a_board(content_dir, tmp_path, capsys, monkeypatch):
    workdir = tmp_path / "run"
    style_board.main(board(content_dir), workdir, None)
    for name in ("losses", "tuning", "pictures"):
        assert (workdir / f"{name}.png").stat().st_size > 0
    rows = {row["label"]: row for row in json.loads((workdir / "results.json").read_text())}
    assert rows["adam"]["tuning"]["learning_rate"] == pytest.approx(0.1)
    assert rows["adam"]["gradients"] == rows["lstm_mnist@0.1"]["gradients"] == 3
    assert "tuning" not in rows["lstm_mnist@0.1"]
    with np.load(workdir / "rules" / "adam.npz") as file:
        runs = Runs(**{name: file[name] for name in Runs._fields})
    for n in range(3):  # content n has the style n modulo two
        content = np.asarray(Image.open(content_dir / "test" / f"{n}.png"))
        style = pictures.styles(("scream", "minotaur"), None, 8)[n % 2]
        made, losses = loop(content, style, 0.1, 3)
        np.testing.assert_allclose(runs.losses[n], losses, rtol=1e-3)
        if n != 1:
            difference = runs.pictures[n // 2].astype(int) - np.stack(made[2:])
            assert np.abs(difference).max() <= 1
    assert len(runs.pictures) == 2
    mean = runs.losses[:, 3].mean()
    assert rows["adam"]["loss"]["3"]["mean"] == pytest.approx(mean, rel=1e-5)
    shown = capsys.readouterr().out
    assert "scream, minotaur, 8 × 8: mean loss over 3 contents" in shown
    assert "by gradients" not in shown and "above Adam at 3" in shown

    # The same command takes what is finished, and goes on where a rule was cut short.
    calls, run_chunk = [], style_runs._run_chunk
    monkeypatch.setattr(
        style_runs, "_run_chunk", lambda *a, **k: (calls.append(a), run_chunk(*a, **k))[1]
    )
    before = (workdir / "results.json").read_text()
    (workdir / "rules" / "lstm_mnist@0.1.npz").write_bytes(b"cut")
    style_board.main(board(content_dir), workdir, None)
    assert len(calls) == 3
    assert (workdir / "results.json").read_text() == before


def test_runs_go_on_where_they_stopped(content_dir, tmp_path):
    task = style_board._task(board(content_dir), "test", None)
    rule = adam(0.1)
    theta = rule.init(jax.random.key(0))
    settings = dict(num_steps=2, marks=(1,), shown=(0, 1, 2), identity="a")
    run = lambda number, file, **changes: style_runs.run_contents(  # noqa: E731
        rule, theta, task, num_contents=number, file=tmp_path / file, **settings | changes
    )
    progress: list[int] = []
    whole = run(3, "whole.npz")
    run(1, "parts.npz")
    parts = run(3, "parts.npz", progress=progress.append)
    assert progress == [2, 3]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
    run(1, "parts.npz", identity="b", progress=progress.append)  # of another θ: afresh
    assert progress == [2, 3, 1]


def test_contents_are_spread_over_devices(content_dir, tmp_path):
    task = style_board._task(board(content_dir), "test", None)
    rule = adam(0.1)
    settings = dict(num_contents=3, num_steps=1, marks=(1,), shown=(0, 1, 2), identity="a")
    args = rule, rule.init(jax.random.key(0)), task
    mesh = jax.make_mesh((2,), ("runs",), devices=jax.devices()[:2])
    alone = style_runs.run_contents(*args, file=tmp_path / "alone.npz", **settings)
    spread = style_runs.run_contents(*args, file=tmp_path / "spread.npz", mesh=mesh, **settings)
    np.testing.assert_allclose(spread.losses, alone.losses, rtol=1e-6)
    assert spread.pictures.shape == (3, 1, 8, 8, 3)


def test_losses_by_gradients():
    losses = jnp.array([[9.0, 5.0, 3.0, 2.0], [8.0, 6.0, 4.0, 1.0]])
    runs = Runs(np.asarray(losses), np.array([[0, 1, 3, 4], [0, 2, 3, 7]]), np.zeros(0))
    np.testing.assert_array_equal(runs.at_gradients(3), [3.0, 4.0])
    np.testing.assert_array_equal(runs.at_gradients(1), [5.0, 8.0])


@pytest.mark.slow
def test_a_line_search_is_also_judged_by_its_gradients(content_dir, tmp_path, capsys):
    changes = {"rules": ("adam", "lbfgs"), "num_seeds": 1, "num_steps": 6, "report_steps": (6,)}
    changes["shown"] = (0,)
    style_board.main(board(content_dir, **changes), tmp_path / "run", None)
    adam_row, lbfgs_row = json.loads((tmp_path / "run" / "results.json").read_text())
    assert adam_row["gradients"] == 6 < lbfgs_row["gradients"]
    losses = np.load(tmp_path / "run" / "rules" / "lbfgs.npz")["losses"][0]
    assert losses[6] == pytest.approx(lbfgs_row["loss"]["6"]["mean"]) and losses[6] < losses[0]
    assert "L-BFGS, by gradients" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_seeds": 4}, "num_seeds is 4, but there are 3 test contents"),
        ({"task": {"name": "quadratic"}}, "of the task 'style_transfer', got 'quadratic'"),
        ({"report_steps": (9,)}, "report step 9 is not in 0"),
        ({"shown": (0, 3)}, r"shown must name contents, 0 … 2: \(0, 3\)"),
    ],
)
def test_bad_boards_are_refused(content_dir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        style_board.main(board(content_dir, **changes), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
