r"""What a guard keeps of a rule and of its fallback, on several problems.

    python -m experiments.guard --config=experiments/configs/guard/five.py --workdir=DIR \
        --text_file=FILE

On every problem the fallback alone, the rule alone and the guarded rule start from the same
parameters and see the same minibatches. Losses are those of the whole training split at the end.
The same command goes on where it was cut short. Writes results.json, tables.txt, config.json and
versions.json into the work directory.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.build import load_rule, make_task
from experiments.common.comparison import number, print_tables
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt import guard, guard_report
from learned_opt.types import Key, Task
from learned_opt.unroll import init_inner, unroll

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "task": {},  # what all language models share: text_file, batch_size, …
        "problems": {"digits": {"name": "image_classifier", "dataset": "digits"}},  # name -> task
        "rule": "lstm_mnist",
        "fallback": "adam",  # alone, and inside of the guard
        "num_seeds": 5,
        "num_steps": 1000,
    }
)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with one comparison."""
    config = check_fields(config, DEFAULTS)
    for name in ("num_seeds", "num_steps"):
        check_positive(config, name)
    rule, fallback = (
        r.transform(theta) for r, theta in map(load_rule, (config.rule, config.fallback))
    )
    transforms = {"fallback": fallback, "rule": rule, "guarded": guard(rule, fallback)}
    workdir = open_workdir(workdir, config)
    file = workdir / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    with Progress("guard", len(results), len(config.problems)) as bar:
        for problem, settings in config.problems.items():
            if problem in results:
                continue
            settings = settings.to_dict()
            if settings["name"] == "language_model":
                settings |= config.task.to_dict()
            task = make_task(settings, data_dir)
            results[problem] = {name: measure(tx, task, config) for name, tx in transforms.items()}
            write_json(file, results)
            bar.update(len(results), {})
    print_tables([table(results)], workdir / "tables.txt")


def measure(
    tx: optax.GradientTransformation, task: Task, config: ConfigDict
) -> dict[str, list[Any]]:
    """Final training losses over the seeds, and what the guard reports where there is one."""

    @jax.jit
    def run(task: Task, key: Key):
        key_init, key_run = jax.random.split(key)
        state, losses = unroll(tx, task, init_inner(tx, task, key_init), key_run, config.num_steps)
        final = task.evaluate(state.params, state.instance, "train")["loss"]
        return final, losses, state.opt_state

    found: dict[str, list[Any]] = {"final": [], "losses": [], "report": []}
    for key in jax.random.split(jax.random.key(config.seed), config.num_seeds):
        final, losses, opt_state = jax.device_get(run(task, key))
        found["final"].append(number(float(final)))
        found["losses"].append([number(float(x)) for x in losses[:: max(1, len(losses) // 50)]])
        try:
            found["report"].append(guard_report(opt_state))
        except ValueError:  # no guard
            pass
    return found


def table(results: dict[str, Any]) -> Table:
    """A row a problem: means over seeds, and the guard's trips, all seeds together."""
    shown = Table(title="training loss at the end: mean over seeds")
    for name in ("problem", "fallback", "rule", "guarded"):
        shown.add_column(name, justify="left" if name == "problem" else "right")
    shown.add_column("guarded / fallback", justify="right")
    shown.add_column("largest of a seed", justify="right")
    shown.add_column("rule's steps", justify="right")
    shown.add_column("restores", justify="right")
    shown.add_column("trips")
    for problem, found in results.items():
        finals = {name: np.array(part["final"], np.float64) for name, part in found.items()}
        reports = found["guarded"]["report"]
        trips = {
            reason: sum(report["trips"][reason] for report in reports)
            for reason in reports[0]["trips"]
        }
        share = sum(r["rule_steps"] for r in reports) / sum(r["steps"] for r in reports)
        shown.add_row(
            problem,
            *(f"{finals[name].mean():.4g}" for name in ("fallback", "rule", "guarded")),
            f"{finals['guarded'].mean() / finals['fallback'].mean():.3f}",
            f"{(finals['guarded'] / finals['fallback']).max():.3f}",
            f"{share:.0%}",
            str(sum(report["restores"] for report in reports)),
            ", ".join(f"{reason} {n}" for reason, n in trips.items() if n) or "none",
        )
    return shown


if __name__ == "__main__":
    launch(main)
