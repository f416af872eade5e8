"""Training and test curves of rules, against updates and against seconds."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from learned_opt.figures.curves import mean_and_error
from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import base, line_weight, log_axis, make_panels, save, styles_of


class Progress(NamedTuple):
    """The runs of one rule.

    Attributes:
      losses: minibatch losses of params_0 … params_T, `[runs, T + 1]`.
      seconds: what an update takes, its gradient included.
      test: metric -> (numbers of updates, means over runs, standard errors of them), each `[n]`.
    """

    losses: np.ndarray
    seconds: float
    test: Mapping[str, tuple[np.ndarray, ...]]


def progress_curves(rules: Mapping[str, Progress], path: str | os.PathLike, *, title: str) -> None:
    """Draws the training loss and every test metric, a row each: left by updates, right by seconds.

    Bands are one standard error about the mean over runs. Minibatch losses are averaged over
    windows of a fiftieth of the run, which leaves the trend and makes the bands visible. With Adam
    among the rules a last panel has their training losses less Adam's, run by run, over windows of
    a twentieth: curves that lie close to each other are told apart there.

    Args:
      rules: label -> its runs; all of them have the same test metrics, and run n of each has the
        same start and minibatches.
      path: the figure's file.
      title: of the figure.
    """
    metrics = list(next(iter(rules.values())).test)
    reference = next((label for label in rules if base(label) == "adam"), None)
    if len(rules) == 1:
        reference = None
    number = 2 * (1 + len(metrics)) + (reference is not None)
    figure, axes = make_panels(number, xlabel="", ylabel="", columns=2)
    styles = styles_of(rules)
    for row, name in enumerate(["training loss", *metrics]):
        lows, highs = [], []
        for label, runs in rules.items():
            steps, mean, error = _smoothed(runs.losses) if row == 0 else runs.test[name]
            for axis, unit in zip(axes[2 * row : 2 * row + 2], (1.0, runs.seconds), strict=True):
                _draw(axis, steps * unit, mean, error, label, styles[label])
            lows.append(np.min(mean - error))
            highs.append(mean[0])
        written = name if row == 0 else f"test {name}"
        for axis, xlabel in zip(axes[2 * row : 2 * row + 2], ("updates", "seconds"), strict=True):
            if name.endswith("loss"):
                log_axis(axis, lows, highs, above=1.1)
            axis.set_xlim(left=0)
            axis.set_xlabel(xlabel)
            axis.set_ylabel(written)
    if reference is not None:
        _draw_differences(axes[-1], rules, reference, styles)
    figure.suptitle(title, fontsize=11)
    label_lines(figure, axes)
    save(figure, path, few_colors=True)


def _draw_differences(axis: Any, rules: Mapping[str, Progress], reference: str, styles) -> None:
    compared = rules[reference].losses
    spans = []
    for label, runs in rules.items():
        with np.errstate(invalid="ignore"):  # diverged runs are not drawn
            differences = runs.losses - compared
        steps, mean, error = _smoothed(differences, 20)  # of noise there is more in these
        _draw(axis, steps, mean, error, label, styles[label])
        spans.append(np.abs(mean[len(mean) // 20 :]))  # the first updates are off the scale
    spans = [span for span in spans if np.isfinite(span).all()]
    limit = 1.1 * max((span.max() for span in spans), default=0.0)
    if limit > 0:
        axis.set_ylim(-limit, limit)
    axis.set_xlim(left=0)
    axis.set_xlabel("updates")
    axis.set_ylabel(f"training loss, less {reference}'s")


def _draw(axis: Any, x, mean, error, label: str, style: tuple[str, Any]) -> None:
    color, dashes = style
    axis.fill_between(x, mean - error, mean + error, color=color, alpha=0.25, linewidth=0)
    axis.plot(x, mean, color=color, linestyle=dashes, label=label, **line_weight(label))


def _smoothed(losses: np.ndarray, parts: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres of windows, mean losses in them and their standard errors over runs."""
    losses = np.asarray(losses, np.float64)
    length = losses.shape[1]
    window = max(1, length // parts)
    with np.errstate(over="ignore", invalid="ignore"):  # diverged runs are not drawn
        sums = np.cumsum(np.pad(losses, ((0, 0), (1, 0))), axis=1)
        means = (sums[:, window:] - sums[:, :-window]) / window
    return np.arange(length - window + 1) + (window - 1) / 2, *mean_and_error(means)
