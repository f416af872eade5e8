"""Figures of a leaderboard: intervals of each rule, curves of each workload, profiles of scores."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures.style import COLORS, log_axis, make_panels, save

Estimate = tuple[float, float, float]  # value, low, high

_STYLES = {  # one colour a rule, in all figures
    "adam": ("#E69F00", "solid"),
    "adamw_cosine": ("#CC79A7", "solid"),
    "nag_cosine": ("#7F7F7F", "solid"),
    "muon_cosine": ("#009E73", "solid"),
    "schedule_free_adamw": ("#56B4E9", "solid"),
    "celo2_cosine": ("#0072B2", "solid"),
    "lstm_mnist": ("#D55E00", "solid"),
    "lstm_mnist_guarded": ("#D55E00", (0, (5, 2))),
    "general": ("#000000", "solid"),
    "general_default": ("#000000", (0, (5, 2))),
    "general_guarded": ("#000000", (0, (1.5, 1.5))),
}


class Curve(NamedTuple):
    """Loss curves of one rule.

    Attributes:
      steps: `[n]`.
      losses: `[seeds, n]`.
    """

    steps: np.ndarray
    losses: np.ndarray


def style_of(rule: str) -> tuple[str, Any]:
    """A rule's colour and dash."""
    if rule in _STYLES:
        return _STYLES[rule]
    return COLORS[sum(map(ord, rule)) % len(COLORS)], (0, (3, 1))


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

    rules = list(dict.fromkeys(itertools.chain.from_iterable(panels.values())))
    figure = Figure(figsize=(10.4, 1.2 + 0.34 * len(rules)), dpi=130, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.axvline(1, color="0.6", linewidth=0.8, zorder=0)
        for n, rule in enumerate(rules):
            if rule not in found:
                continue
            value, low, high = found[rule]
            color, _ = style_of(rule)
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
    axes[0].set_yticks(range(len(rules)), [names[rule] for rule in rules])
    axes[0].set_ylim(len(rules) - 0.5, -0.7)
    save(figure, list(axes), path, legend=None)


def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    names: Mapping[str, str],
    path: str | os.PathLike,
    *,
    ylabel: str = "training loss",
) -> None:
    """Mean loss curves with a band from the lowest to the highest seed, one panel a workload.

    Args:
      panels: workload -> rule -> its curve; six rules at most are easy to tell apart.
      names: rule -> how it is written.
      path: where to write the figure.
      ylabel: what the losses are.
    """
    figure, axes = make_panels(len(panels), xlabel="step", ylabel=ylabel)
    for axis, (title, found) in zip(axes, panels.items(), strict=True):
        axis.set_title(title)
        lows, highs = [], []
        for rule, curve in found.items():
            color, dash = style_of(rule)
            wide = rule.startswith("general")
            mean = curve.losses.mean(axis=0)
            axis.fill_between(
                curve.steps, curve.losses.min(axis=0), curve.losses.max(axis=0),
                color=color, alpha=0.15, linewidth=0,
            )  # fmt: skip
            axis.plot(
                curve.steps, mean, color=color, linestyle=dash, label=names[rule],
                linewidth=2.0 if wide else 1.3, zorder=3 if wide else 2,
            )  # fmt: skip
            lows.append(np.nanmin(mean) if np.isfinite(mean).any() else np.nan)
            highs.append(mean[0])
        log_axis(axis, np.array(lows), np.array(highs), above=1.15)
    save(figure, axes, path, legend="right")


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
        len(panels), xlabel="τ", ylabel="share of runs above τ", sharey=True, columns=2
    )
    for axis, (title, (taus, found)) in zip(axes, panels.items(), strict=True):
        axis.set_title(title)
        axis.set_xscale("log")
        _plain_ticks(axis, taus)
        for rule, shares in found.items():
            color, dash = style_of(rule)
            wide = 2.0 if rule.startswith("general") else 1.3
            axis.plot(taus, shares, color=color, linestyle=dash, label=names[rule], linewidth=wide)
        axis.set_ylim(-0.02, 1.02)
    save(figure, axes, path, legend="right")


def _plain_ticks(axis: Any, values: ArrayLike) -> None:
    from matplotlib.ticker import NullLocator

    low, high = np.min(values), np.max(values)
    ticks: Sequence[float] = [t for t in (0.25, 0.5, 0.7, 1, 1.5, 2, 4) if low <= t <= high]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
