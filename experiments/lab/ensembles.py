"""Many networks instead of one: bagging and boosting on small sets of digits.

Every seed draws its own training set; all other digits are its test set. Nothing is tuned.
"""

from functools import partial
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
from learned_opt.studies.statistics import mean_interval
from learned_opt.studies.weighted_fits import cross_entropy, outputs_of_fits

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "num_seeds": 20,
        "num_examples": 300,  # for training; all others are for testing
        "num_members": 30,  # networks of a bag
        "hidden": 32,  # units of each
        "learning_rate": 0.01,  # Adam's
        "num_steps": 300,
        # rounds; units and updates of each network; shrinkage; depth of trees
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
        file = workdir / "cells" / f"{seed}.json"
        seeds.append(kept(file, partial(_cell, seed, images[order] / 16, labels[order], config)))
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
    print(f"seed {seed}: bagged error {cell[_BAGGED]['averaging'][-1]:.3f}", flush=True)
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
        last = found[kind]
        last["one network"] = [s[_AVERAGED][score][0] for s in seeds]
        last["one network on a bootstrap sample"] = [s[_BAGGED][score][0] for s in seeds]
        last["bagged, averaged"] = [s[_BAGGED][score][-1] for s in seeds]
        if kind == "error":
            last["bagged, voting"] = [s[_BAGGED]["voting"][-1] for s in seeds]
        last["not bagged, averaged"] = [s[_AVERAGED][score][-1] for s in seeds]
        if kind == "error":
            last["not bagged, voting"] = [s[_AVERAGED]["voting"][-1] for s in seeds]
        for name in ("boosted networks", "boosted trees"):
            last[name] = [s[name][kind][-1] for s in seeds]
        last["bagged, out of bag"] = [s["out of bag"][-1][kind] for s in seeds]
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Error and loss against the number of members, out-of-bag against test error, boosting."""
    curves = results["curves"]
    figure, axes = make_panels(4, xlabel="", ylabel="", columns=2)
    panels = (
        ("Bagged networks: how to decide", "networks", "test error (share of digits)",
         {"voting": "bagged, voting", "averaging": "bagged, averaging"}),
        ("Bagged or only started differently", "networks", "test loss (cross-entropy)",
         {"bootstrap samples": "bagged, loss", "all examples, other starts": "not bagged, loss"}),
        ("The error that costs no test set", "bagged networks", "error (share of digits)",
         {"out of bag, training set alone": "out of bag, error", "test": "bagged, averaging"}),
        ("Boosting", "rounds", "test error (share of digits)",
         {"trees": "boosted trees, error", "small networks": "boosted networks, error"}),
    )  # fmt: skip
    for axis, (title, xlabel, ylabel, lines) in zip(axes, panels, strict=True):
        for (label, name), color in zip(lines.items(), (COLORS[1], COLORS[3]), strict=True):
            mean, low, high = np.transpose(curves[name])
            steps = np.arange(len(mean)) + (xlabel != "rounds")
            axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
            axis.plot(steps, mean, color=color, linewidth=1.8, label=label)
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
        score = "loss" if "loss" in ylabel else "error"
        if xlabel == "rounds":
            axis.set_ylim(0, 0.4)
            bagged = curves["bagged, averaging"][-1][0]
            axis.axhline(bagged, color="black", linewidth=1.1, label="30 bagged networks")
        else:
            single = np.mean(results["last"][score]["one network"])
            axis.axhline(
                single, color="black", linewidth=1.1, linestyle=(0, (4, 2)),
                label="one network, all examples",
            )  # fmt: skip
        axis.legend(frameon=False, fontsize=9)
    save(figure, path / "ensembles.svg")


def report(results: dict[str, Any]) -> str:
    """The answer and the tables."""
    setting = (
        f"{results['num_seeds']} training sets of {results['num_examples']} digits, each tested on "
        f"the other {results['num_test']}; networks with one hidden layer. Numbers are means over "
        "the training sets with 95 % intervals; differences are paired. Nothing was tuned. The "
        "training sets overlap in part, so that the intervals are somewhat too narrow for digits "
        "at large."
    )
    sections = []
    for kind, title in (("error", "Test errors"), ("loss", "Test losses (cross-entropy)")):
        of = results["last"][kind]
        head = ["", "test " + kind, "less that of one network"]
        one = "one network"
        rows = [
            [name, with_interval(values), "" if name == one else _less(of, name, one)]
            for name, values in of.items()
        ]
        sections += [f"## {title}", table(head, rows)]
    question = "What do bagging, votes and boosting buy?"
    return answer_page(question, "ensembles", setting, _answer(results), *sections)


def _less(of: dict[str, list[float]], name: str, other: str) -> str:
    mean, low, high = mean_interval(differences(of, name, other))
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def _answer(results: dict[str, Any]) -> str:
    error, loss = results["last"]["error"], results["last"]["loss"]
    one, bagged, started = "one network", "bagged, averaged", "not bagged, averaged"
    members = len(results["curves"]["bagged, loss"])
    five = results["curves"]["bagged, loss"][min(4, members - 1)][0]
    return (
        f"**{members} bagged networks have a test loss of {with_interval(loss[bagged])} against "
        f"{with_interval(loss[one])} of one network that sees every example, a difference of "
        f"{_less(loss, bagged, one)}; in error it is {_less(error, bagged, one)}.** A single "
        "network on a bootstrap sample is worse than one on all examples "
        f"({np.mean(loss['one network on a bootstrap sample']):.3f}), since it lacks a third of "
        f"them; the average makes up for it, and five members go most of the way ({five:.3f}). "
        "Networks that see all examples and differ in their start alone do as well: bagged less "
        f"not bagged is {_less(loss, bagged, started)}. Voting and averaging are level with many "
        f"members ({_less(error, 'bagged, voting', bagged)} in error).\n\n"
        "**The out-of-bag error needs no test set and finds the test error:** "
        f"{with_interval(error['bagged, out of bag'])} against {with_interval(error[bagged])}, a "
        f"difference of {_less(error, 'bagged, out of bag', bagged)}. With few members it comes "
        "out higher, as an example is then judged by fewer networks still.\n\n"
        "**Boosting** makes a good classifier of networks with few hidden units, "
        f"{with_interval(error['boosted networks'])} after the last round, not a better one than "
        f"bagging (a difference of {_less(error, 'boosted networks', bagged)}); scikit-learn's "
        f"boosted trees reach {with_interval(error['boosted trees'])}. The losses of both are far "
        f"above the averages' ({np.mean(loss['boosted networks']):.2f} and "
        f"{np.mean(loss['boosted trees']):.2f}): they find the class, not its probability."
    )
