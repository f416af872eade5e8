"""Tuning studies: every rule tuned over all of its hyperparameters on one workload.

    python -m experiments.tune --config=experiments/configs/tune/digits.py --workdir=DIR

Rules are those of `learned_opt.update_rules.hierarchy`. Each has search spaces of its own, small
files `spaces`/LEVEL/RULE.json: the initial one, the final one that its results suggested
(`suggested_spaces` in the work directory), and smaller ones for what rankings owe to the space.
A pretrained rule has no knobs and is run over as many seeds.

Trials are chosen on the validation split. What the best of K would give on the test split is a
statistic; nothing is chosen by it. The winner is run again on seeds that tuning has not seen.

The same command goes on where it was cut short, with more `num_trials` it extends the studies, and
several machines share a work directory with --config.shard=N and --config.num_shards=M.
`experiments.study_report` makes a page of one work directory or several. With
--config.defaults="(1e-3,1e-2,1e-1)" each rule also runs with its customary hyperparameters at these
learning rates, on the validation split; where one of them beats the best trial, a line says so.

Writes studies/LEVEL/RULE/ (every trial), winners/LEVEL/RULE.json, suggested_spaces/LEVEL/RULE.json,
results.json, tables.txt, config.json, versions.json and best_of_k.png into the work directory.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common import plain_defaults
from experiments.common.build import HIERARCHY, make_task
from experiments.common.comparison import number, print_tables
from experiments.common.find_studies import Study, find_studies
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.names import display_name
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt import studies
from learned_opt.figures import studies as study_plots
from learned_opt.studies import statistics
from learned_opt.studies.spaces import around_best
from learned_opt.studies.trials import scores as all_scores
from learned_opt.types import Task

_WINNER = 0x7769_6E6E  # folded into the key: the winner meets starts that tuning has not seen

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "workload": "",  # the task's name in the results
        "task": {},
        "rules": ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam"),
        "spaces": "",  # the folder of LEVEL/RULE.json
        "levels": ("final",),  # spaces to search, small to large; without a file: as the one before
        "num_trials": 50,  # of each rule in each space
        "num_steps": 1000,
        "num_seeds": 1,  # runs of each trial, averaged: for families of problems
        "segments": 10,  # parts of a run after which the validation split is evaluated
        "lanes": 0,  # trials that run together; 0: what memory allows, at most num_trials
        "patience": 0,  # segments without a lower validation loss before a run stops; 0: never
        "metric": "error",  # chooses the winner: 'error' or 'loss' on the validation split
        "winner_seeds": 10,  # fresh runs of the best trial
        "defaults": (),  # learning rates at which each rule runs with customary hyperparameters too
        "shard": 0,  # which of `num_shards` machines this one is
        "num_shards": 1,  # machines that share the work directory
        "num_devices": 0,  # over which lanes are sharded; 0: one CPU, or every accelerator
    }
)
_OF_WINNER = ("test_error", "test_loss", "losses", "valid", "ended_above_start")
_FREE = (  # between calls
    "num_trials", "levels", "rules", "defaults", "shard", "num_shards", "num_devices",
)  # fmt: skip


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with the studies of one workload."""
    config = _checked(config)
    levels = find_studies(config)
    task = make_task(config.task, data_dir)
    _check_metric(config, task)
    mesh = _mesh(config)
    free = _FREE if config.patience else (*_FREE, "patience")  # directories from before it go on
    kept = ConfigDict({name: value for name, value in config.items() if name not in free})
    workdir = open_workdir(workdir, kept, part=config.shard, parts=config.num_shards)
    results: dict[str, dict[str, Any]] = {level: {} for level in levels}
    done: dict[Path, dict[str, Any]] = {}
    for level, found in levels.items():
        for study in found:
            if study.folder not in done:
                trials = _run(study, task, workdir, config, mesh)
                if len(trials) < config.num_trials:
                    message = f"{len(trials)} of {config.num_trials} trials done; others to come"
                    print(f"{study.folder}: {message}")
                    continue
                done[study.folder] = _summary(study, trials, task, workdir, config)
                jax.clear_caches()  # programs of many studies use up a process's memory maps
            results[level][study.rule_name] = done[study.folder]
    shown = {level: found for level, found in results.items() if found}
    description = {name: config[name] for name in ("workload", "metric", "num_steps", "num_trials")}
    write_json(workdir / "results.json", description | {"levels": shown})
    if not shown:
        return
    searched = {s.rule_name for found in levels.values() for s in found if s.theta is None}
    shown = {
        level: {_display(n, n in searched): r for n, r in found.items()}
        for level, found in shown.items()
    }
    print_tables([_table(level, r, config) for level, r in shown.items()], workdir / "tables.txt")
    plain_defaults.print_warnings(shown)
    study_plots.best_of_k(
        {
            f"{config.workload}, {level} space: test {config.metric}": {
                name: [r["best_of_k"][part] for part in ("ks", "mean", "low", "high")]
                for name, r in found.items()
            }
            for level, found in shown.items()
        },
        workdir / "best_of_k.png",
    )
    print(f"figure: {workdir / 'best_of_k.png'}")


def _checked(config: ConfigDict) -> ConfigDict:
    config = check_fields(config, DEFAULTS)
    check_positive(config, "num_trials", "num_steps", "segments", "winner_seeds", "num_shards")
    check_positive(config, "num_seeds")
    if config.num_steps % config.segments:
        raise ValueError(f"segments ({config.segments}) must divide num_steps ({config.num_steps})")
    if config.metric not in ("error", "loss"):
        raise ValueError(f"metric must be 'error' or 'loss', got {config.metric!r}")
    if not 0 <= config.shard < config.num_shards:
        raise ValueError(
            f"shard must be from 0 to {config.num_shards - 1} (num_shards - 1), got {config.shard}"
        )
    if any(not rate > 0 for rate in config.defaults):
        raise ValueError(f"defaults must be learning rates above 0, got {config.defaults}")
    if config.patience < 0:
        raise ValueError(f"patience must not be negative, got {config.patience}")
    if config.lanes < 0:
        raise ValueError(f"lanes must not be negative, got {config.lanes}")
    if config.num_devices < 0 or (config.num_devices > 1 and not config.lanes):
        raise ValueError("set lanes, a multiple of num_devices, to share them between devices")
    if not config.workload:
        raise ValueError("workload must name the task")
    for name in ("rules", "levels"):
        if not config[name] or len(set(config[name])) < len(config[name]):
            raise ValueError(f"{name} must be names, each once")
    return config


def _mesh(config: ConfigDict) -> jax.sharding.Mesh | None:
    """The devices that share the lanes; None for a single one."""
    if config.num_devices > 1 and jax.config.values["jax_num_cpu_devices"] < 0:
        with contextlib.suppress(RuntimeError):  # the devices are started already: take them
            jax.config.update("jax_num_cpu_devices", config.num_devices)
    devices = jax.local_devices()
    most = config.num_devices or (1 if jax.default_backend() == "cpu" else len(devices))
    if most > len(devices):
        raise ValueError(f"num_devices ({most}) must be at most the {len(devices)} there are")
    if config.num_devices and config.lanes % config.num_devices:
        raise ValueError(f"num_devices ({most}) must divide lanes ({config.lanes})")
    count = max(n for n in range(1, most + 1) if config.lanes % n == 0)
    return jax.make_mesh((count,), ("lanes",), devices=devices[:count]) if count > 1 else None


def _check_metric(config: ConfigDict, task: Task) -> None:
    def metrics(key):
        instance = task.sample(key)
        return task.evaluate(task.init(key, instance), instance, "valid")

    known = jax.eval_shape(metrics, jax.random.key(0))
    if config.metric == "error" and "accuracy" not in known:
        raise ValueError(f"{config.workload} has no accuracy: set metric to 'loss'")


def _run(
    study: Study, task: Task, workdir: Path, config: ConfigDict, mesh: jax.sharding.Mesh | None
) -> dict[int, dict[str, Any]]:
    """Its trials, those that other processes did included."""
    with Progress(f"{study.folder}: batches of trials", 0, 1) as bar:

        def report(done: int, total: int) -> None:
            bar.retotal(max(total, 1))
            bar.update(done, {})

        return studies.run_study(
            study.rule,
            study.space,
            task,
            workdir / "studies" / study.folder,
            workload=config.workload,
            num_trials=config.num_trials,
            num_steps=config.num_steps,
            seed=config.seed,
            num_seeds=config.num_seeds,
            lanes=config.lanes or None,
            segments=config.segments,
            patience=config.patience or None,
            mesh=None if study.theta is not None else mesh,
            shard=(config.shard, config.num_shards),
            theta=study.theta,
            progress=report,
        )


def _summary(
    study: Study, trials: Mapping[int, dict], task: Task, workdir: Path, config: ConfigDict
) -> dict[str, Any]:
    """What a finished study says, and its winner on fresh seeds.

    Raises:
      FloatingPointError: every trial diverged.
    """
    scores = all_scores(trials, metric=config.metric)
    if not np.isfinite(scores).any():
        raise FloatingPointError(
            f"{study.folder}: all {len(scores)} trials diverged; lower the learning rates of its "
            f"space in {config.spaces} (its trials are kept in {workdir / 'studies'})"
        )
    test = all_scores(trials, split="reported", metric=config.metric)
    best = list(trials.values())[int(np.argmin(scores))]
    distribution = statistics.best_of_k(scores, test)
    points = [trial["point"] for trial in trials.values()]
    if study.space.parameters and np.isfinite(scores).sum() >= 5:
        suggested = around_best(study.space, points, scores.tolist())
        folder = workdir / "suggested_spaces" / study.level
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{study.rule_name}.json", suggested.to_dict())
    winner = _winner(study, best, task, workdir, config)
    default = None
    if config.defaults and study.theta is None:
        default = plain_defaults.best_default(
            study.rule,
            task,
            jax.random.key(config.seed),
            workdir / "defaults" / f"{study.rule_name}.json",
            learning_rates=config.defaults,
            metric=config.metric,
            num_steps=config.num_steps,
            num_seeds=config.num_seeds,
            segments=config.segments,
            patience=config.patience or None,
        )
    return {
        "level": study.level,
        "num_trials": len(trials),
        "divergence_rate": statistics.divergence_rate(scores),
        "ended_above_start": _count_above_start(study, trials, task, config),
        "best_of_k": {
            "ks": distribution.ks.tolist(),
            **{
                part: [number(x) for x in getattr(distribution, part)]
                for part in ("mean", "low", "median", "high")
            },
        },
        "best": {
            "index": best["index"],
            "score": float(np.min(scores)),
            "hyperparameters": best["hyperparameters"],
            "on_edge": study.space.on_edge(best["point"]),
        },
        "best_plain_default": default,
        "winner": {name: winner[name] for name in _OF_WINNER},
        "scores": [number(x) for x in scores],
        "test_scores": [number(x) for x in test],
        "space": study.space.to_dict(),
    }


def _count_above_start(
    study: Study, trials: Mapping[int, dict], task: Task, config: ConfigDict
) -> int:
    """How many trials end with a validation loss above that of their start, without diverging."""
    key = jax.random.key(config.seed)
    if study.theta is None:  # all trials have one start
        start = studies.start_loss(task, key, num_seeds=config.num_seeds)
        starts = dict.fromkeys(trials, start)
    else:
        keys = {index: jax.random.fold_in(key, index) for index in trials}
        starts = {
            index: studies.start_loss(task, key, num_seeds=config.num_seeds)
            for index, key in keys.items()
        }
    return sum(
        trial["diverged_at"] is None and trial["heldout"]["valid"]["loss"][-1] > starts[index]
        for index, trial in trials.items()
    )


def _winner(
    study: Study, best: dict, task: Task, workdir: Path, config: ConfigDict
) -> dict[str, Any]:
    """The best trial on seeds that tuning has not seen; kept, with its time, in `winners`."""
    file = workdir / "winners" / f"{study.folder}.json"
    identity = {"hyperparameters": best["hyperparameters"], "seeds": config.winner_seeds}
    if file.exists():
        present = json.loads(file.read_text(encoding="utf-8"))
        same = {name: present.get(name) for name in identity} == identity
        if same and set(_OF_WINNER) <= set(present):
            return present
    if study.theta is not None:
        theta = study.theta
    else:
        theta = {name: jnp.float32(value) for name, value in best["hyperparameters"].items()}
    lane = jax.tree.map(lambda x: jnp.asarray(x)[None], theta)
    key = jax.random.fold_in(jax.random.key(config.seed), _WINNER)
    runs, seconds, starts = [], [], []
    for n in range(config.winner_seeds):
        begin = time.perf_counter()
        run = studies.run_lanes(
            study.rule,
            lane,
            task,
            jax.random.fold_in(key, n),
            num_steps=config.num_steps,
            num_seeds=config.num_seeds,
            segments=config.segments,
            patience=config.patience or None,
            report="test",
        )
        seconds.append(time.perf_counter() - begin)
        runs.append(run)
        start = jax.random.fold_in(key, n)
        starts.append(studies.start_loss(task, start, num_seeds=config.num_seeds))
    merged: studies.Lanes = jax.tree.map(lambda *x: np.concatenate(x), *runs)
    diverged = merged.diverged_at >= 0
    valid = merged.heldout["valid"]

    def numbers(values: np.ndarray) -> list[Any]:
        return [number(np.inf if d else x) for x, d in zip(values, diverged, strict=True)]

    found = identity | {
        "test_loss": numbers(merged.reported["loss"]),
        "test_error": numbers(1 - merged.reported["accuracy"])
        if "accuracy" in merged.reported
        else None,
        "losses": [[number(x) for x in row] for row in merged.losses],
        "valid": [
            [number(x) for x in row]
            for row in (1 - valid["accuracy"] if config.metric == "error" else valid["loss"])
        ],
        "ended_above_start": int((~diverged & (valid["loss"][:, -1] > starts)).sum()),
        "seconds_per_run": min(seconds),  # the first one compiles
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found)
    return found


def _display(name: str, searched: bool) -> str:
    if name in HIERARCHY:
        return display_name(name, hierarchy=True)
    return f"{name} (its knobs tuned)" if searched else f"{name} (untuned)"


def _table(level: str, results: Mapping[str, Any], config: ConfigDict) -> Table:
    table = Table(
        title=f"{config.workload}, {level} space: {config.num_trials} trials a rule, "
        f"{config.num_steps} updates, winners on {config.winner_seeds} fresh seeds"
    )
    table.add_column("rule")
    scale, unit = (100, ", %") if config.metric == "error" else (1, "")
    columns = [f"valid {config.metric}{unit}", f"test {config.metric}{unit}"]
    columns += ["test loss"] if config.metric != "loss" else []
    columns += [f"best plain default, valid {config.metric}{unit}"] if config.defaults else []
    for column in (*columns, "diverged", "ended above start", "best point on the edge of"):
        table.add_column(column, justify="right")
    for name, result in results.items():
        values = np.array(result["winner"][f"test_{config.metric}"], float)
        loss = np.array(result["winner"]["test_loss"], float)
        diverged = int((~np.isfinite(values)).sum())
        if diverged:
            shown = f"diverged on {diverged} of {len(values)} seeds"
        else:
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
            shown = f"{scale * values.mean():.4g} ± {scale * error:.2g}"
            worse = result["winner"]["ended_above_start"]
            shown += f" ({worse} of {len(values)} ended above start)" if worse else ""
        edges = [f"{k} ({v})" for k, v in result["best"]["on_edge"].items()]
        table.add_row(
            name,
            f"{scale * result['best']['score']:.4g}",
            shown,
            *([f"{loss.mean():.4g}"] if config.metric != "loss" else []),
            *([plain_defaults.cell(result, scale)] if config.defaults else []),
            f"{100 * result['divergence_rate']:.0f} %",
            f"{result['ended_above_start']} of {result['num_trials']}",
            ", ".join(edges),
        )
    return table


if __name__ == "__main__":
    launch(main)
