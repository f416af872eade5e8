"""Ways of optimizers over 2-D surfaces, one panel a way."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures.style import make_panels, save, styles_of
from learned_opt.tasks import Surface

EVERY = 10  # updates between two dots
_RING = 5  # dots between two rings


class Panel(NamedTuple):
    """One way.

    Attributes:
      surface: what it leads over.
      label: the rule's name, for its colour.
      points: `[num_steps + 1, 2]`.
      title: above the panel.
      side: left of the panel; "" for nothing.
    """

    surface: Surface
    label: str
    points: ArrayLike
    title: str
    side: str = ""


def trajectories(panels: Sequence[Panel], path: str | os.PathLike, *, columns: int) -> None:
    """Draws ways over the contours of surfaces, with marks to count the updates by.

    Contours follow quantiles of the surface, so that valleys and plains show alike; the darker the
    lower. A way has a dot every `EVERY` updates, every fifth of them a ring. One that ends outside
    of the window has an arrow where it leaves for the last time.

    Args:
      panels: the ways, row by row.
      path: the file.
      columns: panels in a row.
    """
    figure, axes = make_panels(len(panels), xlabel="", ylabel="", columns=columns)
    rows = -(-len(panels) // columns)
    figure.set_size_inches(1.72 * columns + 0.3, 1.82 * rows + 0.5)
    styles = styles_of(list(dict.fromkeys(panel.label for panel in panels)))
    for axis, panel in zip(axes, panels, strict=True):
        _contours(axis, panel.surface)
        _way(axis, panel, styles[panel.label][0])
        for minimum in panel.surface.minima:
            axis.plot(*minimum, "*", color="white", mec="black", markersize=10, zorder=6)
        axis.plot(*panel.surface.start, "X", color="black", mec="white", markersize=8, zorder=7)
        axis.set(xlim=panel.surface.window[0], ylim=panel.surface.window[1])
        axis.set_title(panel.title, fontsize=8)
        axis.set_ylabel(panel.side, fontsize=9)
        axis.tick_params(labelsize=6.5, length=2)
        axis.locator_params(nbins=4)
        axis.grid(False)
    figure.suptitle(
        f"cross: start · star: minimum · a dot every {EVERY} updates, a ring every "
        f"{_RING * EVERY} · arrow: leaves the map after that many updates",
        fontsize=8,
    )
    save(figure, path, few_colors=True)


def _way(axis: Any, panel: Panel, color: str) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.8, foreground="white")]
    low, high = np.asarray(panel.surface.window, float).T
    points = np.asarray(panel.points, np.float64)
    points = points[: _first(np.isnan(points).any(axis=1))]
    points = np.clip(points, -1e6, 1e6)  # what leaves the window leaves it all the same
    axis.plot(*points.T, color=color, linewidth=1.3, path_effects=halo, zorder=3)
    marks = points[::EVERY]
    rings = np.arange(len(marks)) % _RING == 0
    style = {"color": color, "linestyle": "", "zorder": 4}
    axis.plot(*marks[~rings].T, marker="o", markersize=3.2, mec="white", mew=0.4, **style)
    axis.plot(*marks[rings].T, marker="o", markersize=5.5, mfc="white", mew=1.3, **style)
    outside = ~((low <= points) & (points <= high)).all(axis=1)
    if outside[-1]:
        leaves = len(points) - _first(~outside[::-1])  # the first update outside for good
        edge = np.clip(points[leaves], low, high)
        behind = np.clip(points[leaves], low + 0.14 * (high - low), high - 0.14 * (high - low))
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", edge, behind, arrowprops=arrow, zorder=8)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.9}
        inner = np.clip(points[leaves], low + 0.2 * (high - low), high - 0.2 * (high - low))
        axis.text(*inner, f"{leaves}", fontsize=7.5, ha="center", va="center", bbox=box, zorder=9)


def _first(found: ArrayLike) -> int:
    """The first place that is true; the length where none is."""
    found = np.asarray(found)
    return int(np.argmax(found)) if found.any() else len(found)


def _contours(axis: Any, surface: Surface) -> None:
    from matplotlib.colors import BoundaryNorm

    x, y = (np.linspace(*ends, 161) for ends in surface.window)
    values = np.asarray(surface.value(*np.meshgrid(x, y)))  # type: ignore[arg-type]
    levels = np.unique(np.quantile(values, np.linspace(0, 1, 9)))
    shades = BoundaryNorm(levels, 256)
    # Plain areas and lines without soft edges: files stay small.
    plain = {"levels": levels, "antialiased": False}
    axis.contourf(x, y, values, cmap="gray", norm=shades, alpha=0.4, **plain)
    axis.contour(x, y, values, colors="0.65", linewidths=0.4, linestyles="solid", **plain)
