import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.tasks import Quadratic


@jax.jit
def _sample(task, key):
    return task.sample(key)


@jax.jit
def _loss_and_grad(task, params, instance):
    return jax.value_and_grad(task.loss)(params, instance, None)


@settings(max_examples=10, deadline=None)
@given(
    num_dims=st.integers(1, 2),
    family=st.sampled_from(["uniform", "gaussian"]),
    seed=st.integers(0, 2**31 - 1),
)
def test_loss_and_gradient_are_those_of_the_equation(num_dims, family, seed):
    task = Quadratic(num_dims, family)
    key = jax.random.key(seed)
    instance = _sample(task, key)
    params = np.random.default_rng(seed).normal(size=num_dims).astype(np.float32)
    w, y, theta = (np.asarray(a, np.float64) for a in (instance["W"], instance["y"], params))
    residual = w @ theta - y
    loss, grad = _loss_and_grad(task, params, instance)
    np.testing.assert_allclose(loss, residual @ residual, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grad, 2 * w.T @ residual, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(task.evaluate(params, instance, "test")["loss"], loss, rtol=1e-5)


def _many(task):
    def problem(key):
        key_sample, key_init = jax.random.split(key)
        instance = task.sample(key_sample)
        params = task.init(key_init, instance)
        return instance, params, task.loss(params, instance, key)

    return jax.jit(jax.vmap(problem))(jax.random.split(jax.random.key(0), 20_000))


def test_uniform_family():
    instance, params, losses = _many(Quadratic())
    for array in instance.values():
        assert array.min() >= 0 and array.max() < 1
        np.testing.assert_allclose(array.mean(), 1 / 2, atol=0.01)
        np.testing.assert_allclose(array.var(), 1 / 12, atol=0.01)
    np.testing.assert_allclose(params.std(), 0.01, rtol=0.02)
    # W's entries and y's are independent: E[Σ_j W_ij y_i] = d/4.
    cross = jnp.einsum("nij,ni->n", instance["W"], instance["y"]).mean()
    np.testing.assert_allclose(cross, 100 / 4, rtol=0.01)
    # E f = d/3 + 0.01² d²/3, as in the paper's figure, which starts near 3.
    np.testing.assert_allclose(losses.mean(), 10 / 3 + 1e-4 * 100 / 3, rtol=0.01)


def test_gaussian_family():
    instance, params, losses = _many(Quadratic(family="gaussian"))
    for array in (*instance.values(), params):
        np.testing.assert_allclose(array.mean(), 0, atol=0.01)
        np.testing.assert_allclose(array.std(), 1, rtol=0.01)
    np.testing.assert_allclose(losses.mean(), 10 * 10 + 10, rtol=0.02)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_init_scale_overrides_the_one_of_the_family(scale):
    params = Quadratic(10_000, "gaussian", init_scale=scale).init(jax.random.key(0), None)
    np.testing.assert_allclose(params.std(), scale, rtol=0.05)


@pytest.mark.parametrize("num_dims", [0, -1])
def test_rejects_dimensions(num_dims):
    with pytest.raises(ValueError, match="num_dims must be at least 1"):
        Quadratic(num_dims)


def test_rejects_an_unknown_family():
    with pytest.raises(ValueError, match="unknown family 'cauchy'; known: uniform, gaussian"):
        Quadratic(family="cauchy")


@pytest.mark.parametrize("scale", [-1.0, float("nan")])
def test_rejects_a_scale(scale):
    with pytest.raises(ValueError, match="init_scale must not be negative"):
        Quadratic(init_scale=scale)
