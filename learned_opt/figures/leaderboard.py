"""Figures of a leaderboard: intervals of each rule, curves of each workload, profiles of scores."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import (
    all_labels,
    line_weight,
    log_axis,
    make_panels,
    save,
    styles_of,
)

Estimate = tuple[float, float, float]  # value, low, high

_BARS = (0.25, 0.5, 0.75, 1.0)  # of a run: where the seeds' range is drawn


class Curve(NamedTuple):
    """Loss curves of one rule.

    Attributes:
      steps: `[n]`.
      losses: `[seeds, n]`.
    """

    steps: np.ndarray
    losses: np.ndarray


def intervals(
    panels: Mapping[str, Mapping[str, Estimate]],
    names: Mapping[str, str],
    path: str | os.PathLike,
) -> None:
    """A dot with its interval for each rule, one panel a quantity, on log axes with a line at 1.

    Args:
      panels: title -> rule -> value, low, high. Rules stand in the order of the first panel.
      names: rule -> how it is written.
      path: where to write the figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    rules = all_labels(panels)
    styles = styles_of(rules)
    figure = Figure(figsize=(10.4, 1.2 + 0.34 * len(rules)), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.axvline(1, color="0.6", linewidth=0.8, zorder=0)
        for n, rule in enumerate(rules):
            if rule not in found:
                continue
            value, low, high = found[rule]
            color, _ = styles[rule]
            axis.plot([low, high], [n, n], color=color, linewidth=2.2, solid_capstyle="butt")
            axis.plot([value], [n], "o", color=color, markersize=6)
            axis.annotate(
                f"{value:.2f}", (value, n), (0, 5), textcoords="offset points", ha="center",
                fontsize=7,
            )  # fmt: skip
        ends = np.array(list(found.values()))
        low, high = 0.85 * min(ends.min(), 1), 1.15 * max(ends.max(), 1)
        axis.set_xscale("log")
        axis.set_xlim(low, high)
        subs = (1, 2, 3, 5) if high > 4 * low else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
        axis.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(True, axis="x", color="0.9", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    figure.supxlabel("right of 1: better than what it is compared with", fontsize=9)
    axes[0].set_yticks(range(len(rules)), [names[rule] for rule in rules])
    axes[0].set_ylim(len(rules) - 0.5, -0.7)
    save(figure, path)


def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    names: Mapping[str, str],
    path: str | os.PathLike,
    *,
    ylabel: str = "training loss",
) -> None:
    """Mean loss curves, one panel a workload; bars from the lowest to the highest seed beside them.

    Args:
      panels: title -> rule -> its curve; six rules at most.
      names: rule -> how it is written.
      path: where to write the figure.
      ylabel: what the losses are.
    """
    figure, axes = make_panels(len(panels), xlabel="updates", ylabel=ylabel, columns=2)
    figure.set_size_inches(9.4, 2.7 * -(-len(panels) // 2))
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        axis.set_title(title, fontsize=10)
        lows, highs = [], []
        styles = styles_of(found)
        for n, (rule, curve) in enumerate(found.items()):
            color, dash = styles[rule]
            mean = curve.losses.mean(axis=0)
            axis.plot(
                curve.steps, mean, color=color, linestyle=dash, label=names[rule],
                **line_weight(rule),
            )  # fmt: skip
            at = np.array([round(share * (len(mean) - 1)) for share in _BARS])
            width = 0.012 * curve.steps[-1]  # apart: no bar hides another
            places = curve.steps[at] - width * (len(found) - 1 - n)
            axis.vlines(
                places, curve.losses.min(axis=0)[at], curve.losses.max(axis=0)[at], color=color,
                linewidth=1.6, alpha=0.6,
            )  # fmt: skip
            lows.append(np.nanmin(mean) if np.isfinite(mean).any() else np.nan)
            highs.append(mean[0])
        log_axis(axis, np.array(lows), np.array(highs), above=1.15)
        axis.set_xlim(0, curve.steps[-1])
    label_lines(figure, axes)
    save(figure, path)


def profiles(
    panels: Mapping[str, tuple[ArrayLike, Mapping[str, ArrayLike]]],
    names: Mapping[str, str],
    path: str | os.PathLike,
) -> None:
    """The share of runs above each τ, one panel a score.

    Args:
      panels: title -> the τs, and rule -> shares.
      names: rule -> how it is written.
      path: where to write the figure.
    """
    figure, axes = make_panels(
        len(panels), xlabel="τ [times]", ylabel="share of runs above τ", sharey=True, columns=2
    )
    figure.set_size_inches(9.4, 3.6)
    at: list[float] = []
    for axis, (title, (taus, found)) in zip(axes, panels.items(), strict=True):
        styles = styles_of(found)
        axis.set_title(title, fontsize=10)
        axis.set_xscale("log")
        _plain_ticks(axis, taus)
        for rule, shares in found.items():
            color, dash = styles[rule]
            axis.plot(
                taus, shares, color=color, linestyle=dash, label=names[rule], **line_weight(rule)
            )
        axis.set_ylim(-0.02, 1.02)
        at.append(float(np.max(taus)) ** 0.3)  # where lines lie apart
        axis.axvline(at[-1], color="0.6", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    figure.supxlabel("names stand in the order of the lines at the dotted line", fontsize=9)
    label_lines(figure, axes, at=at)
    save(figure, path)


def _plain_ticks(axis: Any, values: ArrayLike) -> None:
    from matplotlib.ticker import NullLocator

    low, high = np.min(values), np.max(values)
    ticks: Sequence[float] = [t for t in (0.25, 0.5, 0.7, 1, 1.5, 2, 4) if low <= t <= high]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
