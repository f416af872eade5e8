"""What all figures share: colours, dashes, axes, panels and legends."""

import io
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures import svg

# Okabe and Ito's colours, told apart by colour-blind readers as well; without yellow, which is
# faint on white. Names that are not listed take the other colours in turn, dashed when used up.
COLORS = ("#000000", "#D55E00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
_DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))
KNOWN_STYLES = {
    "sgd": ("#7F7F7F", "solid"),
    "momentum": ("#009E73", "solid"),
    "nesterov": ("#0072B2", "solid"),
    "rmsprop": ("#CC79A7", "solid"),
    "adam": ("#E69F00", "solid"),
    "adagrad": ("#7F7F7F", "dashed"),
    "adadelta": ("#009E73", "dashed"),
    "nadam": ("#56B4E9", "solid"),
    "adamw": ("#CC79A7", "dashed"),
    "muon": ("#E69F00", "dashed"),
    "l-bfgs": ("#56B4E9", "dashed"),
}
LEARNED_STYLES = {
    "lstm_mnist": ("#000000", "solid"),
    "lstm_style": ("#000000", "solid"),
    "lstm_quadratic": ("#D55E00", "solid"),
    "lstm_quadratic_gaussian": ("#D55E00", "dashed"),
    "lstm_cifar10": ("#D55E00", "solid"),
    "lstm_sub_cifar": ("#56B4E9", "solid"),
    "general": ("#000000", "solid"),
}
LAST_STYLE = ("#000000", "solid")  # when all are used up


def all_labels(panels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The labels of all panels, each once, in the order in which they come."""
    return list(dict.fromkeys(itertools.chain.from_iterable(panels.values())))


def styles_of(labels: Sequence[str] | Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """A colour and a dash for each label: the same colour for a rule in every figure.

    The first word of a label is the rule's name; a second label of the same rule is dashed.
    """
    styles: dict[str, tuple[str, Any]] = {}
    known = KNOWN_STYLES | LEARNED_STYLES
    reserved = {known[base(label)] for label in labels if base(label) in known}
    others = ((color, dash) for dash in _DASHES for color in COLORS)
    free = itertools.chain((s for s in others if s not in reserved), itertools.repeat(LAST_STYLE))
    for label in labels:
        if base(label) in known:
            color, first = known[base(label)]
            dashes = (first, *_DASHES)
            styles[label] = next(
                ((color, dash) for dash in dashes if (color, dash) not in styles.values()),
                LAST_STYLE,
            )
        else:
            styles[label] = next(free)
    return styles


def base(label: str) -> str:
    """The rule a label is about: its first word, 'adam' for 'Adam (tuned for 100)' as well."""
    return label.split(" ")[0].lower()


def log_axis(axis: Any, lows: ArrayLike, highs: ArrayLike, *, above: float) -> None:
    """A log scale from the lowest of `lows` to somewhat above the highest of `highs`.

    Over a few decades it has ticks at 1, 2 and 5, over less than one more of them, written as plain
    numbers. What is not positive and finite plays no part.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ends = [np.asarray(values, np.float64) for values in (lows, highs)]
    ends = [values[np.isfinite(values) & (values > 0)] for values in ends]
    if not all(values.size for values in ends):
        return
    low, high = 0.85 * ends[0].min(), above * ends[1].max()
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    if high < 1e4 * low:
        subs = (1.0, 2.0, 5.0) if high > 10 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
        axis.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_minor_formatter(NullFormatter())


def line_weight(label: str) -> dict[str, float]:
    """Rules that are not hand-designed stand out."""
    known = base(label) in KNOWN_STYLES
    return {"linewidth": 1.3 if known else 2.2, "zorder": 2 if known else 3}


def make_panels(
    number: int, *, xlabel: str, ylabel: str, sharey: bool = False, columns: int | None = None
) -> tuple[Any, list[Any]]:
    """A figure with `number` panels in rows of `columns`, by default of at most four."""
    from matplotlib.figure import Figure

    if columns is None:
        columns = {4: 2}.get(number, min(number, 3 if number in (5, 6, 9) else 4))
    rows = math.ceil(number / columns)
    width, height = (6.4, 4.2) if number == 1 else (3.9, 3.4)
    figure = Figure(figsize=(width * columns, height * rows), dpi=130, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    axes = list(grid.flat)
    for axis in axes[number:]:
        axis.remove()
    for n, axis in enumerate(axes[:number]):
        axis.grid(True, which="major", color="0.9", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if xlabel:
            axis.set_xlabel(xlabel)
        if ylabel and n % columns == 0:
            axis.set_ylabel(ylabel)
    return figure, axes[:number]


def save(
    figure: Any, axes: list[Any], path: str | os.PathLike, *, legend: Literal["right"] | None
) -> None:
    """Writes the figure, with one legend of all panels beside them if asked for.

    A path `….svg` gives a small file of vectors.
    """
    from matplotlib import rc_context

    if legend:
        handles: dict[str, Any] = {}
        for axis in axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        labels = sorted(handles, key=lambda label: base(label) in LEARNED_STYLES)
        found = [handles[label] for label in labels]
        figure.legend(found, labels, loc="outside right upper", frameon=False)
    if Path(path).suffix != ".svg":
        figure.savefig(path)
        return
    with io.StringIO() as file, rc_context(svg.SETTINGS):  # type: ignore[arg-type]
        figure.savefig(file, format="svg", metadata={"Date": None})
        Path(path).write_text(svg.compact(file.getvalue()), encoding="utf-8")
