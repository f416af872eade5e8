"""Hand-designed rules against recurrences written from the published equations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.update_rules import hand_designed

STEPS = 6
SIZE = 5


def momentum(h, grads, theta):
    v, out = 0.0, []
    for g in grads:
        v = h["decay"] * v + g
        theta = theta - h["learning_rate"] * v
        out.append(theta)
    return out


def nesterov(h, grads, theta):
    v, out = 0.0, []
    for g in grads:
        v = h["decay"] * v + g
        theta = theta - h["learning_rate"] * (h["decay"] * v + g)
        out.append(theta)
    return out


def sgd(h, grads, theta):
    return momentum({**h, "decay": 0.0}, grads, theta)


def adagrad(h, grads, theta):
    v, out = h["initial_accumulator_value"], []
    for g in grads:
        v = v + g**2
        theta = theta - h["learning_rate"] * g / np.sqrt(v + h["eps"])
        out.append(theta)
    return out


def adadelta(h, grads, theta):
    v, s, out = 0.0, 0.0, []
    for g in grads:
        v = h["rho"] * v + (1 - h["rho"]) * g**2
        delta = np.sqrt(s + h["eps"]) / np.sqrt(v + h["eps"]) * g
        s = h["rho"] * s + (1 - h["rho"]) * delta**2
        theta = theta - h["learning_rate"] * delta
        out.append(theta)
    return out


def rmsprop(h, grads, theta):
    v, out = h["initial_scale"], []
    for g in grads:
        v = h["decay"] * v + (1 - h["decay"]) * g**2
        theta = theta - h["learning_rate"] * g / np.sqrt(v + h["eps"])
        out.append(theta)
    return out


def adam(h, grads, theta, *, nesterov=False, weight_decay=0.0):
    b1, b2 = h["b1"], h["b2"]
    m, v, out = 0.0, 0.0, []
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        step = m_hat / (np.sqrt(v / (1 - b2**t)) + h["eps"])
        theta = theta - h["learning_rate"] * (step + weight_decay * theta)
        out.append(theta)
    return out


def nadam(h, grads, theta):
    return adam(h, grads, theta, nesterov=True)


def adamw(h, grads, theta):
    return adam(h, grads, theta, weight_decay=h["weight_decay"])


CASES = {
    "sgd": (sgd, dict(learning_rate=0.3)),
    "momentum": (momentum, dict(learning_rate=0.3, decay=0.8)),
    "nesterov": (nesterov, dict(learning_rate=0.3, decay=0.8)),
    "adagrad": (adagrad, dict(learning_rate=0.3, eps=1e-3, initial_accumulator_value=0.2)),
    "adadelta": (adadelta, dict(learning_rate=0.7, rho=0.8, eps=1e-2)),
    "rmsprop": (rmsprop, dict(learning_rate=0.3, decay=0.8, eps=1e-2, initial_scale=0.5)),
    "adam": (adam, dict(learning_rate=0.3, b1=0.8, b2=0.95, eps=0.1)),
    "nadam": (nadam, dict(learning_rate=0.3, b1=0.8, b2=0.95, eps=0.1)),
    "adamw": (adamw, dict(learning_rate=0.3, b1=0.8, b2=0.95, eps=0.1, weight_decay=0.2)),
}


def trajectory(tx, grads, theta):
    state, out = tx.init(theta), []
    for g in grads:
        updates, state = tx.update(g, state, theta)
        theta = optax.apply_updates(theta, updates)
        out.append(theta)
    return out


@pytest.mark.parametrize("name", CASES)
def test_matches_the_published_recurrence(name):
    oracle, hyperparameters = CASES[name]
    rng = np.random.default_rng(0)
    grads, theta = rng.normal(size=(STEPS, SIZE)), rng.normal(size=SIZE)
    rule = getattr(hand_designed, name)(**hyperparameters)
    with jax.enable_x64():
        exact = trajectory(
            rule.transform(hyperparameters), list(jnp.asarray(grads)), jnp.asarray(theta)
        )
    np.testing.assert_allclose(exact, oracle(hyperparameters, grads, theta), rtol=1e-12)
    # θ as float32 arrays, as `init` gives it, and traced
    run = jax.jit(lambda theta, *args: trajectory(rule.transform(theta), *args))
    single = run(
        rule.init(jax.random.key(0)), list(grads.astype(np.float32)), theta.astype(np.float32)
    )
    np.testing.assert_allclose(single, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*CASES, "muon"])
def test_theta_holds_every_argument(name):
    rule = getattr(hand_designed, name)(0.125)
    theta = rule.init(jax.random.key(0))
    assert float(theta["learning_rate"]) == 0.125
    if name in CASES:
        assert set(theta) == set(CASES[name][1])


def test_muon_orthogonalizes_matrices():
    """An update of a matrix has root mean square c η and nearly equal singular values."""
    rule = hand_designed.muon(0.5, consistent_rms=0.2)
    tx = rule.transform(rule.init(jax.random.key(0)))
    params = {"wide": jnp.zeros((4, 12)), "tall": jnp.zeros((12, 4))}
    scales = jnp.array([1.0, 0.5, 0.2, 0.1])  # singular values of the gradients
    keys = jax.random.split(jax.random.key(1))
    u, v = jnp.linalg.qr(jax.random.normal(keys[0], (4, 4)))[0], jax.random.normal(keys[1], (12, 4))
    wide = (u * scales) @ jnp.linalg.qr(v)[0].T
    updates, _ = jax.jit(tx.update)({"wide": wide, "tall": wide.T}, tx.init(params), params)
    for name, gradient in (("wide", wide), ("tall", wide.T)):
        update = np.asarray(updates[name])
        assert np.sqrt(np.mean(update**2)) == pytest.approx(0.5 * 0.2, rel=0.3)
        singular = np.linalg.svd(update, compute_uv=False)
        assert singular.max() / singular.min() < 2  # 10 for the gradient
        assert np.sum(update * np.asarray(gradient)) < 0


def test_muon_gives_the_rest_to_adam():
    rule = hand_designed.muon(0.3, is_hidden=lambda path, param: path == "['hidden']")
    theta = rule.init(jax.random.key(0))
    params = {"hidden": jnp.ones((2, 2)), "last": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
    tx, adam_tx = rule.transform(theta), optax.adam(0.3)
    updates, _ = tx.update(grads, tx.init(params), params)
    expected, _ = adam_tx.update(grads, adam_tx.init(params), params)
    np.testing.assert_allclose(updates["last"], expected["last"], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], expected["bias"], rtol=1e-5)
    assert not np.allclose(updates["hidden"], expected["hidden"], rtol=0.1)


def test_bfloat16_averages_are_kept_in_float32():
    """With β₂ = 0.999 an average of squares in bfloat16 would stand still."""
    rule = hand_designed.adam(1e-3)
    tx = rule.transform(rule.init(jax.random.key(0)))
    params = jnp.ones(3, jnp.bfloat16)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(20):
        _, state = update(jnp.full(3, 2.0, jnp.bfloat16), state, params)
    np.testing.assert_allclose(optax.tree.get(state, "nu"), 4 * (1 - 0.999**20), rtol=1e-3)


def test_adamw_needs_parameters():
    rule = hand_designed.adamw()
    tx = rule.transform(rule.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
