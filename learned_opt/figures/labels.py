"""Names of lines at their ends, in the place of a legend; and what lies off the scale."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from learned_opt.figures.style import LEARNED_STYLES, base

T = TypeVar("T")

MOST_LINES = 6  # in a panel
_SIZE = 8.0  # of the text, points
_GAP = 1.25 * _SIZE  # between two labels, points
_COMPARED = "adam"  # stands in every part of a panel that was split


def split_panels(
    panels: Mapping[str, Mapping[str, T]], *, most: int = MOST_LINES
) -> dict[str, dict[str, T]]:
    """Panels of `most` lines at most: others are split, hand-designed and learned, Adam in all.

    Args:
      panels: title -> label -> what is drawn.
      most: lines a panel may have.
    """
    found: dict[str, dict[str, T]] = {}
    for title, lines in panels.items():
        if len(lines) <= most:
            found[title] = dict(lines)
            continue
        shared = [label for label in lines if base(label) == _COMPARED][: most - 1]
        others = [label for label in lines if label not in shared]
        groups = {
            "hand-designed": [x for x in others if base(x) not in LEARNED_STYLES],
            "learned": [x for x in others if base(x) in LEARNED_STYLES],
        }
        room = most - len(shared)
        for kind, labels in groups.items():
            number = math.ceil(len(labels) / room)
            for n in range(number):
                part = set(labels[n * room : (n + 1) * room]) | set(shared)
                which = f" {n + 1} of {number}" if number > 1 else ""
                found[f"{title}\n{kind}{which}"] = {x: lines[x] for x in lines if x in part}
    return found


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """Moves points apart by as little as it takes: `gap` between neighbours, in the same order.

    Args:
      wanted: where the points should be, `[n]`.
      gap: the least distance; smaller where there is no room for it.
      low: no point lies below.
      high: no point lies above.

    Returns:
      Where the points are, `[n]`.
    """
    places = np.asarray(wanted, np.float64)
    if len(places) < 2:
        return np.clip(places, low, high)
    gap = min(gap, (high - low) / (len(places) - 1))
    order = np.argsort(places, kind="stable")
    # Less the gaps it is a least-squares fit that increases: neighbours out of order are pooled.
    pools: list[list[float]] = []  # [mean, size]
    for n, place in enumerate(places[order]):
        pools.append([place - n * gap, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, size), (before, count) = pools.pop(), pools.pop()
            pools.append([(mean * size + before * count) / (size + count), size + count])
    fitted = np.concatenate([np.full(int(size), mean) for mean, size in pools])
    fitted = np.clip(fitted, low, high - gap * (len(places) - 1))
    found = np.empty(len(places))
    found[order] = fitted + gap * np.arange(len(places))
    return found


def label_lines(figure: Any, axes: Sequence[Any], *, at: Sequence[float] | None = None) -> None:
    """Writes the name of each labelled line at its right end, and of what is off the scale.

    A line that ends above or below its panel has an arrow there and the value it ends at, one
    that is nowhere finite the word "diverged". To be called when the limits of the axes are final.

    Args:
      figure: what the axes are in.
      axes: the panels.
      at: for each panel an x: names stand as high as the lines do there, if not at their ends.

    Raises:
      ValueError: a panel has more than `MOST_LINES` labelled lines.
    """
    places = [None] * len(axes) if at is None else at
    placed = [_write(axis, x) for axis, x in zip(axes, places, strict=True)]
    figure.draw_without_rendering()  # what the panels are like with the texts beside them
    for axis, ends in zip(axes, placed, strict=True):
        height = axis.get_window_extent().height * 72 / figure.dpi
        wanted = [height * sample.get_ydata()[0] for _, sample in ends]
        margin = 0.4 * _SIZE
        heights = spread(wanted, _GAP, -margin, height + margin) / height
        for (text, sample), place in zip(ends, heights, strict=True):
            text.set_y(place)
            sample.set_ydata([sample.get_ydata()[0], place, place])


def _write(axis: Any, at: float | None) -> list[tuple[Any, Any]]:
    """The texts beside a panel, and samples of the lines that lead there."""
    from matplotlib.lines import Line2D

    found = []
    drawn = [x for x in (*axis.get_lines(), *axis.containers) if str(x.get_label())[:1] != "_"]
    if len(drawn) > MOST_LINES:
        raise ValueError(f"{len(drawn)} lines in a panel; at most {MOST_LINES} are told apart")
    for artist in drawn:
        line = artist if isinstance(artist, Line2D) else artist.lines[0]  # of error bars
        label, x, y = _end(axis, line, str(artist.get_label()), at)
        sample = Line2D([], [])
        sample.update_from(line)
        sample.set(data=([x, 1.03, 1.09], [y] * 3), label="_sample", clip_on=False)
        if line.get_linestyle() == "None":
            sample.set_markevery([2])
        else:
            sample.set_marker("")
        sample.set_transform(axis.transAxes)
        axis.add_artist(sample)
        sample.set_clip_path(None)
        text = axis.text(
            1.105, y, label, transform=axis.transAxes, fontsize=_SIZE, va="center", color="0.15"
        )
        found.append((text, sample))
    return found


def _end(axis: Any, line: Any, label: str, at: float | None) -> tuple[str, float, float]:
    """What is written of a line, and the point of the panel, in shares of it, it belongs to."""
    x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
    left, right = sorted(axis.get_xlim())
    seen = np.flatnonzero(np.isfinite(y) & (x >= left) & (x <= right))
    if not seen.size or np.isnan(y[seen[-1] :]).any():
        return f"{label} ↑ diverged", 1.03, 1.0
    last = seen[-1] if at is None else seen[np.argmin(np.abs(x[seen] - at))]
    low, high = sorted(axis.get_ylim())
    if y[last] > high:
        return f"{label} ↑ {y[last]:.3g}", 1.03, 1.0
    if y[last] < low:
        return f"{label} ↓ {y[last]:.3g}", 1.03, 0.0
    point = axis.transAxes.inverted().transform(axis.transData.transform((x[last], y[last])))
    joined = at is None and point[0] > 0.9  # or the way to the name would lead through the panel
    return label, float(point[0]) if joined else 1.03, float(point[1])
