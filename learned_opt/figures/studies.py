"""Figures of tuning studies, in the style of all others; PNG or SVG, as the file is named."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures.labels import label_lines, split_panels
from learned_opt.figures.style import (
    all_labels,
    line_weight,
    log_axis,
    make_panels,
    save,
    styles_of,
)


class Interval(NamedTuple):
    """A number and what it may be.

    Attributes:
      middle: the estimate.
      low: the 5th percentile.
      high: the 95th percentile.
    """

    middle: float
    low: float
    high: float


_KS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def best_of_k(
    panels: Mapping[str, Mapping[str, Sequence[ArrayLike]]],
    path: str | os.PathLike,
    *,
    ylabel: str = "best of K",
    groups: Mapping[str, str] | None = None,
) -> None:
    """Draws what the best of K trials scores against K: the mean, and the 5th to 95th percentile.

    The percentiles are vertical lines at K = 1, 2, 5, 10, …, side by side; a band where they do not
    depend on K.

    Args:
      panels: title -> label -> (K, mean, low, high), each `[num_ks]`; infinities are left out.
      path: the file, `….svg` or `….png`.
      ylabel: what is scored.
      groups: title -> group; panels of one group have the same vertical axis.
    """
    styles = styles_of(all_labels(panels))
    panels = split_panels(panels)
    columns = min(2, len(panels)) if groups else None  # pairs side by side
    figure, axes = make_panels(len(panels), ylabel=ylabel, xlabel="trials K", columns=columns)
    if groups:
        figure.set_size_inches(4.7 * (columns or 1), 2.6 * -(-len(panels) // 2))
    ends = _Ends(panels, groups)
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        dodges = np.exp(np.linspace(-0.2, 0.2, len(curves))) if len(curves) > 1 else [1.0]
        for dodge, (label, parts) in zip(dodges, curves.items(), strict=True):
            ks, mean, low, high = (np.asarray(part, np.float64) for part in parts)
            color, dashes = styles[label]
            shown = np.isfinite(high) & (low > 0)
            flat = shown.any() and np.ptp(low[shown]) == np.ptp(high[shown]) == 0
            if flat:  # nothing was tuned
                axis.fill_between(
                    ks[shown], low[shown], high[shown], color=color, alpha=0.15, linewidth=0
                )
            else:  # bands would cover each other
                shown &= np.isin(ks, _KS)
                axis.vlines(
                    dodge * ks[shown], low[shown], high[shown], color=color, lw=1.6, alpha=0.55
                )
            thinned = np.round(np.geomspace(1, ks.max(), 30))  # what the eye sees on a log axis
            shown = np.isfinite(mean) & (mean > 0) & (np.isin(ks, thinned) | flat)
            axis.plot(
                ks[shown],
                mean[shown],
                color=color,
                linestyle=dashes,
                label=label,
                **line_weight(label),
            )
            if shown.any():
                ends.add(title, mean[shown].min(), np.nan if flat else np.median(mean[shown]))
        axis.set_xscale("log")
        ticks = [k for k in _KS if k <= axis.get_xlim()[1]]
        axis.set_xticks(ticks, map(str, ticks))
        axis.set_xticks([], minor=True)
        axis.set_title(title, fontsize=10)
    for axis, title in zip(axes, panels, strict=False):
        log_axis(axis, *ends.of(title), above=2.0)
    label_lines(figure, axes)
    save(figure, path)


class _Ends:
    """Where vertical axes end, one for each group of panels."""

    def __init__(self, titles: Iterable[str], groups: Mapping[str, str] | None):
        self._groups = {title: (groups or {}).get(title, title) for title in titles}
        self._found: dict[str, list[tuple[float, float]]] = {}

    def add(self, title: str, low: float, high: float) -> None:
        """Says that a panel has a curve from `low` to `high`."""
        self._found.setdefault(self._groups[title], []).append((low, high))

    def of(self, title: str) -> tuple[list[float], list[float]]:
        """The lows and the highs of the curves in a panel's group."""
        found = self._found.get(self._groups[title], [])
        return [low for low, _ in found], [high for _, high in found]


def winners(
    panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    path: str | os.PathLike,
    *,
    ylabel: str = "training loss",
    groups: Mapping[str, str] | None = None,
) -> None:
    """Draws curves of the winners over fresh seeds: the mean, and the 5th to 95th percentile.

    Args:
      panels: title -> label -> (updates `[segments]`, values `[seeds, segments]`).
      path: the file, `….svg` or `….png`.
      ylabel: what the values are.
      groups: title -> group; panels of one group have the same vertical axis.
    """
    styles = styles_of(all_labels(panels))
    panels = split_panels(panels)
    figure, axes = make_panels(len(panels), ylabel=ylabel, xlabel="updates", columns=2)
    ends = _Ends(panels, groups)
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        for label, (updates, values) in curves.items():
            updates, values = np.asarray(updates, float), np.asarray(values, np.float64)
            values = np.where(np.isfinite(values), values, np.nan)
            values = values[:, ~np.isnan(values).all(axis=0)]
            if not values.size:
                continue
            updates = updates[: values.shape[1]]
            color, dashes = styles[label]
            low, high = np.nanquantile(values, [0.05, 0.95], axis=0)
            mean = np.nanmean(values, axis=0)
            axis.fill_between(updates, low, high, color=color, alpha=0.15, linewidth=0)
            axis.plot(
                updates, mean, color=color, linestyle=dashes, label=label, **line_weight(label)
            )
            ends.add(title, mean.min(), mean[0])
        axis.set_title(title, fontsize=10)
    for axis, title in zip(axes, panels, strict=False):
        lows, highs = ends.of(title)
        if lows:
            log_axis(axis, lows, [np.quantile(highs, 0.25)], above=2.0)
        axis.set_xlim(left=0)
    label_lines(figure, axes)
    save(figure, path)


def projections(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike, str]],
    path: str | os.PathLike,
    *,
    ylabel: str,
    title: str = "",
) -> None:
    """Draws scores of trials against each hyperparameter; the best one is a star.

    Args:
      panels: hyperparameter -> (values, scores, 'log' or 'linear'), a value and a score a trial;
        trials that diverged (not finite), and the worst tenth, are ticks at the upper edge.
      path: the file, `….svg` or `….png`.
      ylabel: the score.
      title: of the figure.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure, axes = make_panels(len(panels), ylabel=ylabel, xlabel="", sharey=True)
    for axis, (name, (values, scores, scale)) in zip(axes, panels.items(), strict=False):
        values, scores = np.asarray(values, float), np.asarray(scores, float)
        axis.set_xscale(scale)
        if scale == "log":
            axis.xaxis.set_major_locator(LogLocator(numticks=5))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_locator(NullLocator())
        fine = np.isfinite(scores)
        if fine.any():
            best = np.argmin(np.where(fine, scores, np.inf))
            fine &= scores <= 1.2 * np.quantile(scores[fine], 0.9, method="lower")
            axis.plot(
                values[fine], scores[fine], "o", color="#0072B2", markersize=4, alpha=0.7,
                markeredgewidth=0,
            )  # fmt: skip
            axis.plot(values[best], scores[best], "*", color="#D55E00", markersize=13, zorder=4)
            if (scores[fine] > 0).all():
                log_axis(axis, 0.85 * scores[fine], scores[fine], above=1.2)
        if (~fine).any():
            axis.plot(
                values[~fine], np.ones((~fine).sum()), "|", color="#D55E00", markersize=9,
                clip_on=False, transform=axis.get_xaxis_transform(),
            )  # fmt: skip
        axis.set_xlabel(name)
    if title:
        figure.suptitle(title, fontsize=10)
    save(figure, path)


def intervals(
    panels: Mapping[str, Mapping[str, Sequence[Interval]]],
    path: str | os.PathLike,
    *,
    names: Sequence[str],
    xlabel: str,
) -> None:
    """Draws intervals as bars about a dot, in rows, with a line at zero.

    Args:
      panels: title -> row -> intervals, one for each of `names`.
      path: the file, `….svg` or `….png`.
      names: what the intervals of a row are.
      xlabel: the quantity; 'worse' and 'better' belong to its positive and negative side.
    """
    alike = len({tuple(rows) for rows in panels.values()}) == 1  # one set of labels for a row
    figure, axes = make_panels(len(panels), xlabel="", ylabel="", sharey=alike, columns=2)
    most = max(len(rows) for rows in panels.values())
    figure.set_size_inches(9.4, (0.9 + 0.26 * most) * -(-len(panels) // 2) + 0.8)
    colors = ("#0072B2", "#D55E00", "#009E73")
    for axis, (title, rows) in zip(axes, panels.items(), strict=False):
        axis.axvline(0, color="0.3", linewidth=1)
        for n, found in enumerate(rows.values()):
            for m, interval in enumerate(found):
                y = n + 0.2 * (m - (len(found) - 1) / 2)
                axis.plot(interval[1:], [y, y], color=colors[m], linewidth=2)
                label = names[m] if n == 0 else None
                axis.plot(interval.middle, y, "o", color=colors[m], markersize=5, label=label)
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(False, axis="y")
        axis.set_title(title, fontsize=10)
    figure.supxlabel(xlabel, fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    save(figure, path)


def rankings(
    panels: Mapping[str, Mapping[str, Sequence[Interval]]],
    path: str | os.PathLike,
    *,
    levels: Sequence[str],
    ylabel: str,
) -> None:
    """Draws each rule's score as its search space grows.

    Args:
      panels: title -> rule -> its score on every level.
      path: the file, `….svg` or `….png`.
      levels: the names of the spaces, small to large.
      ylabel: the score.
    """
    styles = styles_of(all_labels(panels))
    panels = split_panels(panels)
    figure, axes = make_panels(
        len(panels), xlabel="what is searched, with all to its left", ylabel=ylabel, columns=2
    )
    figure.set_size_inches(10.4, 3.2 * -(-len(panels) // 2))
    for axis, (title, rules) in zip(axes, panels.items(), strict=False):
        every = []
        for n, (label, scores) in enumerate(rules.items()):
            middle, low, high = np.array(scores, float).T
            x = np.arange(len(levels)) + 0.06 * (n - (len(rules) - 1) / 2)
            color, dashes = styles[label]
            with np.errstate(invalid="ignore"):  # infinite where a winner diverged: not drawn
                bars = np.nan_to_num([middle - low, high - middle], posinf=0.0)
            axis.errorbar(
                x,
                np.where(np.isfinite(middle), middle, np.nan),
                yerr=bars,
                color=color,
                linestyle=dashes,
                marker="o",
                markersize=5,
                linewidth=1.3,
                elinewidth=1,
                label=label,
            )
            every += middle[np.isfinite(middle)].tolist()
        log_axis(axis, every, every, above=1.15)
        axis.set_xticks(range(len(levels)), levels)
        axis.set_title(title, fontsize=10)
    label_lines(figure, axes)
    save(figure, path)


def win_probabilities(
    panels: Mapping[str, tuple[Sequence[str], ArrayLike]], path: str | os.PathLike
) -> None:
    """Draws heat maps of the probability that the rule of a row beats the rule of a column.

    Args:
      panels: title -> (rules, probabilities `[rules, rules]`).
      path: the file, `….svg` or `….png`.
    """
    figure, axes = make_panels(len(panels), xlabel="", ylabel="")
    for axis, (title, (rules, values)) in zip(axes, panels.items(), strict=False):
        values = np.asarray(values, float)
        axis.imshow(values, cmap="RdBu_r", vmin=0, vmax=1)
        for row, column in np.ndindex(values.shape):
            if row != column:
                value = values[row, column]
                color = "white" if abs(value - 0.5) > 0.3 else "black"
                axis.text(
                    column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                    color=color,
                )  # fmt: skip
        axis.set_xticks(range(len(rules)), rules, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(len(rules)), rules, fontsize=8)
        axis.grid(False)
        axis.set_title(title, fontsize=10)
    save(figure, path)


def profiles(
    taus: ArrayLike, curves: Mapping[str, ArrayLike], path: str | os.PathLike, *, xlabel: str
) -> None:
    """Draws performance profiles: the share of workloads that are within a factor of the best.

    Args:
      taus: the factors, `[num_taus]`.
      curves: rule -> shares `[num_taus]`.
      path: the file, `….svg` or `….png`.
      xlabel: the cost that is compared.
    """
    styles = styles_of(curves)
    panels = split_panels({"": curves})
    figure, axes = make_panels(len(panels), xlabel=xlabel, ylabel="share of workloads", columns=1)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for n, (label, shares) in enumerate(lines.items()):
            color, dashes = styles[label]
            raised = np.asarray(shares) + 0.006 * (n - (len(lines) - 1) / 2)  # that coincide
            axis.step(
                taus, raised, where="post", color=color, linestyle=dashes, label=label,
                **line_weight(label),
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_ylim(-0.03, 1.04)
        axis.set_title(title.strip(), fontsize=10)
    label_lines(figure, axes)
    save(figure, path)
