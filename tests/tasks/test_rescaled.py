"""Tasks in other units, against the paths that SGD and Adam must take there."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.tasks import Quadratic, Rescaled, image_classifier
from learned_opt.unroll import InnerState, inner_step

TASK = image_classifier("digits", hidden_sizes=(5,), batch_size=16)


def _path(tx, task, instance, params, steps=5):
    state = InnerState(instance, params, tx.init(params))
    losses = []
    for t in range(steps):
        state, (loss, _) = inner_step(tx, task, state, jax.random.key(t))
        losses.append(float(loss))
    return losses, state.params


def _problem(per, decades=2.0):
    task = Rescaled(TASK, decades, per)
    instance = task.sample(jax.random.key(1))
    return task, instance, task.init(jax.random.key(2), instance), TASK.init(jax.random.key(2), ())


@pytest.mark.parametrize("per", ["problem", "tensor", "coordinate"])
def test_the_start_is_the_same_function_in_other_units(per):
    task, instance, params, plain = _problem(per)
    key = jax.random.key(3)
    chex.assert_trees_all_close(
        jax.tree.map(jnp.multiply, params, instance["scales"]), plain, rtol=1e-5
    )
    for split in ("train", "valid"):
        np.testing.assert_allclose(
            task.loss(params, instance, key, split), TASK.loss(plain, (), key, split), rtol=1e-5
        )
        found = task.evaluate(params, instance, split)
        chex.assert_trees_all_close(found, TASK.evaluate(plain, (), split), rtol=1e-5)
    grads = jax.grad(task.loss)(params, instance, key)
    expected = jax.tree.map(jnp.multiply, jax.grad(TASK.loss)(plain, (), key), instance["scales"])
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-7)


def test_sgd_goes_the_same_way_with_a_rate_divided_by_alpha_squared():
    task, instance, params, plain = _problem("problem", 1.0)
    alpha = float(jax.tree.leaves(instance["scales"])[0])
    losses, _ = _path(optax.sgd(0.3 / alpha**2), task, instance, params)
    np.testing.assert_allclose(losses, _path(optax.sgd(0.3), TASK, (), plain)[0], rtol=1e-4)


def test_adam_goes_the_same_way_with_a_rate_divided_by_alpha():
    task, instance, params, plain = _problem("problem", 1.0)
    alpha = float(jax.tree.leaves(instance["scales"])[0])
    adam = lambda rate: optax.adam(rate, eps=1e-20)  # noqa: E731
    losses, _ = _path(adam(0.01 / alpha), task, instance, params)
    np.testing.assert_allclose(losses, _path(adam(0.01), TASK, (), plain)[0], rtol=1e-4)


@pytest.mark.parametrize("tx", [optax.sgd(0.3, 0.9), optax.adam(0.01)], ids=["momentum", "adam"])
def test_odd_rules_go_the_same_way_with_random_signs(tx):
    task = Rescaled(TASK, 0.0, "coordinate", signs=True)
    instance = task.sample(jax.random.key(1))
    params, plain = task.init(jax.random.key(2), instance), TASK.init(jax.random.key(2), ())
    losses, params = _path(tx, task, instance, params)
    wanted, plain = _path(tx, TASK, (), plain)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    params = jax.tree.map(jnp.multiply, params, instance["scales"])
    chex.assert_trees_all_close(params, plain, rtol=1e-4, atol=1e-5)
    leaning, _ = _path(_leaning(tx), task, instance, task.init(jax.random.key(2), instance))
    assert not np.allclose(leaning[1:], wanted[1:], rtol=1e-3)


def _leaning(tx):
    """The rule with steps a little longer upwards than downwards."""
    longer = optax.stateless(lambda u, _: jax.tree.map(lambda x: x + 0.2 * jnp.abs(x), u))
    return optax.chain(tx, longer)


def test_half_of_the_signs_are_negative():
    draws = Rescaled(Quadratic(2000), 1.0, "coordinate", signs=True).sample(jax.random.key(0))
    np.testing.assert_allclose((draws["scales"] < 0).mean(), 0.5, atol=0.05)
    assert 0.1 <= jnp.abs(draws["scales"]).min() <= jnp.abs(draws["scales"]).max() <= 10
    tensor = Rescaled(TASK, 0.0, "tensor", signs=True)
    signs = [
        float(x)
        for n in range(20)
        for x in jax.tree.leaves(tensor.sample(jax.random.key(n))["scales"])
    ]
    assert set(signs) == {1.0, -1.0}


def test_scales_are_log_uniform_and_shared_as_said():
    tensor = Rescaled(TASK, 1.0, "tensor").sample(jax.random.key(0))["scales"]
    assert len({float(x) for x in jax.tree.leaves(tensor)}) == 4
    problem = Rescaled(TASK, 1.0, "problem").sample(jax.random.key(0))["scales"]
    assert len({float(x) for x in jax.tree.leaves(problem)}) == 1
    draws = Rescaled(Quadratic(2000), 3.0, "coordinate").sample(jax.random.key(0))["scales"]
    logs = np.log10(draws)
    assert np.abs(logs).max() <= 3
    np.testing.assert_allclose(logs.mean(), 0, atol=0.15)
    np.testing.assert_allclose(logs.std(), 6 / 12**0.5, rtol=0.05)


def test_bad_choices_are_refused():
    with pytest.raises(ValueError, match="unknown per 'layer'"):
        Rescaled(TASK, 1.0, "layer")
    with pytest.raises(ValueError, match="decades must be finite and not negative"):
        Rescaled(TASK, -1.0)
    with pytest.raises(ValueError, match="signs must be True or False, got 'yes'"):
        Rescaled(TASK, signs="yes")
