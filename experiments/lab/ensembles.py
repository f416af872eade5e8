"""Many networks instead of one: bagging and boosting on small sets of digits.

Every seed draws its own training set; all other digits are its test set. Nothing is tuned.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common.answer_page import answer_page, differences, table, with_interval
from experiments.common.launch import check_positive
from experiments.common.workdir import kept
from learned_opt import update_rules
from learned_opt.figures.style import COLORS, make_panels, save
from learned_opt.networks import Perceptron
from learned_opt.studies.ensembles import boost, bootstrap_counts, by_size, out_of_bag
from learned_opt.studies.intervals import mean_interval
from learned_opt.studies.resampling import cross_entropy, outputs_of_fits

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "num_seeds": 20,
        "num_examples": 300,  # for training; all others are for testing
        "num_members": 30,
        "hidden": 32,
        "learning_rate": 0.01,
        "num_steps": 300,
        "boosting": {"rounds": 100, "hidden": 8, "steps": 100, "shrinkage": 0.1, "depth": 3},
    }
)
_BAGGED, _AVERAGED = "bagged", "not bagged"


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Trains all ensembles on the training set of every seed."""
    del data_dir
    check_positive(config, "num_seeds", "num_examples", "num_members", "hidden", "num_steps")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    if config.num_examples >= len(images):
        raise ValueError(
            f"num_examples must leave some of the {len(images)} digits for testing, got "
            f"{config.num_examples}"
        )
    seeds = []
    for seed in range(config.seed, config.seed + config.num_seeds):
        order = np.random.default_rng(seed).permutation(len(images))
        data = (images[order] / 16, labels[order])
        file = workdir / "cells" / f"{seed}.json"
        seeds.append(kept(file, lambda s=seed, d=data: _cell(s, *d, config)))
        print(f"seed {seed}: bagged error {seeds[-1]['bagged']['averaging'][-1]:.3f}", flush=True)
    return {
        "num_seeds": config.num_seeds,
        "num_examples": config.num_examples,
        "num_test": len(images) - config.num_examples,
        "curves": _curves(seeds),
        "last": _last(seeds),
    }


def _cell(seed: int, images: np.ndarray, labels: np.ndarray, config: ConfigDict) -> dict[str, Any]:
    """One seed: errors and losses against the number of members or rounds."""
    n, members = config.num_examples, config.num_members
    rule = update_rules.adam(config.learning_rate)
    theta = rule.init(jax.random.key(0))
    counts = bootstrap_counts(members, n, seed=seed)
    weights = np.concatenate([counts, np.ones_like(counts)])
    outputs = outputs_of_fits(
        {
            "key": jax.random.split(jax.random.key(seed), 2 * members),
            "weights": jnp.asarray(weights, jnp.float32),
        },
        {
            "inputs": jnp.asarray(images[:n], jnp.float32),
            "targets": jnp.asarray(labels[:n]),
            "theta": theta,
        },
        jnp.asarray(images, jnp.float32),
        network=Perceptron(images.shape[1], 10, (config.hidden,), "relu"),
        loss=cross_entropy,
        rule=rule,
        num_steps=config.num_steps,
    )
    p = np.asarray(jax.nn.softmax(outputs))
    cell: dict[str, Any] = {
        name: by_size(part[:, n:], labels[n:])._asdict()
        for name, part in ((_BAGGED, p[:members]), (_AVERAGED, p[members:]))
    }
    cell["out of bag"] = [
        _out_of_bag(p[:size, :n], counts[:size], labels[:n]) for size in range(1, members + 1)
    ]
    cell["boosted networks"] = _boosted_networks(seed, images, labels, theta, rule, config)
    cell["boosted trees"] = _boosted_trees(seed, images, labels, config)
    return jax.tree.map(lambda x: np.round(x, 5), cell)


def _out_of_bag(p: np.ndarray, counts: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The loss and error of those examples that are out of a bag."""
    mean = out_of_bag(p, counts)
    known = np.isfinite(mean[:, 0])
    chosen = mean[known, labels[known]]
    errors = mean[known].argmax(axis=1) != labels[known]
    return {"error": errors.mean(), "loss": -np.log(np.maximum(chosen, 1e-12)).mean()}


def _boosted_networks(seed, images, labels, theta, rule, config) -> dict[str, np.ndarray]:
    n, settings = config.num_examples, config.boosting
    logits = boost(
        jax.random.key(seed),
        jnp.asarray(images[:n], jnp.float32),
        jnp.asarray(labels[:n]),
        jnp.asarray(images[n:], jnp.float32),
        theta,
        num_classes=10,
        network=Perceptron(images.shape[1], 10, (settings.hidden,), "relu"),
        rule=rule,
        num_rounds=settings.rounds,
        num_steps=settings.steps,
        shrinkage=settings.shrinkage,
    )
    return _scores(np.asarray(jax.nn.softmax(logits)), labels[n:])


def _boosted_trees(seed, images, labels, config) -> dict[str, np.ndarray]:
    from sklearn.ensemble import GradientBoostingClassifier

    n, settings = config.num_examples, config.boosting
    model = GradientBoostingClassifier(
        n_estimators=settings.rounds,
        learning_rate=settings.shrinkage,
        max_depth=settings.depth,
        random_state=seed,
    ).fit(images[:n], labels[:n])
    shares = np.bincount(labels[:n], minlength=10) / n
    start = np.tile(shares, (1, len(images) - n, 1))
    staged = np.stack(list(model.staged_predict_proba(images[n:])))
    return _scores(np.concatenate([start, staged]), labels[n:])


def _scores(p: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Loss and error after each round, of p `[rounds + 1, n, classes]`."""
    chosen = p[:, np.arange(len(labels)), labels]
    return {
        "loss": -np.log(np.maximum(chosen, 1e-12)).mean(axis=1),
        "error": (p.argmax(axis=2) != labels).mean(axis=1),
    }


def _curves(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and 95 % intervals over seeds, [mean, low, high] for each number of members."""

    def summary(values) -> list[list[float]]:
        return (
            np.array([mean_interval(column) for column in np.transpose(values)]).round(5).tolist()
        )

    found = {}
    for name in (_BAGGED, _AVERAGED):
        for score in ("averaging", "voting", "loss"):
            found[f"{name}, {score}"] = summary([s[name][score] for s in seeds])
    for score in ("error", "loss"):
        found[f"out of bag, {score}"] = summary(
            [[row[score] for row in s["out of bag"]] for s in seeds]
        )
        for name in ("boosted networks", "boosted trees"):
            found[f"{name}, {score}"] = summary([s[name][score] for s in seeds])
    return found


def _last(seeds: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Test errors and losses of each seed, at the end."""
    found: dict[str, dict[str, list[float]]] = {"error": {}, "loss": {}}
    for kind in found:
        score = "averaging" if kind == "error" else "loss"
        table = found[kind]
        table["one network"] = [s[_AVERAGED][score][0] for s in seeds]
        table["one network on a bootstrap sample"] = [s[_BAGGED][score][0] for s in seeds]
        table["bagged, averaged"] = [s[_BAGGED][score][-1] for s in seeds]
        if kind == "error":
            table["bagged, voting"] = [s[_BAGGED]["voting"][-1] for s in seeds]
        table["not bagged, averaged"] = [s[_AVERAGED][score][-1] for s in seeds]
        if kind == "error":
            table["not bagged, voting"] = [s[_AVERAGED]["voting"][-1] for s in seeds]
        for name in ("boosted networks", "boosted trees"):
            table[name] = [s[name][kind][-1] for s in seeds]
        table["bagged, out of bag"] = [s["out of bag"][-1][kind] for s in seeds]
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Error and loss against the number of members, out-of-bag against test error, boosting."""


def report(results: dict[str, Any]) -> str:
    """The answer and the tables."""
    return "\n".join(
        f"{kind} {name}: {with_interval(values)}"
        for kind, found in results["last"].items()
        for name, values in found.items()
    )
