"""Cross-validation with little data, and on time series, where K-fold is too optimistic.

All fits of a replicate, folds and penalties alike, are lanes of one program.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common.launch import check_positive
from experiments.common.workdir import kept
from experiments.lab.cross_validation_report import draw, report, splitters
from learned_opt import update_rules
from learned_opt.networks import Perceptron
from learned_opt.studies.folds import Folds, fold_scores, fold_weights, nested_folds
from learned_opt.studies.statistics import mean_interval
from learned_opt.studies.weighted_fits import cross_entropy, outputs_of_fits, squared_error

__all__ = ["DEFAULTS", "draw", "report", "run"]

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "folds": 5,  # K
        # the experiment with little data: sizes, L2 penalties to choose from, network
        "little": {
            "num_replicates": 40,
            "num_examples": 100,
            "penalties": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
            "hidden": 16,
            "learning_rate": 0.02,
            "num_steps": 200,
        },
        "series": {
            "num_replicates": 60,  # series with memory
            "num_controls": 20,  # series without memory
            "num_steps_of_series": 600,  # examples of each, one a step
            "correlation": 0.95,  # from one step to the next
            "gap": 60,  # steps between what is trained on and what is tested on
            "block": 60,  # steps on which TimeSeriesSplit tests
            "future": 240,  # steps after the gap that follows the series
            "num_inputs": 5,  # of an example
            "penalties": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),  # L2, to choose from
            "hidden": 16,  # units of the network
            "learning_rate": 0.02,  # Adam's
            "num_steps": 300,
        },
    }
)


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Runs all replicates of the three settings."""
    del data_dir
    check_positive(config, "folds")
    little, series = config.little, config.series
    for part in (little, series):
        check_positive(part, "num_replicates", "hidden", "num_steps")
    check_positive(series, "num_controls")
    found: dict[str, list[dict[str, Any]]] = {}
    for name, count, make in (
        ("little", little.num_replicates, partial(_little, config=config)),
        ("series", series.num_replicates, partial(_series, series.correlation, config=config)),
        ("independent", series.num_controls, partial(_series, 0.0, config=config)),
    ):
        found[name] = [
            kept(workdir / "cells" / f"{name}_{seed}.json", partial(_said, name, count, make, seed))
            for seed in range(config.seed, config.seed + count)
        ]
    floor = 1 - series.correlation ** (2 * (series.gap + 1))
    return {
        "config": config.to_dict(),
        "floor": floor,
        "little": _little_summary(found["little"]),
        "series": _series_summary(found["series"], series.penalties),
        "independent": _series_summary(found["independent"], series.penalties),
    }


def _said(name: str, count: int, make: Callable[..., Any], seed: int) -> dict[str, Any]:
    print(f"{name}: seed {seed}, {count} in all", flush=True)
    return make(seed=seed)


def _little(seed: int, config: ConfigDict) -> dict[str, Any]:
    """One small set of digits: what each method estimates, chooses, and what comes of it."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import (
        KFold,
        RepeatedKFold,
        ShuffleSplit,
        StratifiedKFold,
        train_test_split,
    )

    settings, k = config.little, config.folds
    n = settings.num_examples
    images, labels = load_digits(return_X_y=True)
    rows = np.arange(len(labels))
    parts = train_test_split(rows, train_size=n, stratify=labels, random_state=seed)
    order = np.concatenate(parts)
    inputs, labels = images[order] / 16, labels[order]
    own = labels[:n]
    outer, inner = nested_folds(
        KFold(k, shuffle=True, random_state=seed), KFold(k - 1, shuffle=True, random_state=seed), n
    )
    ways = {
        "hold out a quarter": ShuffleSplit(1, test_size=0.25, random_state=seed),
        f"{2 * k}-fold": KFold(2 * k, shuffle=True, random_state=seed),
        f"stratified {k}-fold": StratifiedKFold(k, shuffle=True, random_state=seed),
        f"{k}-fold, repeated 4 times": RepeatedKFold(n_splits=k, n_repeats=4, random_state=seed),
    }
    folds = {f"{k}-fold": outer} | {name: fold_weights(s, n, own) for name, s in ways.items()}
    folds |= {f"inner {i}": Folds(inner.train[i], inner.test[i]) for i in range(k)}
    rule = update_rules.adam(settings.learning_rate)
    losses = _losses(
        seed, folds, inputs[:n], own, inputs, labels, settings,
        network=Perceptron(inputs.shape[1], 10, (settings.hidden,), "relu"),
        loss=cross_entropy, rule=rule,
    )  # fmt: skip
    truth = losses.pop("all")[:, 0, n:].mean(axis=1)  # of each penalty, fitted to all examples
    scores = {name: fold_scores(x[..., :n], folds[name].test) for name, x in losses.items()}
    found: dict[str, Any] = {"truth": truth, "ways": {}}
    for name in (f"{k}-fold", *ways):
        estimates = scores[name].mean(axis=1)
        best = int(np.argmin(estimates))
        found["ways"][name] = {"estimate": estimates[best], "chosen": best, "test": truth[best]}
    plain = found["ways"][f"{k}-fold"]
    choices = [int(np.argmin(scores[f"inner {i}"].mean(axis=1))) for i in range(k)]
    nested = np.mean([scores[f"{k}-fold"][choice, i] for i, choice in enumerate(choices)])
    found["ways"][f"nested {k}-fold"] = plain | {"estimate": nested}
    return found


def _series(correlation: float, seed: int, config: ConfigDict) -> dict[str, Any]:
    """One series: the estimates of each way to split it, and the error in the future."""
    settings, k = config.series, config.folds
    n, last = settings.num_steps_of_series, settings.gap + settings.future
    rng = np.random.default_rng(seed)
    inputs = autoregressive(rng, (n + last, settings.num_inputs), correlation)
    targets = 0.5 * inputs[:, :1] + autoregressive(rng, (n + last, 1), correlation)
    ways = splitters(k, settings.block, settings.gap, seed)
    folds = {name: fold_weights(splitter, n) for name, splitter in ways.items()}
    losses = _losses(
        seed, folds, inputs[:n], targets[:n], inputs, targets, settings,
        network=Perceptron(settings.num_inputs, 1, (settings.hidden,), "tanh"),
        loss=squared_error, rule=update_rules.adam(settings.learning_rate),
    )  # fmt: skip
    future = losses.pop("all")[:, 0, n + settings.gap :].mean(axis=1)
    estimates = {
        name: fold_scores(x[..., :n], folds[name].test).mean(axis=1) for name, x in losses.items()
    }
    return {"future": future, "estimates": estimates}


def autoregressive(rng: np.random.Generator, shape: tuple[int, int], phi: float) -> np.ndarray:
    """Series x_t = φ x_{t−1} + √(1 − φ²) ε_t along the first axis, stationary, of variance one."""
    noise = rng.normal(size=shape)
    noise[1:] *= np.sqrt(1 - phi**2)
    from scipy.signal import lfilter

    return lfilter([1.0], [1.0, -phi], noise, axis=0)


def _losses(
    seed: int, folds: Mapping[str, Folds], inputs, targets, all_inputs, all_targets, settings, *,
    network, loss, rule,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The losses of all examples under the fits of every fold, `[penalties, folds, examples]`."""
    n = len(inputs)
    weights = {name: part.train for name, part in folds.items()} | {"all": np.ones((1, n))}
    rows = np.concatenate(list(weights.values()))
    penalties = np.asarray(settings.penalties, np.float32)
    number = len(rows) * len(penalties)
    outputs = outputs_of_fits(
        {
            "key": jnp.broadcast_to(jax.random.key(seed), (number,)),  # one start for all
            "weights": jnp.asarray(np.tile(rows, (len(penalties), 1)), jnp.float32),
            "penalty": jnp.asarray(np.repeat(penalties, len(rows))),
        },
        {
            "inputs": jnp.asarray(inputs, jnp.float32),
            "targets": jnp.asarray(targets, None if targets.dtype.kind == "i" else jnp.float32),
            "theta": rule.init(jax.random.key(0)),
        },
        jnp.asarray(all_inputs, jnp.float32),
        network=network,
        loss=loss,
        rule=rule,
        num_steps=settings.num_steps,
    )
    losses = np.asarray(jax.vmap(loss, (0, None))(outputs, jnp.asarray(all_targets)))
    losses = losses.reshape(len(penalties), len(rows), -1)
    ends = np.cumsum([len(part) for part in weights.values()])[:-1]
    return dict(zip(weights, np.split(losses, ends, axis=1), strict=True))


def _little_summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """For each way, replicate by replicate: optimism of its estimate, and regret of its choice."""
    ways = {}
    for name in cells[0]["ways"]:
        rows = [cell["ways"][name] for cell in cells]
        ways[name] = {
            "error of the estimate": [row["estimate"] - row["test"] for row in rows],
            "regret": [row["test"] - min(c["truth"]) for row, c in zip(rows, cells, strict=True)],
        }
    return {"test loss of the best": [min(cell["truth"]) for cell in cells], "ways": ways}


def _series_summary(cells: list[dict[str, Any]], penalties) -> dict[str, Any]:
    """Estimates and future errors by penalty, and of what each way chooses."""

    def by_penalty(rows) -> list[list[float]]:
        return [list(mean_interval(column)) for column in np.transpose(rows)]

    future = np.array([cell["future"] for cell in cells])
    found: dict[str, Any] = {"penalties": list(penalties), "future": by_penalty(future), "ways": {}}
    for name in cells[0]["estimates"]:
        estimates = np.array([cell["estimates"][name] for cell in cells])
        chosen = estimates.argmin(axis=1)
        each = np.arange(len(cells))
        found["ways"][name] = {
            "estimates": by_penalty(estimates),
            "difference": by_penalty(estimates - future),
            "estimate of the chosen": estimates[each, chosen],
            "future of the chosen": future[each, chosen],
            "chosen": np.bincount(chosen, minlength=len(penalties)),
        }
    return found
