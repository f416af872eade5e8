"""Which regularizer buys what, for hand-designed and for learned rules?"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.common.build import make_rule, make_task
from experiments.common.launch import check_positive
from experiments.common.rates import open_rate, stacked_rates, with_open_rate
from experiments.common.workdir import kept, rounded
from experiments.lab.regularizers_report import draw, report
from learned_opt import tasks
from learned_opt.early_stopping import stop_early
from learned_opt.meta_training import NRES, init_state, train
from learned_opt.studies.resampled import Curves, resample, run_samples
from learned_opt.tasks.augmentations import AUGMENTATIONS
from learned_opt.types import Task, Theta, UpdateRule

__all__ = ["DEFAULTS", "draw", "regularized", "report", "run"]

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "task": {},  # an image classifier, whose splits are thrown together and drawn anew
        "sizes": {"train": 1000, "valid": 397, "test": 400},  # examples of each split
        "train_sizes": (100, 1000),  # of these, how many are trained on
        "num_samples": 10,  # drawn splits, a run each
        "num_steps": 500,
        "checks": 20,  # evenly spaced, of the validation loss
        "patience": 4,  # checks without a lower validation loss, of early stopping
        "rules": (),  # pairs (name, learning rates)
        # pairs (name, strengths): see `regularized`, and 'decoupled_decay'
        "regularizers": (),
        # pairs (name, {'task', 'meta_loss'}): rules that are meta-trained here
        "learned": (),
        "learned_rates": (),  # tried for the rules that are meta-trained here
        "tried": (),  # pairs (rule, kinds): of the rules that are not tried with all of them
        "rule": {"name": "learned_muon", "without": ("time", "schedule", "caution", "adam")},
        # fields of `experiments.meta_train` for them
        "meta": {"num_meta_steps": 200, "num_tasks": 4, "horizon": (100, 500)},
        "meta_rates": (0.003, 0.03),  # learning rates of the rule while it is meta-trained
    }
)


def regularized(task: Any, kind: str, strength: float) -> Task:
    """A classifier with one regularizer.

    Args:
      task: a perceptron on images.
      kind: 'none', 'l2', 'l1', 'weight_noise', 'dropout', 'batch_norm', or an augmentation.
      strength: its number: a weight, a share, pixels, ….

    Raises:
      ValueError: an unknown kind, or a strength that it refuses.
    """
    if kind in ("none", "decoupled_decay"):
        return task
    if kind in ("l2", "l1"):
        return tasks.WithPenalty(task, **{kind: strength})
    if kind == "weight_noise":
        return tasks.WithWeightNoise(task, strength)
    if kind in ("dropout", "batch_norm"):
        changed = {kind: strength if kind == "dropout" else bool(strength)}
        return dataclasses.replace(task, network=dataclasses.replace(task.network, **changed))
    if kind not in AUGMENTATIONS:
        known = ("none", "l2", "l1", "decoupled_decay", "weight_noise", "dropout", "batch_norm")
        raise ValueError(
            f"unknown regularizer {kind!r}; known: {', '.join((*known, *AUGMENTATIONS))}"
        )
    return tasks.Augmented(task, (AUGMENTATIONS[kind](strength),))


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Trains every rule with every regularizer at every rate, on small and full training sets."""
    check_positive(config, "num_samples", "num_steps", "checks", "patience")
    task = make_task(config.task, data_dir)
    for kind, strengths in config.regularizers:  # errors before the work, not amid it
        for strength in strengths:
            regularized(task, kind, strength)
    samples = resample(
        task,
        config.sizes.to_dict(),
        config.num_samples,
        seed=config.seed,
        train_sizes=config.train_sizes,
    )
    cells: dict[str, Any] = {}
    learned: dict[str, Any] = {}

    def try_all(name: str, rule: UpdateRule, rates: tuple[float, ...]) -> None:
        kinds = dict(config.tried).get(name, [kind for kind, _ in config.regularizers])
        cells[name] = {
            kind: kept(
                workdir / "cells" / name / f"{kind}.json",
                functools.partial(_try, config, samples, name, rule, rates, kind, strengths),
            )
            for kind, strengths in config.regularizers
            if kind in kinds
        }

    for name, rates in config.rules:
        try_all(name, open_rate(name), rates)
    for name, settings in config.learned:
        learned[name] = kept(
            workdir / "learned" / f"{name}.json",
            functools.partial(_learn, config, name, settings, data_dir),
        )
        theta = {key: jnp.asarray(value, jnp.float32) for key, value in learned[name].items()}
        rule = with_open_rate(make_rule(config.rule.to_dict()), theta)
        try_all(name, rule, config.learned_rates)
    return {"config": json.loads(config.to_json()), "cells": cells, "learned": learned}


def _try(
    config: ConfigDict,
    samples: Any,
    name: str,
    rule: UpdateRule,
    rates: tuple[float, ...],
    kind: str,
    strengths: tuple[float, ...],
) -> dict[str, Any]:
    """The best rate and strength of one regularizer by validation error, for each training size."""
    decays = strengths if kind == "decoupled_decay" else (0.0,)
    found: list[Curves] = []
    for strength in (0.0,) if kind == "decoupled_decay" else strengths:
        found.append(
            run_samples(
                rule,
                stacked_rates(rates, decays),
                samples,
                jax.random.key(config.seed),
                num_steps=config.num_steps,
                checks=config.checks,
                splits=("valid", "test"),
                num_keys=config.num_samples,
                change=functools.partial(regularized, kind=kind, strength=strength),
            )
        )
    jax.clear_caches()  # programs of a hundred kinds use up memory
    print(f"{name}, {kind}: {len(strengths)} strengths, {len(rates)} rates", flush=True)
    trials = [(strength, rate) for strength in strengths for rate in rates]

    def all_trials(split: str, metric: str) -> np.ndarray:
        values = np.concatenate([curves.heldout[split][metric] for curves in found])
        sizes = len(config.train_sizes)
        return values.reshape(len(trials), sizes, config.num_samples, config.checks + 1)

    losses = all_trials("valid", "loss")
    valid, test = (1 - all_trials(split, "accuracy") for split in ("valid", "test"))
    return {
        str(size): {
            "end": _chosen(trials, valid[:, n, :, -1], test[:, n, :, -1]),
            "stopped": _chosen(
                trials, *_at_stop(config.patience, losses[:, n], valid[:, n], test[:, n])
            ),
        }
        for n, size in enumerate(config.train_sizes)
    }


def _at_stop(patience: int, losses: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Values `[trials, samples, checks]` at the check that patience keeps, `[trials, samples]`."""
    chosen = np.stack([stop_early(x, patience).chosen for x in losses])
    return [np.take_along_axis(x, chosen[..., None], 2)[..., 0] for x in values]


def _chosen(trials: list, valid: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """The trial with the lowest mean validation error, and its test errors."""
    best = int(np.argmin(np.where(np.isnan(valid), np.inf, valid).mean(axis=1)))
    strength, rate = trials[best]
    rates = sorted({rate for _, rate in trials})
    return rounded(
        {
            "strength": strength,
            "rate": rate,
            "rate_on_edge": len(rates) > 1 and rate in (rates[0], rates[-1]),
            "valid_error": valid[best].mean(),
            "test_error": test[best],
        },
        4,
    )


def _learn(
    config: ConfigDict, name: str, settings: Mapping[str, Any], data_dir: str | None
) -> Theta:
    """Meta-trains a rule from its neutral start by noise-reuse evolution strategies."""
    rule = make_rule(config.rule.to_dict())
    estimator = NRES(
        task=make_task(settings["task"], data_dir),
        rule=rule,
        num_tasks=config.meta.num_tasks,
        unroll_length=50,
        horizon=tuple(config.meta.horizon),
        sigma=0.1,
        scoring="relative",
        weight_power=2.0,
        meta_loss=settings["meta_loss"],
        learning_rate=tuple(config.meta_rates),
        constant_rates=1.0,
        mapping="map",
    )
    steps = config.meta.num_meta_steps
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    )
    state = init_state(estimator, optimizer, rule, jax.random.key(config.seed))

    def say(step: int, metrics: Mapping[str, float]) -> None:
        if step % 100 == 0:
            print(f"{name}: {step} of {steps} meta-updates", flush=True)

    return train(estimator, optimizer, state, num_meta_steps=steps, report=say).meta.theta
