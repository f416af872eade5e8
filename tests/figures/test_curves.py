import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from learned_opt.figures import curves, style

RNG = np.random.default_rng(0)
LOSSES = np.exp(-np.arange(11) / 5) * (1 + RNG.random((8, 11)))


def size(path):
    """The size of the picture, which must not be blank."""
    with Image.open(path) as image:
        assert len(np.unique(np.asarray(image))) > 10
        return image.size


@pytest.mark.parametrize("band", ["standard_error", "quantiles"])
def test_loss_curves(tmp_path, band):
    lines = {"adam": LOSSES, "lstm": LOSSES / 2, "diverged": LOSSES * np.nan}
    curves.loss_curves({"one": lines}, tmp_path / "one.png", band=band, marks=(5,))
    curves.loss_curves({str(n): lines for n in range(5)}, tmp_path / "five.png")
    assert size(tmp_path / "five.png") > size(tmp_path / "one.png")


def test_loss_curves_refuse_an_unknown_band(tmp_path):
    with pytest.raises(ValueError, match="unknown band 'box'"):
        curves.loss_curves({"one": {"adam": LOSSES}}, tmp_path / "one.png", band="box")


def test_summaries():
    middle, low, high = curves._summary(LOSSES, "standard_error")
    np.testing.assert_allclose(middle, LOSSES.mean(axis=0))
    np.testing.assert_allclose(high - middle, LOSSES.std(axis=0, ddof=1) / 8**0.5)
    np.testing.assert_allclose(middle - low, high - middle)
    middle, low, high = curves._summary(LOSSES, "quantiles")
    np.testing.assert_allclose(middle, np.median(LOSSES, axis=0))
    assert (low < middle).all() and (middle < high).all()


def test_a_rule_looks_the_same_in_every_figure():
    first = style.styles_of(["lstm", "adam", "sgd"])
    second = style.styles_of(["sgd", "mine", "adam (tuned for 100)", "adam (tuned for 200)"])
    assert first["adam"] == second["adam (tuned for 100)"]
    assert first["sgd"] == second["sgd"]
    assert second["adam (tuned for 200)"][0] == first["adam"][0]
    written = style.styles_of(["Adam (Choi et al.)", "SGD", "Momentum"])
    assert written["Adam (Choi et al.)"] == first["adam"] and written["SGD"] == first["sgd"]
    assert written["Momentum"] == style.KNOWN_STYLES["momentum"]
    many = style.styles_of([*style.KNOWN_STYLES, *(f"rule_{n}" for n in range(12))])
    assert len(set(many.values())) == len(many)


def test_tuning_curves(tmp_path):
    grid = 10.0 ** np.arange(-3, 1)
    lines = {
        "sgd": (grid, np.array([3.0, 1.0, 2.0, np.inf])),
        "hopeless": (grid, np.full(4, np.inf)),
    }
    curves.tuning_curves(lines, tmp_path / "tuning.png", title="a search")
    assert size(tmp_path / "tuning.png")


def test_width_sweep(tmp_path):
    widths = np.array([5, 10, 20])
    lines = {name: (widths, 3 / widths, 0.1 / widths) for name in ("adam", "lstm")}
    curves.width_sweep({"one layer": lines, "two layers": lines}, tmp_path / "widths.png")
    assert size(tmp_path / "widths.png")


def test_no_error_bar_of_a_width_sweep_hides_another(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, *a, **k: figures.append(figure))
    widths = np.array([5, 10, 20])
    low = {name: (widths, 3 / widths, 0.1 / widths) for name in ("adam", "sgd", "general")}
    high = {name: (widths, 9 / widths, 0.1 / widths) for name in ("adam", "sgd", "general")}
    curves.width_sweep({"low": low, "high": high}, tmp_path / "widths.png")
    for axis in figures[0].axes:
        places = [c.lines[0].get_xdata() for c in axis.containers]
        assert len(np.unique(np.concatenate(places))) == 9
        assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] >= 1.82  # all of both panels


def test_inclusions_say_what_their_sign_means(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, *a, **k: figures.append(figure))
    errors = {"momentum ⊆ adam": (np.array([1e2, 1e4]), np.array([1e-2, 1e-4]))}
    curves.inclusions(errors, {"Momentum": np.ones(5)}, tmp_path / "inclusion.png")
    assert "A ⊆ B: B includes A as a special case" in figures[0].get_supxlabel()


def test_more_than_six_lines_are_drawn_in_several_panels(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, *a, **k: figures.append(figure))
    lines = dict.fromkeys(style.STYLES, LOSSES)
    curves.loss_curves({"one": lines, "two": {"adam": LOSSES}}, tmp_path / "curves.png")
    drawn = [[text.get_text() for text in axis.texts] for axis in figures[0].axes]
    assert all(0 < len(labels) <= 6 for labels in drawn)
    assert set().union(*drawn) == set(lines)


@pytest.mark.parametrize("scores", [[], [2.0, 1.0, 3.0], [np.nan, np.inf]])
def test_meta_training(tmp_path, scores):
    records = [{"step": n, "meta_loss": 1 / (n + 1)} for n in range(0, 30, 10)]
    records += [{"step": 10 * n, "validation_score": score} for n, score in enumerate(scores)]
    curves.meta_training(records, tmp_path / "meta.png")
    assert size(tmp_path / "meta.png")


def test_matplotlib_is_imported_late():
    program = "import sys, learned_opt.figures.curves; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
