"""Do large batches end in sharp minima, and does it cost test accuracy?"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common.build import make_task
from experiments.common.launch import check_positive
from experiments.common.rates import open_rate, stacked_rates
from experiments.common.workdir import kept, rounded
from experiments.lab.batch_size_report import draw, report
from learned_opt.studies import sharpness
from learned_opt.types import Params, Task
from learned_opt.unroll import init_inner, unroll

__all__ = ["DEFAULTS", "draw", "report", "run"]

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "task": {},  # an image classifier
        "rule": "sgd",
        "examples": 8192,  # of the training split, that are trained on
        "batches": (16, 64, 256, 1024, 4096),  # sizes of minibatches
        "reference": 64,  # the batch whose tuned rate the others take as it is, or scaled
        # updates, and passes over the examples, that all batches have
        "budgets": {"steps": 2048, "epochs": 32},
        "rates": (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),  # tried for each batch and budget
        "tuning_seeds": 3,  # rates are chosen on the validation split
        "num_seeds": 10,  # other ones
        "sharp_seeds": 5,  # of these, whose minima are looked at
        "sharp_examples": 2048,  # training examples on which curvature is measured
        "probes": 50,  # of the trace
        "epsilon": 1e-3,  # of ε-sharpness
        "directions": 5,  # of the slices, averaged
        "points": 31,  # of a slice
        "plane_points": 21,  # a side of the slice in two directions
    }
)


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Tunes the rate of every batch size, trains in three ways under two budgets, and looks."""
    check_positive(config, "examples", "reference", "tuning_seeds", "num_seeds", "sharp_seeds")
    if config.reference not in config.batches:
        raise ValueError(f"reference ({config.reference}) must be one of batches {config.batches}")
    task = _first(make_task(config.task, data_dir), config.examples, max(config.batches))
    losses = _losses(task, config.sharp_examples)
    found: dict[str, Any] = {}
    for budget in config.budgets:
        tuned = {
            str(batch): kept(
                workdir / f"tuned_{budget}_{batch}.json",
                functools.partial(_tune, config, task, budget, batch),
            )
            for batch in config.batches
        }
        base = tuned[str(config.reference)]["rate"]
        found[budget] = {}
        for batch in config.batches:
            rates = {
                "same": base,
                "scaled": base * batch / config.reference,
                "tuned": tuned[str(batch)]["rate"],
            }
            for way, rate in rates.items():
                measure = functools.partial(_measure, config, task, losses, budget, batch, rate)
                cell = kept(workdir / f"cell_{budget}_{batch}_{rate:g}.json", measure)
                cell |= {"on_edge": tuned[str(batch)]["on_edge"]} if way == "tuned" else {}
                found[budget].setdefault(way, {})[str(batch)] = cell
    ends = (min(config.batches), max(config.batches))
    best = {batch: found["epochs"]["tuned"][str(batch)]["rate"] for batch in ends}
    slices = kept(workdir / "slices.json", lambda: _slices(config, task, losses, best))
    return {"config": json.loads(config.to_json()), "cells": found, "slices": slices}


def _first(task: Any, examples: int, batch: int | None = None) -> Any:
    """A classifier with only the first training examples, and another batch size."""
    count = len(task.labels["train"])
    if examples > count:
        raise ValueError(f"examples ({examples}) must be at most the {count} of the training split")
    if (batch or 1) > examples:
        raise ValueError(f"a batch of {batch} is larger than the {examples} training examples")
    cut = {"images": dict(task.images), "labels": dict(task.labels)}
    for arrays in cut.values():
        arrays["train"] = arrays["train"][:examples]
    return dataclasses.replace(task, **cut, batch_size=batch or task.batch_size)


def _losses(task: Any, examples: int) -> dict[str, sharpness.Loss]:
    """The loss on the first examples of the training and the test split."""
    found = {}
    for split in ("train", "test"):
        cut = {
            name: {split: getattr(task, name)[split][:examples]} for name in ("images", "labels")
        }
        found[split] = sharpness.whole_loss(dataclasses.replace(task, **cut), (), split)
    return found


def _steps(config: ConfigDict, budget: str, batch: int) -> int:
    """Updates in a run."""
    if budget == "steps":
        return config.budgets.steps
    return max(1, config.budgets.epochs * config.examples // batch)


@functools.partial(jax.jit, static_argnames=("name", "num_steps"))
def _train(name, thetas, task, keys, *, num_steps):
    """Final parameters and metrics of every rate from every seed, `[rates, seeds, …]`."""

    def one(theta, key):
        tx = open_rate(name).transform(theta)
        key_start, key_run = jax.random.split(key)
        inner, _ = unroll(tx, task, init_inner(tx, task, key_start), key_run, num_steps)
        splits = ("train", "valid", "test")
        return inner.params, {s: task.evaluate(inner.params, (), s) for s in splits}

    over_seeds = lambda theta: jax.lax.map(functools.partial(one, theta), keys)  # noqa: E731
    return jax.lax.map(over_seeds, thetas)


def _runs(
    config: ConfigDict, task: Task, budget: str, batch: int, rates: Sequence[float], seeds: range
) -> tuple[Params, dict[str, Any]]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(config.seed), jnp.asarray(list(seeds))
    )
    params, metrics = _train(
        config.rule,
        stacked_rates(rates),
        _first(task, config.examples, batch),
        keys,
        num_steps=_steps(config, budget, batch),
    )
    return params, jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(metrics))


def _tune(config: ConfigDict, task: Task, budget: str, batch: int) -> dict[str, Any]:
    """The rate with the lowest mean validation error."""
    seeds = range(config.num_seeds, config.num_seeds + config.tuning_seeds)
    _, metrics = _runs(config, task, budget, batch, config.rates, seeds)
    lost = ~np.isfinite(metrics["valid"]["loss"]).all(axis=1)
    errors = np.where(lost, np.inf, 1 - metrics["valid"]["accuracy"].mean(axis=1))
    best = int(np.argmin(errors))
    rate = config.rates[best]
    print(f"equal {budget}, batch {batch}: rate {rate:g} of {len(config.rates)}", flush=True)
    return {
        "rate": rate,
        "on_edge": len(config.rates) > 1 and best in (0, len(config.rates) - 1),
        "errors": rounded(errors),
    }


def _measure(
    config: ConfigDict, task: Task, losses: dict, budget: str, batch: int, rate: float
) -> dict[str, Any]:
    """Errors of all seeds, and the sharpness of the minima of the first ones."""
    params, metrics = _runs(config, task, budget, batch, (rate,), range(config.num_seeds))
    cell = {
        "rate": rate,
        "updates": _steps(config, budget, batch),
        "train_loss": metrics["train"]["loss"][0],
        "train_error": 1 - metrics["train"]["accuracy"][0],
        "test_error": 1 - metrics["test"]["accuracy"][0],
        "test_loss": metrics["test"]["loss"][0],
    }
    looks = [
        _look(losses["train"], jax.tree.map(lambda w, n=n: w[0, n], params), config)
        for n in range(min(config.sharp_seeds, config.num_seeds))
        if np.isfinite(cell["train_loss"][n])
    ]
    print(f"equal {budget}, batch {batch}: trained and looked at, rate {rate:g}", flush=True)
    return rounded(cell | {name: [look[name] for look in looks] for name in _SHARPNESS})


_SHARPNESS = ("top_eigenvalue", "trace", "epsilon_sharpness")


def _look(loss: sharpness.Loss, params: Params, config: ConfigDict) -> dict[str, float]:
    return {
        "top_eigenvalue": float(sharpness.top_eigenvalues(loss, params, tolerance=1e-3)[0]),
        "trace": sharpness.trace(loss, params, jax.random.key(0), config.probes).mean,
        "epsilon_sharpness": sharpness.epsilon_sharpness(loss, params, config.epsilon),
    }


def _slices(
    config: ConfigDict, task: Task, losses: dict, rates: dict[int, float]
) -> dict[str, Any]:
    """Filter-normalized slices through the first seed's minima of the extreme batch sizes."""
    found: dict[str, Any] = {}
    keys = jax.random.split(jax.random.key(config.seed), config.directions)
    for batch, rate in rates.items():
        params, _ = _runs(config, task, "epochs", batch, (rate,), range(1))
        params = jax.tree.map(lambda w: w[0, 0], params)
        directions = [sharpness.filter_normalized(key, params) for key in keys]
        lines = {}
        for split in ("train", "test"):
            drawn = [
                sharpness.slice_of(losses[split], params, [d], 1.0, config.points)
                for d in directions
            ]
            lines[split] = np.mean([values for _, values in drawn], axis=0)
        where, plane = sharpness.slice_of(
            losses["train"], params, directions[:2], 1.0, config.plane_points
        )
        found[str(batch)] = {"where": drawn[0][0], **lines, "plane_where": where, "plane": plane}
        print(f"batch {batch}: sliced", flush=True)
    return rounded(found, 4)
