"""Every regularizer by its name in a config: in meta-training, and in a study."""

import jax
import numpy as np
import optax
import pytest

from experiments.common.build import make_estimator, make_task
from learned_opt.studies import SearchSpace, run_study
from learned_opt.studies.spaces import Range
from learned_opt.tasks.augmentations import AUGMENTATIONS
from learned_opt.update_rules import adamw, sgd

DIGITS = {"name": "image_classifier", "hidden_sizes": (4,), "batch_size": 8, "activation": "relu"}
TASKS = {
    "none": DIGITS,
    "l2": {"name": "with_penalty", "l2": 0.1, "task": DIGITS},
    "l1": {"name": "with_penalty", "l1": 0.1, "task": DIGITS},
    "weight_noise": {"name": "with_weight_noise", "std": 0.5, "task": DIGITS},
    "gradient_noise": {"name": "with_gradient_noise", "std": 1.0, "task": DIGITS},
    "small_batches": {"name": "with_batch_sizes", "halvings": 2, "task": DIGITS},
    "dropout": DIGITS | {"dropout": 0.5},
    "batch_norm": DIGITS | {"batch_norm": True},
}
TASKS |= {
    name: {"name": "augmented", "transforms": ({"name": name},), "task": DIGITS}
    for name in AUGMENTATIONS
}
FAST = ("none", "l2", "mixup")
SPACE = SearchSpace("sgd", {"learning_rate": Range(0.1, 1.0)})
KEY = jax.random.key(0)


def meta_step(settings, rule):
    """θ, its meta-gradient and the metrics, as a meta-training's config describes the task."""
    offered = {"task": make_task(settings), "rule": rule, "num_tasks": 1}
    config = {"name": "truncated_bptt", "unroll_length": 2, "horizon": 2}
    estimator = make_estimator(config, offered)
    theta = rule.init(KEY)

    @jax.jit
    def step(estimator, theta):
        return estimator.estimate(KEY, theta, estimator.init(KEY, theta))

    grads, _, metrics = step(estimator, theta)
    return theta, grads, metrics


@pytest.fixture(scope="module")
def plain():
    """Of the task without a regularizer."""
    return {"grads": meta_step(TASKS["none"], sgd())[1]}


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in TASKS]
)
def test_a_meta_gradient_and_a_study(name, plain, tmp_path):
    theta, grads, metrics = meta_step(TASKS[name], sgd())
    assert metrics["num_diverged"] == 0 and float(optax.tree.norm(grads)) > 0
    same = float(grads["learning_rate"]) == float(plain["grads"]["learning_rate"])
    assert same == (name == "none")  # the regularizer is there
    assert theta.keys() == grads.keys()
    trials = run_study(
        sgd(), SPACE, make_task(TASKS[name]), tmp_path, workload=name, num_trials=2, num_steps=1,
        segments=1, report=None,
    )  # fmt: skip
    for trial in trials.values():
        assert trial["diverged_at"] is None and np.isfinite(trial["heldout"]["valid"]["loss"][0])


def test_decoupled_decay_is_a_hyperparameter():
    """Of a rule: in its θ, so that meta-training and studies move it."""
    theta, grads, _ = meta_step(DIGITS, adamw(0.1, weight_decay=0.5))
    assert "weight_decay" in theta and float(grads["weight_decay"]) != 0
    fixed = {name: float(value) for name, value in theta.items() if name != "weight_decay"}
    SearchSpace("adamw", {"weight_decay": Range(1e-3, 1.0)}, fixed).check(theta)
