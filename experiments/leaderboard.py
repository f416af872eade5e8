"""The leaderboard: many rules on many workloads, each with as many learning rates, from many seeds.

    python -m experiments.leaderboard --config=experiments/configs/leaderboard/leaderboard.py \
        --text_file=FILE --workdir=DIR [--rules=a,b] [--workloads=x,y]

Every rule has seven learning rates, half-decades apart; they move until the best one, by the final
validation loss, is not on their edge. The search runs from the first `search_seeds` seeds, and the
best rate then from all of them. Adam's runs of the search go on for `adam_factor` times as long,
so that speed-ups can be read off them. Test losses are reported, and choose nothing.

The same command goes on where it was cut short: a finished run is kept. `--rules` and `--workloads`
do a part of the board; parts may be done one after another in one work directory, or at the same
time in several, which `experiments.leaderboard_report --workdirs=DIR,DIR` puts together.

Writes cells/WORKLOAD/RULE.jsonl (every run), outcomes/WORKLOAD/RULE.json (the search's result),
timing/WORKLOAD.json, config.json and versions.json into the work directory.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.common.board_program import (
    Count,
    LazyTask,
    check_workload,
    chosen,
    identity,
    make_entries,
    task_config,
)
from experiments.common.board_rules import Entry
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt.studies.rate_search import CellStore, search
from learned_opt.studies.runs import run_seeds, state_bytes, step_times
from learned_opt.types import Task

_RULES = flags.DEFINE_list("rules", None, "rules of the board to run; by default all")
_WORKLOADS = flags.DEFINE_list("workloads", None, "workloads to run them on; by default all")

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "workloads": {},  # name -> {'task': …, 'num_steps': …}
        "rules": {},  # name -> see `experiments.common.board_rules.make_entry`
        "num_seeds": 5,
        "search_seeds": 2,  # of the search for the learning rate
        "points": 50,  # where the training loss is measured in a run
        "probes": 4,  # fixed minibatches on which it is
        "max_moves": 8,  # half-decades by which learning rates may move
        "timed": (),  # workloads on which a step of each rule is timed
        "celo2_weights": "",  # the file of Celo2's published weights; without it, it is left out
        "task": {},  # text_file, for the workloads that learn a text
    }
)
_KEPT = ("seed", "num_seeds", "search_seeds", "points", "probes", "max_moves")


def main(
    config: ConfigDict,
    workdir: Path,
    data_dir: str | None,
    *,
    rules: Sequence[str] | None = None,
    workloads: Sequence[str] | None = None,
) -> None:
    """Runs or goes on with the board, or with the part of it that has these names."""
    config = _checked(config)
    entries = make_entries(config, rules)
    shown = chosen("workload", config.workloads.to_dict(), workloads)
    for name, workload in shown.items():
        check_workload(name, workload, config)
    workdir = open_workdir(workdir, ConfigDict({name: config[name] for name in _KEPT}))
    total = sum(_size(entry, config) for entry in entries.values()) * len(shown)
    with Progress("leaderboard: runs", 0, total) as bar:
        count = Count(bar, total)
        for name, workload in shown.items():
            task = LazyTask(task_config(workload, config), data_dir)
            for rule, entry in entries.items():
                _run(name, workload, rule, entry, task, workdir, config, count)
            if name in config.timed:
                _time(name, workload, entries, task, workdir, config)
            jax.clear_caches()  # programs of many workloads use up a process's memory maps
    print(f"runs are in {workdir}; experiments.leaderboard_report makes a page of them")


def _checked(config: ConfigDict) -> ConfigDict:
    config = check_fields(config, DEFAULTS)
    check_positive(config, "num_seeds", "search_seeds", "points", "probes")
    if config.search_seeds > config.num_seeds:
        raise ValueError(
            f"search_seeds ({config.search_seeds}) must be at most num_seeds ({config.num_seeds})"
        )
    if config.max_moves < 0:
        raise ValueError(f"max_moves must not be negative, got {config.max_moves}")
    return config


def _size(entry: Entry, config: ConfigDict) -> int:
    if len(entry.rates) * len(entry.weight_decays) == 1:
        return config.num_seeds
    searched = len(entry.rates) * len(entry.weight_decays) * config.search_seeds
    return searched + config.num_seeds - config.search_seeds


def _run(
    workload_name: str,
    workload: Mapping[str, Any],
    rule: str,
    entry: Entry,
    task: Callable[[], Task],
    workdir: Path,
    config: ConfigDict,
    count: Count,
) -> None:
    """One rule on one workload: the search, then the best rate from all seeds."""
    store = CellStore(
        workdir / "cells" / workload_name / f"{rule}.jsonl", identity(workload, entry, config)
    )

    def run(rate: float, decay: float, seed: int, factor: int) -> float:
        if (rate, decay, seed) not in store.cells:
            runs = run_seeds(
                entry.optimizer,
                task(),
                jax.random.key(config.seed),
                [seed],
                rate=rate,
                weight_decay=decay,
                num_steps=workload["num_steps"],
                points=config.points,
                factor=factor,
                probes=config.probes,
            )
            store.add(rate, decay, seed, runs)
        count.done()
        valid = store.cells[rate, decay, seed]["valid"]
        return math.nan if valid is None else valid

    searched = range(config.search_seeds)
    found = {}
    for decay in entry.weight_decays:

        def score(rate: float, decay: float = decay) -> float:
            return float(np.mean([run(rate, decay, seed, entry.factor) for seed in searched]))

        found[decay] = search(
            entry.rates,
            score,
            max_moves=config.max_moves,
            moved=lambda: count.more(config.search_seeds),
        )
    decay = min(found, key=lambda decay: found[decay].score)
    best = found[decay]
    for seed in range(config.search_seeds, config.num_seeds):
        run(best.rate, decay, seed, 1)
    path = workdir / "outcomes" / workload_name / f"{rule}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        size, of_params = state_bytes(
            entry.optimizer, task(), jax.random.key(config.seed), workload["num_steps"]
        )
        outcome = {
            "rate": best.rate,
            "weight_decay": decay,
            "searched": len(entry.rates) > 1,
            "on_edge": best.on_edge,
            "window": best.window,
            "scores": [x if math.isfinite(x) else None for x in best.scores],
            "factor": entry.factor,
            "num_steps": workload["num_steps"],
            "points": config.points,
            "state_bytes": size,
            "parameter_bytes": of_params,
            "identity": entry.identity,
        }
        write_json(path, outcome)


def _time(
    name: str,
    workload: Mapping[str, Any],
    entries: Mapping[str, Entry],
    task: Callable[[], Task],
    workdir: Path,
    config: ConfigDict,
) -> None:
    """Times a step of each rule, turn and turn about in this one process."""
    rules = hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()[:8]
    path = workdir / "timing" / f"{name}_{rules}.json"
    if path.exists():
        return
    optimizers = {rule: entry.optimizer for rule, entry in entries.items()}
    seconds = step_times(optimizers, task(), jax.random.key(config.seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {rule: [1e3 * x for x in turns] for rule, turns in seconds.items()}
    write_json(path, {"workload": name, "milliseconds": found})


if __name__ == "__main__":

    def experiment(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
        """The part of the board that the flags ask for."""
        main(config, workdir, data_dir, rules=_RULES.value, workloads=_WORKLOADS.value)

    launch(experiment)
