"""Tuning studies: every rule tuned over all of its hyperparameters on one workload.

    python -m experiments.tune --config=experiments/configs/tune_digits.py --workdir=DIR

Rules are those of `learned_opt.update_rules.hierarchy`, each with a search space of its own in
`spaces`/RULE.json; a pretrained rule has no knobs and is run over as many seeds. Trials are chosen
on the validation split; the winner alone is run again, on fresh seeds, and evaluated on the test
split. The same command goes on where it was cut short, with more `num_trials` it extends the
studies, and several machines share a work directory with --config.shard=N and
--config.num_shards=M.

Writes studies/RULE/ (every trial), results.json, tables.txt, config.json, versions.json and the
figure best_of_k.png into the work directory.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.build import HIERARCHY, load_rule, make_task
from experiments.comparison import number, print_tables
from experiments.launch import check_fields, check_positive, launch
from experiments.progress import Progress
from experiments.workdir import open_workdir, write_json
from learned_opt import evaluation, plots, statistics, studies
from learned_opt.pretrained import pretrained_names
from learned_opt.spaces import SearchSpace, load_space
from learned_opt.types import Task, Theta, UpdateRule

_WINNER = 0x7769_6E6E  # folded into the key: the winner meets starts that tuning has not seen

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "workload": "",  # the task's name in the results
        "task": {},
        "rules": ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam"),
        "spaces": "",  # the folder of RULE.json
        "num_trials": 50,
        "num_steps": 1000,
        "segments": 10,  # parts of a run after which the validation split is evaluated
        "lanes": 0,  # trials that run together; 0: what memory allows
        "metric": "error",  # chooses the winner: 'error' or 'loss' on the validation split
        "winner_seeds": 10,
        "shard": 0,
        "num_shards": 1,
    }
)


class Study(NamedTuple):
    """One rule's study.

    Attributes:
      name: the rule's.
      rule: the rule.
      space: where it is searched.
      theta: θ of a rule without knobs, else None.
    """

    name: str
    rule: UpdateRule
    space: SearchSpace
    theta: Theta | None


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with the studies of one workload."""
    config = _checked(config)
    found = [_find(name, Path(config.spaces)) for name in config.rules]
    task = make_task(config.task, data_dir)
    free = ("num_trials", "shard", "num_shards")  # what may differ between calls on one folder
    kept = ConfigDict({name: value for name, value in config.items() if name not in free})
    workdir = open_workdir(workdir, kept)
    results: dict[str, Any] = {}
    for study in found:
        with Progress(f"{study.name}: batches of trials", 0, 1) as bar:

            def report(done: int, total: int, bar: Progress = bar) -> None:
                bar.retotal(max(total, 1))
                bar.update(done, {})

            trials = studies.run_study(
                study.rule,
                study.space,
                task,
                workdir / "studies" / study.name,
                workload=config.workload,
                num_trials=config.num_trials,
                num_steps=config.num_steps,
                seed=config.seed,
                lanes=config.lanes or None,
                segments=config.segments,
                shard=(config.shard, config.num_shards),
                theta=study.theta,
                progress=report,
            )
        if len(trials) < config.num_trials:
            print(f"{study.name}: {len(trials)} of {config.num_trials} trials done; others to come")
            continue
        results[study.name] = _summary(study, trials, task, config)
    write_json(workdir / "results.json", {"workload": config.workload, "rules": results})
    if not results:
        return
    print_tables([_table(results, config)], workdir / "tables.txt")
    plots.best_of_k(
        {
            f"{config.workload}: validation {config.metric}": {
                name: [r["best_of_k"][part] for part in ("ks", "mean", "low", "high")]
                for name, r in results.items()
            }
        },
        workdir / "best_of_k.png",
    )
    print(f"figure: {workdir / 'best_of_k.png'}")


def _checked(config: ConfigDict) -> ConfigDict:
    config = check_fields(config, DEFAULTS)
    check_positive(config, "num_trials", "num_steps", "segments", "winner_seeds", "num_shards")
    if config.num_steps % config.segments:
        raise ValueError(f"segments ({config.segments}) must divide num_steps ({config.num_steps})")
    if config.metric not in ("error", "loss"):
        raise ValueError(f"metric must be 'error' or 'loss', got {config.metric!r}")
    if not 0 <= config.shard < config.num_shards:
        raise ValueError(
            f"shard must be from 0 to {config.num_shards - 1} (num_shards - 1), got {config.shard}"
        )
    if config.lanes < 0:
        raise ValueError(f"lanes must not be negative, got {config.lanes}")
    if not config.workload:
        raise ValueError("workload must name the task")
    if not config.rules or len(set(config.rules)) < len(config.rules):
        raise ValueError("rules must name rules, each once")
    return config


def _find(name: str, spaces: Path) -> Study:
    if name in pretrained_names():
        rule, theta = load_rule(name)
        return Study(name, rule, SearchSpace(name, {}), theta)
    if name not in HIERARCHY:
        known = ", ".join([*HIERARCHY, *pretrained_names()])
        raise ValueError(f"unknown rule {name!r}; known: {known}")
    path = spaces / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"there is no search space {path}; set spaces to a folder with one")
    space = load_space(path)
    rule = HIERARCHY[name]()
    if space.rule != name:
        raise ValueError(f"{path} is a space of {space.rule}")
    try:
        space.check(rule.init(jax.random.key(0)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Study(name, rule, space, None)


def _summary(study: Study, trials: dict, task: Task, config: ConfigDict) -> dict[str, Any]:
    """What a finished study says, and its winner on the test split."""
    scores = studies.scores(trials, metric=config.metric)
    best = list(trials.values())[int(np.argmin(scores))]
    distribution = statistics.best_of_k(scores)
    winner = _winner(study, best, task, config)
    return {
        "num_trials": len(trials),
        "divergence_rate": statistics.divergence_rate(scores),
        "best_of_k": {
            "ks": distribution.ks.tolist(),
            **{
                part: [number(x) for x in getattr(distribution, part)]
                for part in ("mean", "low", "median", "high")
            },
        },
        "best": {
            "index": best["index"],
            "score": number(float(np.min(scores))),
            "hyperparameters": best["hyperparameters"],
            "on_edge": study.space.on_edge(best["point"]),
        },
        "winner": winner,
        "scores": [number(x) for x in scores],
        "space": study.space.to_dict(),
    }


def _winner(study: Study, best: dict, task: Task, config: ConfigDict) -> dict[str, Any]:
    """The best trial again, on seeds that tuning has not seen: test loss and error."""
    if study.theta is not None:
        theta = study.theta
    else:
        theta = {name: jnp.float32(value) for name, value in best["hyperparameters"].items()}
    result = evaluation.evaluate(
        study.rule,
        theta,
        task,
        jax.random.fold_in(jax.random.key(config.seed), _WINNER),
        num_seeds=config.winner_seeds,
        num_steps=config.num_steps,
        eval_steps=(config.num_steps,),
        splits=("test",),
    )
    test = result.heldout["test"]
    return {
        "test_error": [number(1 - x) for x in test["accuracy"][:, 0]],
        "test_loss": [number(x) for x in test["loss"][:, 0]],
        "diverged": int(result.diverged.sum()),
    }


def _table(results: dict[str, Any], config: ConfigDict) -> Table:
    table = Table(
        title=f"{config.workload}: {config.num_trials} trials a rule, {config.num_steps} updates, "
        f"winners on {config.winner_seeds} fresh seeds"
    )
    table.add_column("rule")
    for column in ("valid", "test error, %", "test loss", "diverged", "best point on the edge of"):
        table.add_column(column, justify="right")
    for name, result in results.items():
        error = np.array(result["winner"]["test_error"], float)
        loss = np.array(result["winner"]["test_loss"], float)
        spread = error.std(ddof=1) / np.sqrt(len(error)) if len(error) > 1 else 0.0
        edges = [f"{k} ({v})" for k, v in result["best"]["on_edge"].items()]
        table.add_row(
            name,
            f"{float(result['best']['score']):.4f}",
            f"{100 * error.mean():.2f} ± {100 * spread:.2f}",
            f"{loss.mean():.4f}",
            f"{100 * result['divergence_rate']:.0f} %",
            ", ".join(edges),
        )
    return table


if __name__ == "__main__":
    launch(main)
