"""Which optimizer includes which: specialized rules approach the rules that they include.

    python -m experiments.inclusion --config=experiments/configs/inclusion/arrows.py --workdir=DIR

For each arrow, task and schedule it runs the special rule and the general one that is to follow it,
in float64, and reports the largest relative error of the parameters; where the general rule follows
only in the limit, error × ε shows how. Momentum and Nesterov, neither of which includes the other,
are the counterexample. Writes results.json, tables.txt, config.json, versions.json and the figure
inclusion.png into the work directory.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.build import make_task
from experiments.common.comparison import print_tables
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.names import display_name
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt.figures import curves
from learned_opt.studies import inclusion
from learned_opt.types import Theta
from learned_opt.update_rules import hierarchy

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "tasks": {"quadratic": {"name": "quadratic"}},  # name -> task
        "learning_rates": {"quadratic": 0.01},  # of the special rule, on each task
        "momentum": 0.9,  # its γ
        "decay_factor": 0.01,  # of the decaying schedule; the other one is constant
        "num_steps": 200,
        # how near a rule comes to its limit: errors fall as 1/ε
        "eps": tuple(10.0**n for n in range(2, 11)),
    }
)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Measures every arrow, in float64."""
    with jax.enable_x64(True):
        _measure(_checked(config), workdir, data_dir)


def _measure(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    tasks = {name: make_task(task, data_dir) for name, task in config.tasks.items()}
    workdir = open_workdir(workdir, config)
    key = jax.random.key(config.seed)
    rows = []
    cases = [
        (arrow, name, decays)
        for arrow in inclusion.INCLUSIONS
        for name in tasks
        for decays in (False, True)
    ]
    with Progress("inclusion", 0, len(cases)) as bar:
        for n, (arrow, name, decays) in enumerate(cases, 1):
            theta = _theta(arrow, config, name, decays)
            errors = [
                inclusion.trajectory_error(
                    arrow, theta, eps, tasks[name], key, num_steps=config.num_steps
                )
                for eps in (config.eps[:1] if arrow.exact else config.eps)
            ]
            rows.append(
                {
                    "inclusion": arrow.name,
                    "task": name,
                    "learning_rate": "decaying" if decays else "constant",
                    "exact": arrow.exact,
                    "errors": errors,
                }
            )
            bar.update(n, {})
    first = next(iter(config.learning_rates.values()))
    nesterov = _momentum_theta(first, config.momentum, 1.0, config.num_steps)
    nearest, distance = inclusion.nearest_momentum(nesterov)
    counterexample = {
        "nesterov": {k: float(v) for k, v in nesterov.items()},
        "nearest_momentum": {k: float(v) for k, v in nearest.items()},
        "distance": distance,
    }
    results = {"eps": list(config.eps), "rows": rows, "counterexample": counterexample}
    write_json(workdir / "results.json", results)
    print_tables([_table(rows, config)], workdir / "tables.txt")
    name = next(iter(tasks))
    curves.inclusions(
        {
            f"{row['inclusion']}": (config.eps, row["errors"])
            for row in rows
            if not row["exact"] and row["task"] == name and row["learning_rate"] == "constant"
        },
        {
            display_name("nesterov"): inclusion.impulse_response(
                hierarchy.nesterov(), nesterov, 25
            ),
            display_name("momentum (the nearest)"): inclusion.impulse_response(
                hierarchy.momentum(), nearest, 25
            ),
        },
        workdir / "inclusion.png",
        task=name,
    )
    print(
        f"nesterov ⊄ momentum: the nearest momentum (γ = "
        f"{1 - float(nearest['one_minus_momentum']):.3f} for {config.momentum}) is off by "
        f"{100 * distance:.1f} % of the response to a single gradient"
    )
    print(f"figure: {workdir / 'inclusion.png'}")


def _checked(config: ConfigDict) -> ConfigDict:
    config = check_fields(config, DEFAULTS)
    check_positive(config, "num_steps")
    if not config.tasks:
        raise ValueError("tasks must name at least one task")
    if set(config.tasks) != set(config.learning_rates):
        raise ValueError(
            f"learning_rates must have the names of tasks, {sorted(config.tasks)}, got "
            f"{sorted(config.learning_rates)}"
        )
    positive = [*config.learning_rates.values(), *config.eps, config.decay_factor]
    if not config.eps or any(not (x > 0 and math.isfinite(x)) for x in positive):
        raise ValueError("learning_rates, eps and decay_factor must be positive numbers")
    if not 0 < config.momentum < 1:
        raise ValueError(f"momentum must lie between 0 and 1, got {config.momentum}")
    return config


def _theta(arrow: inclusion.Inclusion, config: ConfigDict, task: str, decays: bool) -> Theta:
    """θ of the special rule."""
    rate, factor = config.learning_rates[task], config.decay_factor if decays else 1.0
    theta = _momentum_theta(rate, config.momentum, factor, config.num_steps)
    names = arrow.special.init(jax.random.key(0))
    return {name: value for name, value in theta.items() if name in names}


def _momentum_theta(rate: float, momentum: float, factor: float, num_steps: int) -> Theta:
    values = {
        "learning_rate": rate,
        "one_minus_momentum": 1 - momentum,
        "decay_steps": num_steps,
        "decay_factor": factor,
    }
    return {name: jnp.asarray(value, jnp.float64) for name, value in values.items()}


def _table(rows: list[dict], config: ConfigDict) -> Table:
    table = Table(title=f"Largest relative error of the parameters over {config.num_steps} updates")
    for column in ("inclusion", "task", "learning rate"):
        table.add_column(column)
    for column in ("error", "error × ε, median", "spread over ε"):
        table.add_column(column, justify="right")
    for row in rows:
        errors = np.array(row["errors"])
        cells = [f"{errors[0]:.1e}", "exact", ""]
        if not row["exact"]:
            products = errors * np.array(config.eps)
            spread = np.abs(products / np.median(products) - 1).max()
            cells = [
                f"{errors[0]:.1e} … {errors[-1]:.1e}",
                f"{np.median(products):.3f}",
                f"{100 * spread:.1f} %",
            ]
        table.add_row(row["inclusion"], row["task"], row["learning_rate"], *cells)
    return table


if __name__ == "__main__":
    launch(main)
