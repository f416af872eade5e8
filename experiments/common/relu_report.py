"""The tables and the figure of `experiments.relu_study`."""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import COLORS, log_axis, make_panels, save

_WRITTEN = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "ReLU"}


def write_report(config: ConfigDict, cells: Mapping[str, Any], workdir: Path) -> None:
    """Writes results.md and relu_study.svg of the cells that are finished."""
    first = str(min(config.report_steps))
    text = "\n\n".join(
        [
            f"{len(cells)} networks. A number is the learner's training loss divided by Adam's at "
            f"its best of {len(config.adam_rates)} rates (geometric mean over networks; below 1 "
            f"the learner is ahead; losses under {config.floor:g} count as that). In parentheses: "
            "runs that diverged or ended above their start, which count with the loss at their "
            "start. `@0.1`: the same learner with its steps multiplied by 0.1.",
            "## By activation and steps\n\n" + by_activation(config, cells),
            f"## By width, {first} steps\n\n" + by_width(config, cells, first),
            f"## By network, {first} steps\n\n" + by_network(config, cells, first),
        ]
    )
    (workdir / "results.md").write_text(text + "\n", encoding="utf-8")
    draw(config, cells, first, workdir / "relu_study.svg")


def compared(
    cell: Mapping[str, Any], label: str, step: str, config: ConfigDict
) -> tuple[np.ndarray, int] | None:
    """Log ratios to Adam's best loss, `[runs]`, and how many runs failed; None if not run."""
    if step not in cell["steps"]:
        return None
    start = np.asarray(cell["start"], np.float64)

    def losses(name: str) -> np.ndarray:
        return np.asarray([float(x) for x in cell["rules"][name][step]], np.float64)

    adam = [losses(name) for name in cell["rules"] if name.startswith("adam ")]
    best = min(adam, key=lambda x: float(np.where(np.isfinite(x), x, np.inf).mean()))
    own = losses(label)
    failed = ~(own <= start)
    own = np.where(failed, start, own)
    ratio = np.log(np.maximum(own, config.floor) / np.maximum(best, config.floor))
    return ratio, int(failed.sum())


def labels_of(config: ConfigDict) -> list[str]:
    """The learners' names, with each factor."""
    return [
        name if factor == 1 else f"{name}@{factor:g}"
        for factor in config.factors
        for name in config.learners
    ]


def _cell(found: Sequence[tuple[np.ndarray, int] | None]) -> str:
    """A table's cell: the geometric mean over networks, and the failures."""
    some = [x for x in found if x is not None]
    if not some:
        return "–"
    ratio = np.exp(np.mean(np.concatenate([x[0] for x in some])))
    runs, failed = sum(len(x[0]) for x in some), sum(x[1] for x in some)
    return f"{ratio:.3g}" + (f" ({failed} of {runs})" if failed else "")


def _table(columns: Mapping[str, Sequence[tuple[str, str]]], config, cells) -> str:
    """A Markdown table: a row a rule, a column for each list of (cell, step)."""
    lines = [" | ".join(["learner", *columns]), " | ".join(["---", *["---:"] * len(columns)])]
    for label in labels_of(config):
        row = [
            _cell([compared(cells[name], label, step, config) for name, step in chosen])
            for chosen in columns.values()
        ]
        lines.append(" | ".join([label, *row]))
    return "\n".join(f"| {line} |" for line in lines)


def _grid(cells: Mapping[str, Any], config: ConfigDict) -> dict[str, tuple[str, int, int]]:
    """The cells of the grid: name -> (activation, layers, width)."""
    return {
        f"{activation} {layers} x {width}": (activation, layers, width)
        for width in config.widths
        for layers in config.layers
        for activation in config.activations
        if f"{activation} {layers} x {width}" in cells
    }


def by_activation(config: ConfigDict, cells: Mapping[str, Any]) -> str:
    """One column for each activation and number of steps."""
    grid = _grid(cells, config)
    columns = {}
    for activation in config.activations:
        for step in map(str, config.report_steps):
            chosen = [(n, step) for n, found in grid.items() if found[0] == activation]
            chosen = [(n, step) for n, step in chosen if step in cells[n]["steps"]]
            columns[f"{_written(activation)}, {step} ({len(chosen)} nets)"] = chosen
    return _table(columns, config, cells)


def by_width(config: ConfigDict, cells: Mapping[str, Any], step: str) -> str:
    """One column for each activation and width."""
    grid = _grid(cells, config)
    columns = {
        f"{_written(activation)}, {width} units": [
            (n, step) for n, found in grid.items() if (found[0], found[2]) == (activation, width)
        ]
        for activation in config.activations
        for width in config.widths
    }
    return _table(columns, config, cells)


def by_network(config: ConfigDict, cells: Mapping[str, Any], step: str) -> str:
    """One column for each network that is not of the grid; of the grid, the figure shows them."""
    others = [name for name, _ in config.extra if name in cells]
    if not others:
        return "None."
    return _table({name: [(name, step)] for name in others}, config, cells)


def draw(config: ConfigDict, cells: Mapping[str, Any], step: str, path: str | os.PathLike) -> None:
    """Ratios to Adam by network: a panel for each factor and activation, a line for each rule."""
    grid = _grid(cells, config)
    panels = [(f, a) for a in config.activations for f in config.factors]
    figure, axes = make_panels(
        len(panels),
        xlabel="layers x units",
        ylabel="loss / Adam's [times]",
        sharey=True,
        columns=len(config.factors),
    )
    figure.set_size_inches(4.8 * len(config.factors), 3.1 * len(config.activations))
    # These learners are in no other figure: none of them is in the table of rules.
    colors = dict(zip(config.learners, itertools.cycle(COLORS), strict=False))
    drawn = []
    for axis, (factor, activation) in zip(axes, panels, strict=True):
        names = [n for n, found in grid.items() if found[0] == activation]
        for learner, color in colors.items():
            label = learner if factor == 1 else f"{learner}@{factor:g}"
            ratios = [compared(cells[n], label, step, config) for n in names]
            values = [np.nan if r is None else float(np.exp(r[0].mean())) for r in ratios]
            drawn.append(values)
            axis.plot(range(len(names)), values, ".-", color=color, linewidth=1.4, label=learner)
        axis.axhline(1, color="0.3", linewidth=0.8)
        axis.set_xticks(range(len(names)), [n.split(" ", 1)[1] for n in names], rotation=60)
        title = f"{_written(activation)}, {step} steps"
        axis.set_title(title + ("" if factor == 1 else f", steps × {factor:g}"), fontsize=10)
    if grid:
        flat = np.concatenate(drawn)
        for axis in axes:
            log_axis(axis, flat, flat, above=1.2)
        label_lines(figure, axes)
    save(figure, path)


def _written(activation: str) -> str:
    return _WRITTEN.get(activation, activation)
