"""Curvature against dense Hessians and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from learned_opt.networks import Perceptron
from learned_opt.studies.sharpness import (
    epsilon_sharpness,
    filter_normalized,
    slice_of,
    top_eigenvalues,
    trace,
    whole_loss,
)
from learned_opt.tasks import Classifier

KEY = jax.random.key(0)


def _network():
    """A small trained-looking network, and its dense Hessian by another way of differentiating."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 3, 60)
    task = Classifier.from_arrays(
        {"train": (images, labels)},
        num_classes=3,
        hidden_sizes=(6,),
        activation="tanh",
        batch_size=8,
    )
    params = task.init(KEY, ())
    loss = whole_loss(task)
    flat, unravel = ravel_pytree(params)
    dense = jax.jacrev(jax.jacrev(lambda w: loss(unravel(w))))(flat)
    return loss, params, np.asarray(dense, np.float64)


def test_eigenvalues_and_trace_against_a_dense_hessian():
    loss, params, dense = _network()
    wanted = np.linalg.eigvalsh(dense)[::-1]
    np.testing.assert_allclose(top_eigenvalues(loss, params, 3), wanted[:3], rtol=1e-3)
    found = trace(loss, params, KEY, num_probes=len(dense))
    np.testing.assert_allclose(found.mean, np.trace(dense), rtol=1e-3)
    assert found.standard_error == 0
    draws = [trace(loss, params, jax.random.key(n), len(dense) - 1) for n in range(60)]
    means, errors = np.array(draws).T
    np.testing.assert_allclose(errors.mean(), means.std(ddof=1), rtol=0.3)
    assert abs(means.mean() - np.trace(dense)) < 4 * errors.mean() / 60**0.5


def test_the_trace_of_a_diagonal_hessian_needs_no_more_than_two_probes():
    diagonal = jnp.arange(1.0, 6.0)
    found = trace(lambda w: 0.5 * diagonal @ w**2, jnp.ones(5), KEY, 2)
    assert found == pytest.approx((15.0, 0.0), abs=1e-5)


def test_epsilon_sharpness_of_a_parabola():
    """At its minimum the corner of the box is the worst: f = ½ Σ a_i ε² (|w_i| + 1)²."""
    a = jnp.array([1.0, 10.0])
    loss = lambda w: 0.5 * a @ (w - jnp.array([0.0, 1.0])) ** 2  # noqa: E731
    found = epsilon_sharpness(loss, jnp.array([0.0, 1.0]), 0.01)
    np.testing.assert_allclose(found, 100 * 0.5 * (1 * 0.01**2 + 10 * 0.02**2), rtol=1e-3)
    near = jnp.array([1e-4, 1.0 + 1e-4])
    at = float(loss(near))
    corner = 0.5 * (1 * (1e-4 + 0.01 * 1.0001) ** 2 + 10 * (1e-4 + 0.01 * 2.0001) ** 2)
    wanted = 100 * (corner - at) / (1 + at)
    np.testing.assert_allclose(epsilon_sharpness(loss, near, 0.01), wanted, rtol=1e-3)
    flat = lambda w: 0.01 * loss(w)  # noqa: E731
    assert epsilon_sharpness(flat, near, 0.01) < 0.02 * epsilon_sharpness(loss, near, 0.01)


def test_directions_have_filters_as_long_as_the_parameters():
    params = {"conv": jax.random.normal(KEY, (3, 3, 2, 4)), "bias": jnp.ones(4)}
    d = filter_normalized(jax.random.key(1), params)
    for n in range(4):
        np.testing.assert_allclose(
            jnp.linalg.norm(d["conv"][..., n]), jnp.linalg.norm(params["conv"][..., n]), rtol=1e-5
        )
    assert not d["bias"].any()
    other = filter_normalized(jax.random.key(1), {**params, "conv": 10 * params["conv"]})
    np.testing.assert_allclose(other["conv"], 10 * d["conv"], rtol=1e-5)


def test_slices_do_not_depend_on_the_scales_of_filters_that_are_normalized():
    """With batch norm the lengths of filters mean nothing, and slices show nothing of them."""
    network = Perceptron(5, 3, (6,), "relu", batch_norm=True)
    x, y = jax.random.normal(KEY, (40, 5)), jax.nn.one_hot(jnp.arange(40) % 3, 3)
    loss = lambda w: optax.softmax_cross_entropy(network.apply(w, x), y).mean()  # noqa: E731
    params = network.init(KEY)
    scales = jnp.geomspace(0.2, 5.0, 6)
    kernel = params["dense_0"]["kernel"] * scales
    scaled = params | {"dense_0": params["dense_0"] | {"kernel": kernel}}

    def line(params, make):
        return slice_of(loss, params, [make(params)], points=9)[1]

    normalized = lambda params: filter_normalized(jax.random.key(1), params)  # noqa: E731
    np.testing.assert_allclose(line(scaled, normalized), line(params, normalized), rtol=1e-3)
    plain = lambda params: jax.tree.map(jnp.ones_like, params)  # noqa: E731
    assert not np.allclose(line(scaled, plain), line(params, plain), rtol=1e-2)


def test_a_loss_is_compiled_once():
    calls = []

    def loss(w):
        calls.append(1)
        return (w**4).sum()

    counted = []
    for n in range(3):
        top_eigenvalues(loss, jnp.arange(4.0) + n)
        epsilon_sharpness(loss, jnp.arange(4.0) + n)
        trace(loss, jnp.arange(4.0) + n, KEY, 2)
        counted.append(len(calls))
    assert counted[0] == counted[-1]


def test_slices_are_the_losses_there():
    loss = lambda w: w["a"] ** 2 + 3 * w["b"]  # noqa: E731
    middle = {"a": jnp.float32(1.0), "b": jnp.float32(2.0)}
    first, second = {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 2.0}
    where, line = slice_of(loss, middle, [first], reach=0.5, points=5)
    np.testing.assert_allclose(line, (1 + where) ** 2 + 6, rtol=1e-6)
    where, plane = slice_of(loss, middle, [first, second], points=3)
    wanted = (1 + where[:, None]) ** 2 + 3 * (2 + 2 * where[None])
    np.testing.assert_allclose(plane, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, w: top_eigenvalues(f, w, 2), "count must be less than the 2 parameters"),
        (lambda f, w: top_eigenvalues(f, w, 0), "count must be positive"),
        (lambda f, w: top_eigenvalues(lambda w: f(w) * jnp.nan, w), "curvature is not finite"),
        (lambda f, w: trace(f, w, KEY, 1), "num_probes must be at least 2"),
        (lambda f, w: epsilon_sharpness(f, w, 0.0), "epsilon must be positive and finite"),
        (lambda f, w: epsilon_sharpness(f, w, iterations=0), "iterations must be positive"),
        (lambda f, w: slice_of(f, w, []), "one direction or two, got 0"),
        (lambda f, w: slice_of(f, w, [w], points=4), "points must be odd"),
        (lambda f, w: slice_of(f, w, [w], reach=-1.0), "reach must be positive"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda w: (w**2).sum(), jnp.ones(2))
