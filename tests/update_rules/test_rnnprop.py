"""RNNprop against a NumPy recurrence, and steps scaled by fan-in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt.theta_files import save_theta
from learned_opt.update_rules import adam, lstm, rnnprop, scaled_by_fan_in


def random_theta(rule, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype), rule.init(jax.random.key(0))
    )


def numpy_rnnprop(theta, gradients):
    """The updates of one coordinate, from its gradients, in float64."""
    sigmoid = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    f64 = jax.tree.map(lambda x: np.asarray(x, np.float64), theta)
    sizes = [len(layer["bias"]) // 4 for layer in f64["cells"].values()]
    hidden, cell = [np.zeros(s) for s in sizes], [np.zeros(s) for s in sizes]
    m = v = 0.0
    updates = []
    for t, g in enumerate(gradients, start=1):
        m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * g**2
        m_hat, v_hat = m / (1 - 0.95**t), v / (1 - 0.95**t)
        x = np.array([g, m_hat]) / (np.sqrt(v_hat) + 1e-8)
        x = f64["input"]["kernel"] @ x + f64["input"]["bias"]
        x = np.where(x > 0, x, np.exp(x) - 1)
        for n, layer in enumerate(f64["cells"].values()):
            z = layer["kernel"] @ np.concatenate([x, hidden[n]]) + layer["bias"]
            i, f, c, o = np.split(z, 4)
            cell[n] = sigmoid(f) * cell[n] + sigmoid(i) * np.tanh(c)
            x = hidden[n] = sigmoid(o) * np.tanh(cell[n])
        out = f64["output"]["kernel"][0] @ x + f64["output"]["bias"][0]
        updates.append(-0.1 * np.tanh(out))
    return updates


@pytest.mark.parametrize("sizes", [(20, 20), (3,)])
def test_matches_the_numpy_recurrence(sizes):
    rule = rnnprop(sizes)
    theta = random_theta(rule)
    rng = np.random.default_rng(1)
    grads = np.float32(rng.normal(size=(5, 2, 3)) * 10.0 ** rng.uniform(-6, 3, (2, 3)))
    tx, flat = rule.transform(theta), rule.coordinates_last(theta)
    params = jnp.zeros((2, 3))
    state, flat_state = tx.init(params), flat.init(params.ravel())
    update, flat_update = jax.jit(tx.update), jax.jit(flat.update)
    expected = np.array([numpy_rnnprop(theta, g) for g in grads.reshape(5, 6).T]).T
    for g, wanted in zip(grads, expected, strict=True):
        updates, state = update(g, state)
        flat_updates, flat_state = flat_update(g.ravel(), flat_state)
        np.testing.assert_allclose(updates.ravel(), wanted, rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(flat_updates, updates.ravel(), rtol=1e-4, atol=1e-7)


def test_the_size_of_gradients_does_not_matter_and_steps_are_bounded():
    rule = rnnprop()
    theta = random_theta(rule)
    assert sum(x.size for x in jax.tree.leaves(theta)) == 6641
    tx = rule.transform(theta)
    grads = jnp.sin(jnp.arange(1.0, 13).reshape(3, 4))
    found = []
    for factor in (1e-4, 1.0, 1e4):
        state = tx.init(grads[0])
        for g in grads:
            updates, state = tx.update(factor * g, state)
        found.append(updates)
        assert np.abs(updates).max() <= 0.1
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    np.testing.assert_allclose(found[2], found[1], rtol=1e-3)
    large = jax.tree.map(lambda x: 100 * x, theta)
    updates, _ = rule.transform(large).update(grads[0], tx.init(grads[0]))
    assert np.abs(updates).max() <= 0.1


def test_load_knows_it(tmp_path):
    theta = random_theta(rnnprop((3,)))
    save_theta(tmp_path / "mine.npz", theta, {"rule": {"name": "rnnprop", "hidden_sizes": [3]}})
    tx, own = learned_opt.load(tmp_path / "mine.npz"), rnnprop((3,)).transform(theta)
    g = jnp.linspace(-1, 1, 4)
    np.testing.assert_array_equal(tx.update(g, tx.init(g))[0], own.update(g, own.init(g))[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_sizes": ()}, "hidden_sizes must be positive"),
        ({"input_size": 0}, "input_size must be at least 1"),
        ({"beta": 1.0}, "beta must be at least 0 and below 1"),
        ({"output_scale": 0.0}, "output_scale must be a positive"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        rnnprop(**settings)


def test_steps_of_matrices_are_scaled_by_their_fan_in():
    rule = scaled_by_fan_in(adam(0.1), 20)
    theta = rule.init(jax.random.key(0))
    params = {
        "hidden": jnp.ones((40, 3)),
        "conv": jnp.ones((3, 3, 5, 2)),
        "bias": jnp.ones(3),
        "scalar": jnp.ones(()),
    }
    updates, _ = rule.transform(theta).update(params, rule.transform(theta).init(params), params)
    wanted = {"hidden": 20 / 40, "conv": 20 / 45, "bias": 1.0, "scalar": 1.0}
    for name, factor in wanted.items():  # Adam's first step is its learning rate
        np.testing.assert_allclose(updates[name], -0.1 * factor, rtol=1e-5)
    assert not rule.coordinatewise and lstm().coordinatewise and not lstm(fan_in=20).coordinatewise
    own, plain = lstm((3,), fan_in=20), lstm((3,))
    theta = random_theta(plain)
    u, v = (
        r.transform(theta).update(params, r.transform(theta).init(params)) for r in (own, plain)
    )
    np.testing.assert_allclose(u[0]["hidden"], 0.5 * v[0]["hidden"], rtol=1e-6)
    with pytest.raises(ValueError, match="fan_in must be at least 1"):
        lstm(fan_in=0)
