"""Noise on gradients and smaller minibatches: losses and means stay, noise is as large as said."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from experiments.common.build import make_task
from learned_opt.tasks import Quadratic, WithBatchSizes, WithGradientNoise, image_classifier
from learned_opt.update_rules import lstm

KEY = jax.random.key(0)
DIGITS = image_classifier("digits", hidden_sizes=(8,), batch_size=16)
PARAMS = DIGITS.init(KEY, ())


def test_noise_is_relative_to_the_gradient_of_each_tensor_and_its_mean_is_zero():
    task = WithGradientNoise(DIGITS, 0.5, decades=0.0)
    instance = task.sample(KEY)
    assert float(instance["std"]) == 0.5
    assert task.loss(PARAMS, instance, KEY) == DIGITS.loss(PARAMS, (), KEY)
    keys = jax.random.split(KEY, 3000)
    pairs = jax.vmap(
        lambda key: (
            jax.grad(task.loss)(PARAMS, instance, key),
            jax.grad(DIGITS.loss)(PARAMS, (), key),
        )
    )(keys)
    for noisy, plain in zip(*map(jax.tree.leaves, pairs), strict=True):
        noise = np.asarray(noisy - plain, np.float64).reshape(3000, -1)
        rms = np.sqrt(np.mean(np.square(np.asarray(plain).reshape(3000, -1)), axis=1))
        relative = noise / rms[:, None]
        np.testing.assert_allclose(relative.std(), 0.5, rtol=0.02)
        assert np.abs(relative.mean(0)).max() < 5 * 0.5 / 3000**0.5
        cross = (relative[:, :1] * relative[:, 1:2]).mean()
        assert abs(cross) < 0.05


def test_noise_is_log_uniform_over_problems():
    task = WithGradientNoise(Quadratic(3), 2.0, decades=3.0)
    stds = jax.vmap(lambda key: task.sample(key)["std"])(jax.random.split(KEY, 2000))
    logs = np.log10(np.asarray(stds) / 2)
    assert -3 <= logs.min() < -2.9 and -0.1 < logs.max() <= 0
    np.testing.assert_allclose(logs.mean(), -1.5, atol=0.1)


def test_without_noise_sgd_goes_the_same_way():
    task = WithGradientNoise(DIGITS, 0.0)
    instance = task.sample(KEY)
    chex.assert_trees_all_equal(
        jax.grad(task.loss)(PARAMS, instance, KEY), jax.grad(DIGITS.loss)(PARAMS, (), KEY)
    )
    chex.assert_trees_all_equal(
        task.evaluate(PARAMS, instance, "test"), DIGITS.evaluate(PARAMS, (), "test")
    )


def test_a_smaller_minibatch_is_the_first_part_of_the_larger_one():
    task = WithBatchSizes(DIGITS, 4)
    x, y = DIGITS.minibatch(KEY)
    for halved in range(5):
        instance = {"task": (), "halved": jnp.int32(halved)}
        count = 16 // 2**halved
        wanted = DIGITS.batch_loss(PARAMS, x[:count], y[:count])
        np.testing.assert_allclose(task.loss(PARAMS, instance, KEY), wanted, rtol=1e-5)
    assert task.loss(PARAMS, instance, KEY, "valid") == DIGITS.loss(PARAMS, (), KEY, "valid")
    drawn = jax.vmap(lambda key: task.sample(key)["halved"])(jax.random.split(KEY, 500))
    assert np.bincount(drawn).min() > 70 and len(np.bincount(drawn)) == 5


@pytest.mark.parametrize("second_order", [False, True])
def test_they_compose_and_are_learned_from(second_order):
    task = make_task(
        {
            "name": "with_gradient_noise",
            "task": {
                "name": "with_batch_sizes",
                "halvings": 2,
                "task": {"name": "image_classifier", "hidden_sizes": (4,), "batch_size": 8},
            },
        }
    )
    rule = lstm((3,))
    theta = rule.init(KEY)
    estimator = learned_opt.TruncatedBPTT(
        task=task,
        rule=rule,
        num_tasks=2,
        unroll_length=3,
        horizon=6,
        second_order=second_order,
    )
    grads, _, metrics = jax.jit(type(estimator).estimate)(
        estimator, KEY, theta, estimator.init(KEY, theta)
    )
    assert metrics["num_diverged"] == 0 and 0 < float(optax.tree.norm(grads)) < np.inf


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="std must be finite and not negative, got -1"):
        WithGradientNoise(DIGITS, -1.0)
    with pytest.raises(ValueError, match="decades must be finite and not negative, got inf"):
        WithGradientNoise(DIGITS, 1.0, float("inf"))
    with pytest.raises(
        TypeError, match="Quadratic has no minibatches that could be changed: give WithBatch"
    ):
        WithBatchSizes(Quadratic(3))
    with pytest.raises(ValueError, match="minibatches of 16 cannot be halved 5 times"):
        WithBatchSizes(DIGITS, 5)
