"""Penalties, noise on weights, dropout and batch norm, against NumPy and against doing nothing."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from experiments.common.build import make_task
from learned_opt.networks import Perceptron
from learned_opt.tasks import (
    Augmented,
    Quadratic,
    Rescaled,
    WithPenalty,
    WithWeightNoise,
    image_classifier,
)
from learned_opt.tasks.augmentations import LabelSmoothing
from learned_opt.update_rules import lstm

KEY = jax.random.key(0)
DIGITS = image_classifier("digits", hidden_sizes=(8,), batch_size=16)
PARAMS = DIGITS.init(KEY, ())


def test_the_penalty_and_its_gradient():
    task = WithPenalty(DIGITS, l2=0.3, l1=0.2)
    w = [np.asarray(PARAMS[f"dense_{i}"]["kernel"], np.float64) for i in (0, 1)]
    wanted = sum(0.15 * (x**2).sum() + 0.2 * np.abs(x).sum() for x in w)
    found = task.loss(PARAMS, (), KEY) - DIGITS.loss(PARAMS, (), KEY)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    plain, grads = (jax.grad(t.loss)(PARAMS, (), KEY) for t in (DIGITS, task))
    excess = jax.tree.map(jnp.subtract, grads, plain)
    np.testing.assert_allclose(
        excess["dense_0"]["kernel"], 0.3 * w[0] + 0.2 * np.sign(w[0]), atol=1e-6
    )
    assert not jnp.any(excess["dense_0"]["bias"])


def test_l2_is_weight_decay_for_sgd_and_not_for_adam():
    """One step: SGD shrinks weights by 1 − η λ; Adam's step hardly depends on λ's size."""
    penalized = WithPenalty(DIGITS, l2=0.5)

    def after(task, tx):
        updates, _ = tx.update(jax.grad(task.loss)(PARAMS, (), KEY), tx.init(PARAMS), PARAMS)
        return optax.apply_updates(PARAMS, updates)["dense_0"]["kernel"]

    kernel = PARAMS["dense_0"]["kernel"]
    decayed = after(DIGITS, optax.sgd(0.1)) - 0.1 * 0.5 * kernel
    np.testing.assert_allclose(after(penalized, optax.sgd(0.1)), decayed, atol=1e-6)
    decayed = after(DIGITS, optax.adamw(0.1, weight_decay=0.5))
    assert not np.allclose(after(penalized, optax.adam(0.1)), decayed, atol=1e-2)


def test_noise_on_weights():
    """On ‖W‖² + ‖b‖² the mean excess is σ² for each of W's numbers, and none for b's."""
    quadratic = _Matrix()
    noisy = WithWeightNoise(quadratic, 0.2)
    w = {"w": jnp.ones((4, 5)), "b": jnp.zeros(5)}
    found = jax.vmap(lambda key: noisy.loss(w, (), key))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(found.mean() - quadratic.loss(w, (), KEY), 0.04 * 20, rtol=0.05)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Matrix:
    def sample(self, key):
        return ()

    def init(self, key, instance):
        return {"w": jnp.ones((4, 5)), "b": jnp.zeros(5)}

    def loss(self, params, instance, key, split="train"):
        return jnp.sum(params["w"] ** 2) + jnp.sum(params["b"] ** 2)

    def evaluate(self, params, instance, split):
        return {"loss": self.loss(params, instance, None)}


@pytest.mark.parametrize(
    "task", [WithPenalty(DIGITS), WithWeightNoise(DIGITS, 0.0), Augmented(DIGITS)]
)
def test_in_the_limit_nothing_happens(task):
    assert task.loss(PARAMS, (), KEY) == DIGITS.loss(PARAMS, (), KEY)


@pytest.mark.parametrize("task", [WithPenalty(DIGITS, 1.0, 1.0), WithWeightNoise(DIGITS, 1.0)])
def test_other_splits_and_evaluation_are_the_tasks_own(task):
    assert task.loss(PARAMS, (), KEY, "valid") == DIGITS.loss(PARAMS, (), KEY, "valid")
    assert task.loss(PARAMS, (), KEY) != DIGITS.loss(PARAMS, (), KEY)
    chex.assert_trees_all_equal(
        task.evaluate(PARAMS, (), "test"), DIGITS.evaluate(PARAMS, (), "test")
    )
    assert task.num_classes == 10


def test_they_compose_and_are_learned_from():
    """All at once, in evaluation, in meta-training and by name."""
    task = make_task(
        {
            "name": "with_weight_noise",
            "std": 0.01,
            "task": {
                "name": "with_penalty",
                "l2": 1e-3,
                "task": {
                    "name": "augmented",
                    "transforms": ({"name": "mixup", "alpha": 0.2}, "label_smoothing"),
                    "task": {
                        "name": "image_classifier",
                        "hidden_sizes": (8,),
                        "batch_size": 16,
                        "dropout": 0.1,
                        "batch_norm": True,
                        "activation": "relu",
                    },
                },
            },
        }
    )
    rule = learned_opt.update_rules.adam(0.02)
    runs = learned_opt.evaluate(
        rule, rule.init(KEY), task, KEY, num_seeds=2, num_steps=200, eval_steps=(200,)
    )
    assert runs.heldout["test"]["accuracy"].min() > 0.8
    learner = lstm((3,))
    estimator = learned_opt.TruncatedBPTT(
        task=Rescaled(task, 0.5), rule=learner, num_tasks=2, unroll_length=3, horizon=6
    )
    theta = learner.init(KEY)
    grads, _, metrics = jax.jit(type(estimator).estimate)(
        estimator, KEY, theta, estimator.init(KEY, theta)
    )
    assert metrics["num_diverged"] == 0 and float(optax.tree.norm(grads)) > 0


def test_bad_choices_are_refused():
    for settings in ({"l2": -1.0}, {"l1": float("nan")}):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            WithPenalty(Quadratic(3), **settings)
    with pytest.raises(ValueError, match="std must be finite and not negative, got -1"):
        WithWeightNoise(Quadratic(3), -1)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        image_classifier("digits", dropout=1.0)
    with pytest.raises(ValueError, match="dropout belong to network 'mlp', not to 'small_cnn'"):
        image_classifier("digits", network="small_cnn", dropout=0.5)
    with pytest.raises(ValueError, match="unknown transform 'blur'; known: .*mixup"):
        make_task(
            {"name": "augmented", "task": {"name": "image_classifier"}, "transforms": ("blur",)}
        )


def test_dropout_is_that_of_a_mask_and_off_without_a_key():
    network = Perceptron(6, 2, (50,), "relu", dropout=0.4)
    params = network.init(KEY)
    x = jax.random.normal(KEY, (30, 6))
    plain = Perceptron(6, 2, (50,), "relu").apply(params, x)
    chex.assert_trees_all_equal(network.apply(params, x), plain)
    hidden = np.maximum(np.asarray(x) @ params["dense_0"]["kernel"], 0)
    eye = params | {"dense_1": {"kernel": jnp.eye(50), "bias": jnp.zeros(50)}}
    found = np.asarray(network.apply(eye, x, KEY))
    dropped = (found == 0) & (hidden > 0)
    np.testing.assert_allclose(found[~dropped], hidden[~dropped] / 0.6, rtol=1e-5)
    np.testing.assert_allclose(dropped.sum() / (hidden > 0).sum(), 0.4, atol=0.05)
    mean = jax.vmap(lambda key: network.apply(params, x, key))(jax.random.split(KEY, 2000)).mean(0)
    np.testing.assert_allclose(mean, plain, atol=0.15)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    task = image_classifier("digits", hidden_sizes=(8,), batch_size=16, dropout=0.5)
    assert task.loss(PARAMS, (), KEY) != DIGITS.loss(PARAMS, (), KEY)
    assert task.loss(PARAMS, (), KEY, "valid") == DIGITS.loss(PARAMS, (), KEY, "valid")
    chex.assert_trees_all_equal(
        task.evaluate(PARAMS, (), "test"), DIGITS.evaluate(PARAMS, (), "test")
    )
    smoothed = Augmented(task, (LabelSmoothing(0.0),))
    np.testing.assert_allclose(smoothed.loss(PARAMS, (), KEY), task.loss(PARAMS, (), KEY), 1e-6)


def test_batch_norm():
    network = Perceptron(6, 2, (5,), "tanh", batch_norm=True)
    params = network.init(KEY)
    assert params["dense_0"]["scale"].tolist() == [1] * 5 and "scale" not in params["dense_1"]
    params["dense_0"]["scale"] = jnp.arange(5.0)
    params["dense_0"]["bias"] = jnp.arange(5.0) - 2
    x = np.asarray(jax.random.normal(KEY, (30, 6)), np.float64)
    h = x @ np.asarray(params["dense_0"]["kernel"])
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * np.arange(5) + np.arange(5) - 2
    wanted = np.tanh(h) @ np.asarray(params["dense_1"]["kernel"])
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x)), wanted, atol=1e-5)
