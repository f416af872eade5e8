"""How far rules carry over to problems of another kind, beside rules tuned for each of them.

    python -m experiments.transfer --config=experiments/configs/transfer/mnist.py --workdir=DIR

Figures 5 and 6 of Andrychowicz et al. (2016): networks that are wider, deeper or of another
activation than the one a rule was trained on, and a sweep over widths. The same command goes on
where it was cut short. Writes results.json, tables.txt, metrics.jsonl, TensorBoard events,
config.json, versions.json, and the figures losses.png and widths.png into the work directory.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.build import make_task
from experiments.common.comparison import (
    TUNING,
    Entry,
    Result,
    check_comparison,
    check_tuning,
    compare_rules,
    device_mesh,
    find_rules,
    plus_minus,
    print_tables,
)
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.names import display_name
from experiments.common.workdir import open_workdir, write_json
from learned_opt.figures import curves
from learned_opt.metrics import MetricsWriter
from learned_opt.networks import Perceptron
from learned_opt.tasks import Classifier
from learned_opt.types import Task

K = TypeVar("K")

SWEEP = {
    "widths": (),  # hidden units in each layer
    "layers": (1, 2),
    "num_steps": 100,
    "num_seeds": 16,
    "tuning": TUNING | {"num_seeds": 4, "per_decade": 4},
}

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "task": {},  # an image classifier
        "problems": {},  # name -> what is different about the task: hidden_sizes, activation
        "rules": ("sgd", "adam"),
        "num_seeds": 64,
        "num_steps": 200,
        "report_steps": (100, 200),  # steps in the tables
        "tuning": TUNING,  # of learning rates, anew for each problem
        "sweep": SWEEP,  # over widths and layers, see `SWEEP`
    }
)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with one study of transfer."""
    config = check_comparison(config, DEFAULTS)
    config.sweep = _check_sweep(config.sweep)
    mesh = device_mesh()
    entries = find_rules(config.rules, config.tuning.num_steps)
    sweep_entries = find_rules(config.rules, config.sweep.tuning.num_steps)
    base = make_task(config.task, data_dir)
    # The problem that is not different comes first.
    ordered = sorted(config.problems.items(), key=lambda item: len(item[1]) > 0)
    problems = {name: variant(base, settings) for name, settings in ordered}
    workdir = open_workdir(workdir, config)
    results = {
        name: compare_rules(
            task,
            entries,
            jax.random.key(config.seed),
            num_seeds=config.num_seeds,
            num_steps=config.num_steps,
            report_steps=config.report_steps,
            tuning_config=config.tuning,
            folder=workdir / "problems" / name.replace(" ", "_"),
            mesh=mesh,
            title=f"{name}: ",
        )
        for name, task in problems.items()
    }
    sweep = run_sweep(base, sweep_entries, config, workdir / "sweep", mesh)
    write_json(
        workdir / "results.json",
        {
            "problems": {name: [r.summary for r in rows] for name, rows in results.items()},
            "sweep": {
                f"{layers} x {width}": [r.summary for r in rows]
                for (layers, width), rows in sweep.items()
            },
        },
    )
    _write_metrics(results, config.num_steps, workdir)
    results, sweep = _for_people(results), _for_people(sweep)
    tables = [problem_table(results, step) for step in config.report_steps if results]
    tables += [sweep_table(sweep, config.sweep, layers) for layers in config.sweep.layers if sweep]
    print_tables(tables, workdir / "tables.txt")
    _draw(results, sweep, config, workdir)


def _for_people(results: Mapping[K, Sequence[Result]]) -> dict[K, list[Result]]:
    """The same results under the names that tables and figures show."""
    return {
        key: [r._replace(label=display_name(r.label)) for r in rows]
        for key, rows in results.items()
    }


def variant(base: Task, settings: Mapping[str, Any]) -> Classifier:
    """The same data under another network.

    Args:
      base: an image classifier.
      settings: its fields that are to be different, `hidden_sizes` or `activation`.

    Raises:
      ValueError: an unknown field, a value the task refuses, or a base of another kind.
    """
    if not isinstance(base, Classifier) or not isinstance(base.network, Perceptron):
        raise ValueError("transfer needs an image_classifier with network 'mlp' as its task")
    unknown = sorted(set(settings) - {"hidden_sizes", "activation"})
    if unknown:
        raise ValueError(f"a problem may differ in hidden_sizes and activation, not in {unknown}")
    current = {f: getattr(base.network, f) for f in ("hidden_sizes", "activation")}
    return Classifier.from_arrays(
        {split: (base.images[split], base.labels[split]) for split in base.images},
        num_classes=base.num_classes,
        batch_size=base.batch_size,
        init_scale=base.network.init_scale,
        max_pixel=base.max_pixel,
        **current | dict(settings),
    )


def run_sweep(
    base: Task,
    entries: Sequence[Entry],
    config: ConfigDict,
    folder: Path,
    mesh: jax.sharding.Mesh | None,
) -> dict[tuple[int, int], list[Result]]:
    """Compares the rules on every width and depth; (layers, width) -> results."""
    sweep = config.sweep
    found = {}
    for layers, width in itertools.product(sweep.layers, sweep.widths):
        found[layers, width] = compare_rules(
            variant(base, {"hidden_sizes": (width,) * layers}),
            entries,
            jax.random.key(config.seed),
            num_seeds=sweep.num_seeds,
            num_steps=sweep.num_steps,
            report_steps=(sweep.num_steps,),
            tuning_config=sweep.tuning,
            folder=folder / f"{layers}x{width}",
            mesh=mesh,
            title=f"{layers} x {width} units: ",
            measure=False,
        )
        jax.clear_caches()  # programs of a hundred shapes use up the memory maps of a process
    return found


def _check_sweep(config: ConfigDict) -> ConfigDict:
    config = check_fields(config, ConfigDict(SWEEP))
    config.tuning = check_tuning(config.tuning)
    check_positive(config, "num_steps", "num_seeds")
    for name in ("widths", "layers"):
        if not all(isinstance(n, int) and n > 0 for n in config[name]):
            raise ValueError(f"sweep.{name} must be whole numbers above 0, got {config[name]}")
    return config


def problem_table(results: Mapping[str, Sequence[Result]], step: int) -> Table:
    """One row a rule, one column a problem."""
    table = Table(title=f"training loss at step {step}: mean over runs ± standard error")
    table.add_column("rule")
    for problem in results:
        table.add_column(problem, justify="right")
    rows = {r.label: [r.label] for r in next(iter(results.values()))}
    for found in results.values():
        for result in found:
            cell = plus_minus(result.summary["loss"][str(step)])
            rows[result.label].append(cell + _above_start(result.summary))
    for row in rows.values():
        table.add_row(*row)
    return table


def _above_start(summary: Mapping[str, Any]) -> str:
    worse = summary["ended_above_start"]
    return f" ({worse} of {summary['num_seeds']} ended above start)" if worse else ""


def sweep_table(
    sweep: Mapping[tuple[int, int], Sequence[Result]], config: ConfigDict, layers: int
) -> Table:
    """One row a rule, one column a width."""
    table = Table(title=f"training loss at step {config.num_steps}, {layers} hidden layer(s)")
    table.add_column("rule")
    for width in config.widths:
        table.add_column(f"{width} units", justify="right")
    for n, result in enumerate(sweep[layers, config.widths[0]]):
        cells = []
        for width in config.widths:
            summary = sweep[layers, width][n].summary
            mean = float(summary["loss"][str(config.num_steps)]["mean"])
            cells.append(f"{mean:.3f}{_above_start(summary)}")
        table.add_row(result.label, *cells)
    return table


def _write_metrics(results: Mapping[str, Sequence[Result]], num_steps: int, workdir: Path) -> None:
    with MetricsWriter(workdir) as writer:
        for step in range(num_steps + 1):
            means = {
                f"{problem}/{r.label}/loss": float(r.losses[:, step].astype(np.float64).mean())
                for problem, rows in results.items()
                for r in rows
            }
            writer.write(step, means)


def _draw(
    results: Mapping[str, Sequence[Result]],
    sweep: Mapping[tuple[int, int], Sequence[Result]],
    config: ConfigDict,
    workdir: Path,
) -> None:
    if results:
        panels = {name: {r.label: r.losses for r in rows} for name, rows in results.items()}
        curves.loss_curves(
            panels, workdir / "losses.png", ylabel="training loss [nats]", marks=config.report_steps
        )
        print(f"figure: {workdir / 'losses.png'}")
    if not sweep:
        return
    step = str(config.sweep.num_steps)
    widths: dict[str, dict[str, Any]] = {}
    for layers in config.sweep.layers:
        title = f"{layers} hidden layer{'s' if layers > 1 else ''}, loss at step {step}"
        widths[title] = {}
        for n, first in enumerate(sweep[layers, config.sweep.widths[0]]):
            losses = [
                sweep[layers, width][n].summary["loss"][step] for width in config.sweep.widths
            ]
            widths[title][first.label] = (
                np.asarray(config.sweep.widths),
                np.asarray([loss["mean"] for loss in losses], np.float64),
                np.asarray([loss["standard_error"] for loss in losses], np.float64),
            )
    curves.width_sweep(widths, workdir / "widths.png", ylabel="training loss [nats]")
    print(f"figure: {workdir / 'widths.png'}")


if __name__ == "__main__":
    launch(main)
