"""What all figures share: colours, dashes, axes and panels."""

import io
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.figures import svg

# Okabe and Ito's colours, told apart by colour-blind readers as well; without yellow, which is
# faint on white. Names that are not listed take the other colours in turn, dashed when used up.
COLORS = ("#000000", "#D55E00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
_DASHED, _DOTTED, _MIXED = (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5))
_DASHES = ("solid", _DASHED, _DOTTED, _MIXED)
# The one table of how rules look: no two of them have the same colour and dash.
KNOWN_STYLES = {
    "sgd": ("#7F7F7F", "solid"),
    "momentum": ("#009E73", "solid"),
    "nesterov": ("#0072B2", "solid"),
    "rmsprop": ("#CC79A7", "solid"),
    "adam": ("#E69F00", "solid"),
    "adagrad": ("#7F7F7F", _DASHED),
    "adadelta": ("#009E73", _DOTTED),
    "nadam": ("#56B4E9", "solid"),
    "adamw": ("#CC79A7", _DASHED),
    "muon": ("#009E73", _DASHED),
    "l-bfgs": ("#56B4E9", _DASHED),
    "schedule-free": ("#56B4E9", _DOTTED),
    "celo2": ("#0072B2", _DASHED),
}
LEARNED_STYLES = {
    "general": ("#000000", "solid"),
    "general_default": ("#000000", _DASHED),
    "general_guarded": ("#000000", _DOTTED),
    "lstm_mnist": ("#000000", _MIXED),
    "lstm_mnist_guarded": ("#000000", (0, (5, 1.5, 1, 1.5, 1, 1.5))),
    "lstm_style": ("#000000", (0, (9, 2))),
    "lstm_quadratic": ("#D55E00", "solid"),
    "lstm_quadratic_gaussian": ("#D55E00", _DASHED),
    "lstm_cifar10": ("#D55E00", _DOTTED),
    "lstm_sub_cifar": ("#CC79A7", _MIXED),
}
STYLES: dict[str, tuple[str, Any]] = KNOWN_STYLES | LEARNED_STYLES
_ALIASES = {  # what else a rule of the table is called, in configs and where people read
    "nag": "nesterov",
    "lbfgs": "l-bfgs",
    "schedule_free_adamw": "schedule-free",
    "schedule-free adamw": "schedule-free",
    "general, default rate": "general_default",
    "general, default, guarded": "general_guarded",
    "lstm_mnist, guarded": "lstm_mnist_guarded",
}
LAST_STYLE = ("#000000", "solid")  # when all are used up


def all_labels(panels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The labels of all panels, each once, in the order in which they come."""
    return list(dict.fromkeys(itertools.chain.from_iterable(panels.values())))


def styles_of(labels: Sequence[str] | Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """A colour and a dash for each label: the same colour for a rule in every figure.

    A label is the name of a rule, written for people or as in configs, after which more words may
    follow; see `base`. A second label of the same rule has its colour and another dash.
    """
    styles: dict[str, tuple[str, Any]] = {}
    reserved = {STYLES[base(label)] for label in labels if base(label) in STYLES}
    others = ((color, dash) for dash in _DASHES for color in COLORS)
    free = itertools.chain((s for s in others if s not in reserved), itertools.repeat(LAST_STYLE))
    seen = set()
    for label in labels:
        name = base(label)
        if name not in STYLES:
            styles[label] = next(free)
        elif name not in seen:
            styles[label] = STYLES[name]
        else:
            taken = reserved | set(styles.values())
            again = ((STYLES[name][0], dash) for dash in _DASHES)
            styles[label] = next((style for style in again if style not in taken), LAST_STYLE)
        seen.add(name)
    return styles


def base(label: str) -> str:
    """The rule a label is about, as the table has it.

    Example:
      >>> base('Adam (tuned for 100)'), base('Nesterov, cosine'), base('general, default rate')
      ('adam', 'nesterov', 'general_default')
    """
    name = label.lower().partition(" (")[0]
    name = name.removesuffix("_cosine").removesuffix(", cosine")
    name = _ALIASES.get(name, name)
    first = name.split(" ")[0].rstrip(",") if name not in STYLES else name
    return _ALIASES.get(first, first)


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


def save(figure: Any, path: str | os.PathLike, *, few_colors: bool = False) -> None:
    """Writes the figure.

    A path `….svg` gives a small file of vectors. Other files have all colours; few of them,
    greys and tints of the colours of rules, take a third of the place.
    """
    from matplotlib import rc_context

    if Path(path).suffix == ".svg":
        with io.StringIO() as file, rc_context(svg.SETTINGS):  # type: ignore[arg-type]
            figure.savefig(file, format="svg", metadata={"Date": None})
            Path(path).write_text(svg.compact(file.getvalue()), encoding="utf-8")
        return
    figure.savefig(path)
    if few_colors:
        from PIL import Image

        palette = Image.new("P", (1, 1))
        palette.putpalette(_tints())
        with Image.open(path) as image:
            plain = image.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
        plain.save(path, optimize=True)


def _tints() -> list[int]:
    """Greys, and the colours of rules mixed with white: a palette."""
    from matplotlib.colors import to_rgb

    colors = np.array([to_rgb(color) for color in dict(STYLES.values())])
    shares = np.array([1.0, 0.8, 0.6, 0.4, 0.2])[:, None, None]
    mixed = (1 - shares * (1 - colors)).reshape(-1, 3)
    greys = np.repeat(np.linspace(0, 1, 18), 3).reshape(-1, 3)
    return np.round(255 * np.concatenate([greys, mixed])).astype(int).ravel().tolist()
