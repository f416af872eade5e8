"""Fits of weighted examples against closed forms, and lanes against one fit after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from learned_opt import update_rules
from learned_opt.networks import Perceptron
from learned_opt.studies.weighted_fits import cross_entropy, fit, outputs_of_fits, squared_error

RNG = np.random.default_rng(0)
RULE = update_rules.adam(0.05)
THETA = RULE.init(jax.random.key(0))


def test_a_linear_map_is_scikit_learns_ridge_on_repeated_examples():
    x, y, counts = RNG.normal(size=(30, 4)), RNG.normal(size=30), RNG.integers(0, 3, 30)
    params = fit(
        jax.random.key(0), jnp.float32(x), jnp.float32(y)[:, None], jnp.float32(counts), THETA, 0.3,
        network=Perceptron(4, 1, ()), loss=squared_error, rule=RULE, num_steps=800,
    )  # fmt: skip
    rows = np.repeat(np.arange(30), counts)  # 1/n Σ (z − y)² + λ/2 |w|²: Ridge with α = n λ / 2
    expected = Ridge(alpha=len(rows) * 0.15).fit(x[rows], y[rows])
    np.testing.assert_allclose(params["dense_0"]["kernel"][:, 0], expected.coef_, atol=1e-3)
    np.testing.assert_allclose(params["dense_0"]["bias"][0], expected.intercept_, atol=1e-3)


def test_a_linear_map_is_scikit_learns_logistic_regression():
    x, y = RNG.normal(size=(60, 3)), RNG.integers(0, 3, 60)
    params = fit(
        jax.random.key(0), jnp.float32(x), jnp.asarray(y), jnp.ones(60), THETA, 0.1,
        network=Perceptron(3, 3, ()), loss=cross_entropy, rule=RULE, num_steps=800,
    )  # fmt: skip
    expected = LogisticRegression(C=1 / (60 * 0.1), tol=1e-8).fit(x, y)
    np.testing.assert_allclose(params["dense_0"]["kernel"].T, expected.coef_, atol=2e-3)


def test_lanes_are_fits_one_after_another():
    network = Perceptron(2, 1, (3,), "tanh")
    settings = dict(network=network, loss=squared_error, rule=RULE, num_steps=5)
    inputs, targets = (
        jnp.float32(RNG.normal(size=(4, 6, 2))),
        jnp.float32(RNG.normal(size=(4, 6, 1))),
    )
    weights, at = jnp.float32(RNG.integers(1, 3, (4, 6))), jnp.float32(RNG.normal(size=(4, 5, 2)))
    keys = jax.random.split(jax.random.key(0), 4)
    lanes = {"key": keys, "inputs": inputs, "targets": targets, "weights": weights}
    own = outputs_of_fits(lanes, {"theta": THETA}, at, **settings)
    for n in (0, 3):
        params = fit(keys[n], inputs[n], targets[n], weights[n], THETA, **settings)
        np.testing.assert_allclose(own[n], network.apply(params, at[n]), atol=1e-5)
    shared = {"inputs": inputs[0], "targets": targets[0], "theta": THETA}
    same = outputs_of_fits({"key": keys, "weights": weights}, shared, at[0], **settings)
    np.testing.assert_allclose(same[0], own[0], atol=1e-5)
    assert np.abs(same[1] - own[1]).max() > 1e-3


def test_examples_of_weight_zero_are_not_seen():
    settings = dict(network=Perceptron(2, 1, (3,)), loss=squared_error, rule=RULE, num_steps=10)
    inputs, weights = jnp.float32(RNG.normal(size=(5, 2))), jnp.float32([1, 1, 0, 1, 0])
    first = fit(jax.random.key(1), inputs, jnp.ones((5, 1)), weights, THETA, **settings)
    targets = jnp.where(weights[:, None] > 0, 1, 1e6)
    second = fit(jax.random.key(1), inputs, targets, weights, THETA, **settings)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="num_steps must be positive, got 0"):
        fit(
            jax.random.key(0), jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones(1), THETA,
            network=Perceptron(1, 1, ()), loss=squared_error, rule=RULE, num_steps=0,
        )  # fmt: skip
