"""Figures, as PNG files.

Matplotlib is imported when a figure is made, and never its state machine: nothing here opens a
window or changes a setting of the caller's.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures.labels import label_lines, split_panels
from learned_opt.figures.style import (
    COLORS,
    LAST_STYLE,
    STYLES,
    all_labels,
    base,
    line_weight,
    log_axis,
    make_panels,
    save,
    styles_of,
)

Band = Literal["standard_error", "quantiles"]


def loss_curves(
    panels: Mapping[str, Mapping[str, ArrayLike]],
    path: str | os.PathLike,
    *,
    band: Band = "standard_error",
    ylabel: str = "loss",
    marks: Sequence[int] = (),
) -> None:
    """Draws losses against the number of updates, on a log scale, one panel a problem.

    A panel of more than six lines becomes several, hand-designed rules and learned ones, with Adam
    in each.

    Args:
      panels: title -> label -> losses `[num_seeds, num_steps + 1]`.
      path: the PNG file.
      band: 'standard_error' draws the mean and one standard error about it, 'quantiles' the median
        and the 5th to 95th percentile.
      ylabel: what the losses are.
      marks: numbers of updates to mark by a vertical line.
    """
    styles = styles_of(all_labels(panels))
    panels = split_panels(panels)
    figure, axes = make_panels(len(panels), ylabel=ylabel, xlabel="updates")
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        starts, lows = [], []
        for label, losses in curves.items():
            middle, low, high = _summary(np.asarray(losses, np.float64), band)
            steps = np.arange(len(middle))
            color, dashes = styles[label]
            axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
            axis.plot(
                steps, middle, color=color, linestyle=dashes, label=label, **line_weight(label)
            )
            starts.append(middle[0])
            lows.append(np.min(middle, where=middle > 0, initial=middle[0]))
        for mark in marks:
            axis.axvline(mark, color="0.6", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        log_axis(axis, lows, starts, above=1.4)
        axis.set_xlim(0, len(middle) - 1)
        axis.set_title(title, fontsize=10)
    label_lines(figure, axes)
    save(figure, path)


def tuning_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    path: str | os.PathLike,
    *,
    title: str = "",
    xlabel: str = "learning rate",
    ylabel: str = "mean final loss",
) -> None:
    """Draws the scores of a search against the hyperparameter, a dot on the best.

    Args:
      curves: label -> (values, scores), as `Tuned.grid` and `Tuned.scores`; what diverged is left
        out.
      path: the PNG file.
      title: of the figure.
      xlabel: the hyperparameter.
      ylabel: the score.
    """
    styles = styles_of(curves)
    panels = split_panels({title: curves})
    figure, axes = make_panels(len(panels), ylabel=ylabel, xlabel=xlabel, sharey=True)
    bests = []
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for label, (values, scores) in lines.items():
            values, scores = np.asarray(values), np.asarray(scores, np.float64)
            kept = np.isfinite(scores) & (scores > 0)
            color, dashes = styles[label]
            shown = np.where(kept, scores, np.nan)
            axis.plot(values, shown, color=color, linestyle=dashes, label=label)
            if kept.any():
                best = np.nanargmin(shown)
                axis.plot(values[best], scores[best], "o", color=color)
                bests.append(scores[best])
        axis.set_xscale("log")
        axis.set_title(name, fontsize=10)
    for axis in axes:
        log_axis(axis, bests, bests, above=10.0)
    label_lines(figure, axes)
    save(figure, path)


def width_sweep(
    panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]],
    path: str | os.PathLike,
    *,
    ylabel: str = "final loss",
) -> None:
    """Draws final losses against the number of hidden units (figure 6 of the paper).

    Args:
      panels: title -> label -> (widths, mean losses, their standard errors), each `[num_widths]`.
      path: the PNG file.
      ylabel: what the losses are.
    """
    styles = styles_of(all_labels(panels))
    panels = split_panels(panels)
    figure, axes = make_panels(len(panels), ylabel=ylabel, xlabel="hidden units", sharey=True)
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        for n, (label, (widths, means, errors)) in enumerate(curves.items()):
            color, dashes = styles[label]
            widths = np.asarray(widths, np.float64)
            step = np.diff(widths).min() if len(widths) > 1 else 0.0
            axis.errorbar(
                widths + 0.1 * step * (n - (len(curves) - 1) / 2),  # no bar hides another
                means,
                errors,
                color=color,
                linestyle=dashes,
                marker="o",
                markersize=3.5,
                label=label,
                **line_weight(label),
            )
        axis.set_title(title, fontsize=10)
    axes[0].set_ylim(bottom=0)  # of all, when all is drawn
    label_lines(figure, axes)
    save(figure, path)


def inclusions(
    errors: Mapping[str, tuple[ArrayLike, ArrayLike]],
    responses: Mapping[str, ArrayLike],
    path: str | os.PathLike,
    *,
    task: str = "",
) -> None:
    """Draws how fast specialized rules approach what they include, and a pair that does not.

    Args:
      errors: panel's label 'M ⊆ N' -> (ε `[n]`, errors `[n]`); zeros, exact inclusions, are left
        out.
      responses: label -> what a parameter loses after a single gradient `[T]`.
      path: the PNG file.
      task: what the errors were measured on.
    """
    figure, (left, right) = make_panels(2, xlabel="", ylabel="", columns=2)
    figure.set_size_inches(9.6, 4.0)
    for n, (label, (eps, values)) in enumerate(errors.items()):
        values = np.asarray(values, np.float64)
        # Lines of the same slope lie on each other: markers of their own keep them apart.
        left.plot(
            np.asarray(eps)[values > 0],
            values[values > 0],
            color=COLORS[n % len(COLORS)],
            marker="os^Dv"[n % 5],
            markersize=9 - 2.5 * n if n < 3 else 3,
            markerfacecolor="none",
            label=label,
        )
    left.set(xscale="log", yscale="log", xlabel="ε of B")
    left.set_ylabel("difference of B from A / parameters")
    left.set_title("largest difference" + (f" on {task}" if task else ""), fontsize=10)
    for (label, values), marker in zip(responses.items(), itertools.cycle("os^D"), strict=False):
        color, dashes = STYLES.get(base(label), LAST_STYLE)
        right.plot(values, color=color, linestyle=dashes, marker=marker, markersize=4, label=label)
    right.set_xlabel("updates since the gradient")
    right.set_ylabel("step, in parameter units")
    right.set_title("response to one gradient of 1", fontsize=10)
    right.set_ylim(bottom=0)
    figure.supxlabel(
        "A ⊆ B: B includes A as a special case. Left: the larger ε, the nearer B comes to A.\n"
        "Right: of all momenta the one that is nearest to Nesterov is another rule.",
        fontsize=9,
    )
    label_lines(figure, [left, right])
    save(figure, path)


def meta_training(records: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Draws a meta-training's meta-loss and validation scores.

    Args:
      records: lines of `metrics.jsonl`, as `read_metrics` gives them.
      path: the PNG file.
    """
    figure, axes = make_panels(2, xlabel="meta-updates", ylabel="")
    shown = [
        ("meta_loss", "meta-loss per inner step", "-"),
        ("validation_score", "validation score (final loss on fresh problems)", ".-"),
    ]
    for axis, (name, title, style) in zip(axes, shown, strict=True):
        # A mixture has a meta-loss for each of its parts, 'digits/meta_loss'.
        found = dict.fromkeys(k for r in records for k in r if k.rpartition("/")[2] == name)
        drawn = []
        for n, series in enumerate(found):
            rows = [(r["step"], r[series]) for r in records if series in r]
            steps, values = np.asarray(rows, np.float64).T
            label = series.rpartition("/")[0]
            color = COLORS[(n + 1) % len(COLORS)]
            axis.plot(steps, values, style, color=color, linewidth=1, label=label)
            if name == "validation_score" and np.isfinite(values).any():
                best = np.nanargmin(values)
                axis.plot(steps[best], values[best], "o", color="black")
                title += f"\nbest: {values[best]:.4g} at {steps[best]:.0f}"
            drawn.append(values)
        if drawn:
            log_axis(axis, np.concatenate(drawn), np.concatenate(drawn), above=1.2)
        if len(found) > 1:
            axis.legend(fontsize=8, frameon=False)
        axis.set_title(title, fontsize=10)
    save(figure, path)


def _summary(losses: np.ndarray, band: Band) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle, low and high `[num_steps + 1]` of losses `[num_seeds, num_steps + 1]`."""
    if band == "quantiles":
        low, middle, high = np.quantile(losses, [0.05, 0.5, 0.95], axis=0)
        return middle, low, high
    if band != "standard_error":
        raise ValueError(f"unknown band {band!r}: expected 'standard_error' or 'quantiles'")
    mean, error = mean_and_error(losses)
    return mean, mean - error, mean + error


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over runs, and its standard error, `[n]` each, of values `[runs, n]`."""
    with np.errstate(over="ignore", invalid="ignore"):  # diverged runs are not drawn
        error = values.std(axis=0, ddof=1 if len(values) > 1 else 0) / math.sqrt(len(values))
        return values.mean(axis=0), error
