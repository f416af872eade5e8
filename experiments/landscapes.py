r"""How rules move: their trajectories on 2-D surfaces.

    python -m experiments.landscapes --config=experiments/configs/landscapes/surfaces.py \
        --workdir=DIR

Hand-designed rules get the learning rate that is best on the surface itself; where a surface has no
minimum, the one that is best on `tune_unbounded_on`. Learned rules run as they
are. Writes results.json, tables.txt, metrics.jsonl, TensorBoard events, config.json, versions.json,
and the figures overview.png, losses.png and one with a panel a rule for each surface.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.comparison import (
    TUNING,
    Entry,
    check_tuning,
    find_rules,
    number,
    print_tables,
    tune,
)
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.names import display_name
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt import evaluation
from learned_opt.evaluation import ended_above_start
from learned_opt.figures import curves
from learned_opt.figures import surfaces as plots
from learned_opt.metrics import MetricsWriter
from learned_opt.tasks import SURFACES, Surface

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "surfaces": SURFACES,  # names of `tasks.Surface`
        "rules": ("sgd", "adam"),
        "num_steps": 200,
        "tune_unbounded_on": "ravine",  # the surface whose rates those without a minimum take
        # The score is the mean loss over the last half of the way: a rule must get there and stay.
        "tuning": TUNING
        | {
            "num_steps": (200,),
            "num_seeds": 1,
            "low": 1e-4,
            "max_extensions": 0,
            "split": "",
            "window": 100,
        },
    }
)


class Way(NamedTuple):
    """One rule on one surface.

    Attributes:
      surface: the surface's name.
      label: the rule's.
      learning_rate: what tuning found, or None.
      points: `[num_steps + 1, 2]`.
      losses: `[num_steps + 1]`.
    """

    surface: str
    label: str
    learning_rate: float | None
    points: np.ndarray
    losses: np.ndarray


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs every rule on every surface."""
    del data_dir
    config = check_fields(config, DEFAULTS)
    config.tuning = check_tuning(config.tuning)
    check_positive(config, "num_steps")
    entries = find_rules(config.rules, config.tuning.num_steps)
    surfaces = [Surface(name) for name in config.surfaces]
    tune_unbounded_on = Surface(config.tune_unbounded_on)
    if not tune_unbounded_on.minima:
        raise ValueError("tune_unbounded_on must name a surface that has a minimum")
    if not surfaces:
        raise ValueError("surfaces must name at least one surface")
    workdir = open_workdir(workdir, config)
    ways: list[Way] = []
    with Progress("landscapes", 0, len(surfaces) * len(entries)) as bar:
        for surface in surfaces:
            tune_on = surface if surface.minima else tune_unbounded_on
            for entry in entries:
                ways.append(travel(surface, tune_on, entry, config))
                bar.update(len(ways), {})
    _write(ways, config.num_steps, workdir)
    ways = [way._replace(label=display_name(way.label)) for way in ways]
    print_tables([final_table(ways)], workdir / "tables.txt")
    _draw(surfaces, ways, workdir)


def travel(surface: Surface, tune_on: Surface, entry: Entry, config: ConfigDict) -> Way:
    """Tunes a rule where there is something to tune, and records its way."""
    key, theta, learning_rate = jax.random.key(config.seed), entry.theta, None
    if entry.tuned_for is not None:
        tuned = tune(entry, tune_on, key, config.tuning)
        theta, learning_rate = tuned.theta, tuned.value
    points, losses = evaluation.trajectory(
        entry.rule, theta, surface, key, num_steps=config.num_steps
    )
    return Way(surface.name, entry.label, learning_rate, np.asarray(points), np.asarray(losses))


def _gap(surface: Surface, losses: np.ndarray) -> np.ndarray:
    """Losses above the lowest minimum, as far as float32 tells."""
    x, y = map(jnp.float32, surface.minima[0])
    return np.maximum(losses - float(surface.value(x, y)), 1e-7)


def _write(ways: Sequence[Way], num_steps: int, workdir: Path) -> None:
    write_json(
        workdir / "results.json",
        [
            {
                "surface": way.surface,
                "rule": way.label,
                "learning_rate": way.learning_rate,
                "ended_above_start": bool(ended_above_start(way.losses[None])[0]),
                "final_loss": number(float(way.losses[-1])),
                "final_point": [number(float(x)) for x in way.points[-1]],
                "distance_to_a_minimum": number(_distance(way)),
            }
            for way in ways
        ],
    )
    with MetricsWriter(workdir) as writer:
        for step in range(num_steps + 1):
            writer.write(
                step, {f"{way.surface}/{way.label}/loss": float(way.losses[step]) for way in ways}
            )


def _distance(way: Way) -> float:
    minima = Surface(way.surface).minima
    return min((math.dist(way.points[-1], minimum) for minimum in minima), default=math.nan)


def outcome(way: Way) -> str:
    """Where a way ends: the last loss, or, where there is no minimum, when it leaves the window."""
    surface = Surface(way.surface)
    if surface.minima:
        above = ", above its start" if ended_above_start(way.losses[None])[0] else ""
        return f"{way.losses[-1]:.3g}{above}"
    low, high = np.asarray(surface.window).T
    outside = ~((low <= way.points) & (way.points <= high)).all(axis=1)
    return f"leaves at {np.argmax(outside)}" if outside.any() else "stays"


def final_table(ways: Sequence[Way]) -> Table:
    """One row a rule, one column a surface; see `outcome`."""
    steps = len(ways[0].losses) - 1
    table = Table(title=f"loss after {steps} updates (learning rate)")
    table.add_column("rule")
    surfaces = list(dict.fromkeys(way.surface for way in ways))
    for surface in surfaces:
        table.add_column(surface, justify="right")
    for label in dict.fromkeys(way.label for way in ways):
        cells = []
        for way in ways:
            if way.label == label:
                rate = "" if way.learning_rate is None else f" ({way.learning_rate:.2g})"
                cells.append(outcome(way) + rate)
        table.add_row(label, *cells)
    return table


def _caption(way: Way) -> str:
    """The learning rate of a way, and where it ends."""
    rate = "as trained" if way.learning_rate is None else f"rate {way.learning_rate:.2g}"
    found = outcome(way)
    return f"{rate}: {'' if found.startswith(('leaves', 'stays')) else 'loss '}{found}"


def _draw(surfaces: Sequence[Surface], ways: Sequence[Way], workdir: Path) -> None:
    by_surface = {s.name: [way for way in ways if way.surface == s.name] for s in surfaces}
    labels = list(dict.fromkeys(way.label for way in ways))
    plots.trajectories(
        [
            plots.Panel(
                surface,
                label,
                way.points,
                f"{surface.name}\n{_caption(way)}" if row == 0 else _caption(way),
                label if column == 0 else "",
            )
            for row, label in enumerate(labels)
            for column, surface in enumerate(surfaces)
            for way in by_surface[surface.name]
            if way.label == label
        ],
        workdir / "overview.png",
        columns=len(surfaces),
    )
    for surface in surfaces:
        plots.trajectories(
            [
                plots.Panel(surface, way.label, way.points, f"{way.label}\n{_caption(way)}")
                for way in by_surface[surface.name]
            ],
            workdir / f"{surface.name}.png",
            columns=min(4, len(labels)),
        )
    gaps = {
        f"{s.name}: loss above the minimum": {
            way.label: _gap(s, way.losses)[None] for way in by_surface[s.name]
        }
        for s in surfaces
        if s.minima
    }
    if gaps:
        curves.loss_curves(gaps, workdir / "losses.png")
    print(f"figures: {', '.join(str(path) for path in sorted(workdir.glob('*.png')))}")


if __name__ == "__main__":
    launch(main)
