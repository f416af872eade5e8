"""The coordinatewise LSTM against a NumPy recurrence written from the paper's equations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.update_rules import lstm
from learned_opt.update_rules.features import log_sign


def random_theta(rule, seed=0):
    theta = rule.init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype), theta)


def numpy_preprocess(g):
    """Appendix A of the paper, one number at a time."""
    p = 10.0
    if abs(g) >= np.exp(-p):
        return [np.log(abs(g)) / p, np.sign(g)]
    return [-1.0, np.exp(p) * g]


def numpy_lstm_step(theta, features, hidden, cell):
    """One coordinate, one step: the textbook LSTM, gate by gate, in float64."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    x, new_hidden, new_cell = np.asarray(features, np.float64), [], []
    for n, (h, c) in enumerate(zip(hidden, cell, strict=True)):
        layer = theta["cells"][f"layer_{n}"]
        size = len(h)
        kernel = np.asarray(layer["kernel"], np.float64)
        bias = np.asarray(layer["bias"], np.float64)
        z = kernel @ np.concatenate([x, h]) + bias
        i, f, g, o = (z[k * size : (k + 1) * size] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        new_hidden.append(h)
        new_cell.append(c)
        x = h
    out = np.asarray(theta["output"]["kernel"], np.float64)[0] @ x
    return out + float(theta["output"]["bias"][0]), new_hidden, new_cell


@pytest.mark.parametrize("sizes", [(20, 20), (7,), (3, 5, 2)])
@pytest.mark.parametrize("preprocess", ["log_sign", None])
def test_matches_the_numpy_recurrence(sizes, preprocess):
    rule = lstm(sizes, preprocess=preprocess, output_scale=0.3)
    theta = random_theta(rule)
    tx = rule.transform(theta)
    rng = np.random.default_rng(1)
    params = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    state = tx.init(params)
    update = jax.jit(tx.update)
    flat_state = {}
    for _ in range(6):
        magnitude = lambda shape: 10.0 ** rng.uniform(-9, 2, shape)  # noqa: E731
        grads = {k: rng.normal(size=p.shape) * magnitude(p.shape) for k, p in params.items()}
        updates, state = update(jax.tree.map(jnp.float32, grads), state)
        for name, grad in grads.items():
            for index in np.ndindex(grad.shape):
                zeros = [np.zeros(s) for s in sizes]
                hidden, cell = flat_state.get((name, index), (zeros, zeros))
                g = float(np.float32(grad[index]))
                features = numpy_preprocess(g) if preprocess else [g]
                u, hidden, cell = numpy_lstm_step(theta, features, hidden, cell)
                flat_state[name, index] = hidden, cell
                np.testing.assert_allclose(updates[name][index], 0.3 * u, rtol=2e-4, atol=2e-6)
                for layer in range(len(sizes)):
                    got = state.hidden[layer][name][index]
                    np.testing.assert_allclose(got, hidden[layer], rtol=2e-4, atol=2e-6)
                    got = state.cell[layer][name][index]
                    np.testing.assert_allclose(got, cell[layer], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(("preprocess", "count"), [("log_sign", 5141), (None, 5061)])
def test_size_and_start(preprocess, count):
    rule = lstm(preprocess=preprocess)
    theta = rule.init(jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(theta)) == count
    for layer in theta["cells"].values():
        np.testing.assert_array_equal(layer["bias"], np.repeat([0, 1, 0, 0], 20))
    state = rule.transform(theta).init(jnp.zeros(3))
    assert sum(x.size for x in jax.tree.leaves(state)) == 80 * 3


def test_coordinates_do_not_see_each_other():
    rule = lstm((4, 3))
    tx = rule.transform(random_theta(rule))
    grads = jnp.array([0.3, -2.0, 0.0, 1e-6])
    together, _ = tx.update(grads, tx.init(jnp.zeros(4)))
    alone = [tx.update(g, tx.init(jnp.zeros(())))[0] for g in grads]
    chex.assert_trees_all_close(together, jnp.stack(alone), rtol=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.floats(-(2.0**99), 2.0**99, width=32))
def test_log_sign_property(g):
    features = np.asarray(log_sign(jnp.float32(g)))
    np.testing.assert_allclose(features, numpy_preprocess(g), rtol=1e-5, atol=1e-6)
    slopes = jax.jacobian(log_sign)(jnp.float32(g))
    assert np.all(np.isfinite(slopes))


def test_log_sign_is_continuous_at_its_threshold():
    g = np.float32(np.exp(-10.0))
    above, below = log_sign(jnp.float32(g * 1.001)), log_sign(jnp.float32(g * 0.999))
    np.testing.assert_allclose(above, below, atol=2e-2)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"hidden_sizes": ()}, "hidden_sizes"),
        ({"hidden_sizes": (20, 0)}, "hidden_sizes"),
        ({"preprocess": "log"}, "unknown preprocess 'log'"),
        ({"output_scale": 0.0}, "output_scale"),
        ({"output_scale": float("nan")}, "output_scale"),
    ],
)
def test_refuses_bad_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        lstm(**kwargs)


def test_refuses_theta_of_another_shape():
    theta = lstm((4,)).init(jax.random.key(0))
    with pytest.raises(ValueError, match="layer_0"):
        lstm((5,)).transform(theta)
    with pytest.raises(ValueError, match="learning_rate"):
        lstm().transform({"learning_rate": 0.1})
