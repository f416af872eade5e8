"""Stability: long runs at one constant learning rate, and how many of them fail.

    python -m experiments.stability --config=experiments/configs/stability/stability.py \
        --workdir=DIR [--rules=a,b] [--workloads=x,y]

A run *diverges* where a loss is not finite, and *ends above its start* where its training loss on
fixed minibatches does (`learned_opt.evaluation.ended_above_start`). The same command goes on where
it was cut short. `experiments.leaderboard_report --stability=DIR` shows the counts on its page.

Writes cells/WORKLOAD/RULE.jsonl (every run), stability.json, tables.txt, config.json and
versions.json into the work directory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.board_program import (
    Count,
    LazyTask,
    check_workload,
    chosen,
    identity,
    make_entries,
    task_config,
)
from experiments.common.comparison import print_tables
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.names import display_name
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt.evaluation import ended_above_start
from learned_opt.studies.rate_search import CellStore
from learned_opt.studies.runs import run_seeds

_RULES = flags.DEFINE_list("rules", None, "rules to run; by default all")
_WORKLOADS = flags.DEFINE_list("workloads", None, "workloads to run them on; by default all")

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "workloads": {},  # name -> {'task': …, 'num_steps': …}
        "rules": {},  # name -> see `experiments.common.board_rules.make_entry`; one rate each
        "num_seeds": 20,
        "points": 50,  # where the training loss is measured in a run
        "probes": 4,  # fixed minibatches on which it is
        "celo2_weights": "",  # the file of Celo2's published weights; without it, it is left out
        "task": {},  # text_file, for the workloads that learn a text
    }
)
_KEPT = ("seed", "num_seeds", "points", "probes")


def main(
    config: ConfigDict,
    workdir: Path,
    data_dir: str | None,
    *,
    rules: Sequence[str] | None = None,
    workloads: Sequence[str] | None = None,
) -> None:
    """Runs or goes on with all runs, or with those of these rules and workloads."""
    config = check_fields(config, DEFAULTS)
    check_positive(config, "num_seeds", "points", "probes")
    entries = make_entries(config, rules)
    for name, entry in entries.items():
        if len(entry.rates) * len(entry.weight_decays) != 1:
            raise ValueError(f"rule {name!r} must have one rate and at most one weight decay here")
    shown = chosen("workload", config.workloads.to_dict(), workloads)
    for name, workload in shown.items():
        check_workload(name, workload, config)
    workdir = open_workdir(workdir, ConfigDict({name: config[name] for name in _KEPT}))
    counts: dict[str, dict[str, dict[str, Any]]] = {rule: {} for rule in entries}
    total = len(entries) * len(shown) * config.num_seeds
    with Progress("stability: runs", 0, total) as bar:
        count = Count(bar, total)
        for name, workload in shown.items():
            task = LazyTask(task_config(workload, config), data_dir)
            for rule, entry in entries.items():
                path = workdir / "cells" / name / f"{rule}.jsonl"
                store = CellStore(path, identity(workload, entry, config))
                knobs = entry.rates[0], entry.weight_decays[0]
                for seed in range(config.num_seeds):
                    if (*knobs, seed) not in store.cells:
                        runs = run_seeds(
                            entry.optimizer,
                            task(),
                            jax.random.key(config.seed),
                            [seed],
                            rate=knobs[0],
                            weight_decay=knobs[1],
                            num_steps=workload["num_steps"],
                            points=config.points,
                            probes=config.probes,
                            heldout=False,
                        )
                        store.add(*knobs, seed, runs)
                    count.done()
                train = [store.cells[(*knobs, s)]["train"] for s in range(config.num_seeds)]
                counts[rule][name] = _counts(np.array(train, float), workload["num_steps"])
            jax.clear_caches()  # programs of many workloads use up a process's memory maps
    write_json(workdir / "stability.json", counts)
    print_tables([_table(counts)], workdir / "tables.txt")


def _counts(train: np.ndarray, num_steps: int) -> dict[str, Any]:
    diverged = ~np.isfinite(train).all(axis=1)
    return {
        "runs": len(train),
        "num_steps": num_steps,
        "diverged": int(diverged.sum()),
        "ended_above_start": int(ended_above_start(train).sum()),
        "median_end_over_start": float(np.median(train[:, -1] / train[:, 0]))
        if not diverged.any()
        else None,
    }


def _table(counts: dict[str, dict[str, dict[str, Any]]]) -> Table:
    table = Table(title="Runs that diverged + runs that ended above their start, of all runs")
    table.add_column("rule")
    for workload in next(iter(counts.values())):
        table.add_column(workload, justify="right")
    table.add_column("all", justify="right")
    for rule, found in counts.items():
        table.add_row(
            display_name(rule),
            *(f"{x['diverged']} + {x['ended_above_start']}" for x in found.values()),
            f"{sum(x['diverged'] + x['ended_above_start'] for x in found.values())} of "
            f"{sum(x['runs'] for x in found.values())}",
        )
    return table


if __name__ == "__main__":

    def experiment(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
        """The part that the flags ask for."""
        main(config, workdir, data_dir, rules=_RULES.value, workloads=_WORKLOADS.value)

    launch(experiment)
