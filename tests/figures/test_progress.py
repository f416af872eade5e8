import numpy as np
from PIL import Image

from learned_opt.figures import progress
from learned_opt.figures.style import styles_of

RNG = np.random.default_rng(0)


def make_progress(scale, seconds):
    losses = scale * np.exp(-np.arange(101) / 50) * (1 + RNG.random((8, 101)))
    steps = np.array([0, 50, 100])
    test = {"loss": (steps, losses[:, steps].mean(0), losses[:, steps].std(0))}
    return progress.Progress(losses, seconds, test)


def test_losses_are_averaged_over_windows_and_then_over_runs():
    losses = RNG.random((5, 201))
    steps, mean, error = progress._smoothed(losses)
    windows = np.array([losses[:, n : n + 4].mean(axis=1) for n in range(198)])
    np.testing.assert_allclose(steps, np.arange(198) + 1.5)
    np.testing.assert_allclose(mean, windows.mean(axis=1))
    np.testing.assert_allclose(error, windows.std(axis=1, ddof=1) / 5**0.5)


def test_rows_are_metrics_and_columns_units(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(progress, "save", lambda figure, *a, **k: figures.append(figure))
    rules = {"Adam": make_progress(1.0, 0.01), "lstm_cifar10": make_progress(0.5, 0.02)}
    progress.progress_curves(rules, tmp_path / "progress.png", title="two rules")
    axes = figures[0].axes
    rows = ["training loss"] * 2 + ["test loss"] * 2
    assert [a.get_ylabel() for a in axes] == [*rows, "training loss, less Adam's"]
    assert [a.get_xlabel() for a in axes] == [*["updates", "seconds"] * 2, "updates"]
    left, right = ({line.get_label(): line for line in a.get_lines()} for a in axes[2:4])
    for label, runs in rules.items():
        steps, means, _ = runs.test["loss"]
        np.testing.assert_allclose(left[label].get_xydata(), np.stack([steps, means], 1))
        np.testing.assert_allclose(right[label].get_xdata(), steps * runs.seconds)
        assert left[label].get_color() == styles_of(["Adam", "lstm_cifar10"])[label][0]


def test_the_last_panel_has_the_differences_from_adam_run_by_run(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(progress, "save", lambda figure, *a, **k: figures.append(figure))
    adam, other = make_progress(1.0, 0.01), make_progress(0.5, 0.02)
    progress.progress_curves({"sgd": other, "adam": adam}, tmp_path / "p.png", title="")
    drawn = {line.get_label(): line.get_xydata() for line in figures[0].axes[-1].get_lines()}
    differences = other.losses - adam.losses
    expected = [differences[:, n : n + 5].mean() for n in range(97)]
    np.testing.assert_allclose(drawn["sgd"][:, 1], expected, rtol=1e-6)
    assert (drawn["adam"][:, 1] == 0).all()
    low, high = figures[0].axes[-1].get_ylim()
    assert low == -high and low < min(expected[5:]) < 0
    progress.progress_curves({"sgd": other, "muon": adam}, tmp_path / "p.png", title="")
    assert len(figures[1].axes) == 4


def test_diverged_runs_do_not_stop_the_figure(tmp_path):
    good = make_progress(1.0, 0.01)
    bad = good._replace(losses=good.losses * np.nan)
    progress.progress_curves({"adam": good, "sgd": bad}, tmp_path / "p.png", title="")
    with Image.open(tmp_path / "p.png") as image:
        assert len(np.unique(np.asarray(image))) > 10
