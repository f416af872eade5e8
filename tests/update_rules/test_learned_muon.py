"""The general rule against optax's Muon and Adam, and against its equations in NumPy."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from learned_opt.update_rules import learned_muon
from learned_opt.update_rules.learned_muon import NAMES
from learned_opt.update_rules.newton_schulz import orthogonalize

PARAMS = {
    "wide": jax.random.normal(jax.random.key(0), (5, 9)),
    "tall": jax.random.normal(jax.random.key(1), (12, 4)),
    "square": jax.random.normal(jax.random.key(2), (6, 6)),
    "bias": jnp.linspace(-1, 1, 7),
    "scalar": jnp.float32(0.3),
}


def _theta(**numbers):
    """θ with the constant part of some numbers set."""
    theta = learned_muon().init(None)
    return theta | {name: jnp.array([z, 0, 0], jnp.float32) for name, z in numbers.items()}


def _random_theta(seed):
    keys = jax.random.split(jax.random.key(seed), len(NAMES))
    return {n: 0.4 * jax.random.normal(k, (3,)) for n, k in zip(NAMES, keys, strict=True)}


def _grads(params, t):
    return jax.tree.map(lambda x: jnp.sin(3 * x + t) + 0.1 * x, params)


def _assert_alike(tx, reference, *, steps=12, atol=1e-6):
    params, state, other = PARAMS, tx.init(PARAMS), reference.init(PARAMS)
    for t in range(steps):
        grads = _grads(params, t)
        updates, state = tx.update(grads, state, params)
        expected, other = reference.update(grads, other, params)
        chex.assert_trees_all_close(updates, expected, atol=atol, rtol=1e-5)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("rate", [0.02, optax.cosine_decay_schedule(0.02, 10)])
def test_the_neutral_rule_is_muon(rate):
    rule = learned_muon(rate)
    _assert_alike(rule.transform(rule.init(None)), optax.contrib.muon(rate))


def test_weight_decay_is_that_of_muon():
    rule = learned_muon(weight_decay=0.1)
    reference = optax.contrib.muon(0.03, weight_decay=0.1, adam_weight_decay=0.1)
    _assert_alike(rule.transform(rule.init(None)), reference)


def test_another_theta_is_adam():
    theta = _theta(orthogonal=-40.0, adam=1.0, adam_nesterov=-1.0)
    _assert_alike(learned_muon(0.02).transform(theta), optax.adam(0.02))


def test_muon_of_stacked_layers_is_that_of_each():
    stacked = {"layers": jax.random.normal(jax.random.key(3), (3, 4, 5))}
    rule = learned_muon(stacked_axes=lambda path, param: 1 if "layers" in path else 0)
    tx = rule.transform(_random_theta(0))
    alone = learned_muon().transform(_random_theta(0))
    updates, _ = tx.update(_grads(stacked, 1), tx.init(stacked), stacked)
    for n in range(3):
        one = {"layer": stacked["layers"][n]}
        expected, _ = alone.update(_grads(one, 1), alone.init(one), one)
        chex.assert_trees_all_close(updates["layers"][n], expected["layer"], atol=1e-6)


def test_convolution_kernels_are_matrices():
    kernel = jax.random.normal(jax.random.key(4), (3, 3, 2, 5))
    tx = learned_muon().transform(_random_theta(1))
    updates, _ = tx.update(_grads(kernel, 0), tx.init(kernel), kernel)
    flat = kernel.reshape(18, 5)
    expected, _ = tx.update(_grads(flat, 0), tx.init(flat), flat)
    chex.assert_trees_all_close(updates.reshape(18, 5), expected, atol=1e-6)


def _in_numpy(theta, rates, params, weight_decay):
    """The equations of the docstring, in float64, for one matrix and one vector."""
    theta = {name: np.asarray(z, np.float64) for name, z in theta.items()}
    averages = {k: {n: np.zeros(np.shape(w)) for n in ("m", "a", "v")} for k, w in params.items()}
    products = {"beta": 1.0, "b1": 1.0, "b2": 1.0}
    peak = 0.0
    params = {k: np.asarray(w, np.float64) for k, w in params.items()}
    for t, rate in enumerate(rates):
        peak = max(peak, rate)
        features = np.array([1, (t - 300) / (t + 300), 1 - rate / peak])
        z = {name: np.dot(theta[name], features) for name in NAMES}
        beta, b1, b2 = (
            1 - min((1 - d) * math.exp(z[n]), 1)
            for n, d in (("beta", 0.95), ("b1", 0.9), ("b2", 0.999))
        )
        products = {n: products[n] * d for n, d in (("beta", beta), ("b1", b1), ("b2", b2))}
        grads = {k: np.sin(3 * w + t) + 0.1 * w for k, w in params.items()}
        for k, g in grads.items():
            s, w = averages[k], params[k]
            s["m"] = beta * s["m"] + (1 - beta) * g
            s["a"] = b1 * s["a"] + (1 - b1) * g
            s["v"] = b2 * s["v"] + (1 - b2) * g**2
            plain = s["a"] / (1 - products["b1"])
            ahead = b1 * s["a"] / (1 - products["b1"] * b1) + (1 - b1) * g / (1 - products["b1"])
            nu = 1 + z["adam_nesterov"]
            adam = ((1 - nu) * plain + nu * ahead) / np.sqrt(s["v"] / (1 - products["b2"]))
            decay = weight_decay * w
            if w.ndim < 2:
                d = math.exp(z["vector"]) * adam
            else:
                num_in, num_out = w.shape
                x = beta * s["m"] / (1 - products["beta"] * beta)
                x = x + math.exp(z["nesterov"]) * (1 - beta) * g / (1 - products["beta"])
                x = x / np.linalg.norm(x)
                for _ in range(5):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                d = math.exp(z["orthogonal"]) * math.sqrt(max(1, num_out / num_in)) * x
                d = d + (z["adam_by_fan_in"] / math.sqrt(num_in) + z["adam"]) * adam
                decay = decay + z["shrinkage"] / 10 * w
            d = np.where(d * g < 0, 1 - np.clip(z["caution"], 0, 1), 1) * d
            params[k] = w - rate * (d + decay)
    return params


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), tall=st.booleans())
def test_follows_its_equations(seed, tall):
    shape = (7, 3) if tall else (3, 7)
    params = {"w": jax.random.normal(jax.random.key(seed), shape), "b": jnp.linspace(-1, 1, 4)}
    theta = _random_theta(seed)
    schedule = optax.cosine_decay_schedule(0.02, 9)
    tx = learned_muon(schedule, weight_decay=0.01).transform(theta)
    state, moved = tx.init(params), params
    update = jax.jit(tx.update)
    for t in range(8):
        updates, state = update(_grads(moved, t), state, moved)
        moved = optax.apply_updates(moved, updates)
    rates = [0.02 * (1 + math.cos(math.pi * t / 9)) / 2 for t in range(8)]
    expected = _in_numpy(theta, rates, params, 0.01)
    chex.assert_trees_all_close(moved, expected, atol=2e-4, rtol=1e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), exponent=st.floats(-36, 30), rows=st.integers(1, 12))
def test_orthogonalizes_at_every_scale(seed, exponent, rows):
    x = np.random.default_rng(seed).normal(size=(rows, 6)) * 10.0**exponent
    found = np.linalg.svd(np.asarray(orthogonalize(jnp.asarray(x, jnp.float32))))[1]
    sizes = np.linalg.svd(x)[1]
    strong = sizes > 0.1 * sizes.max()
    assert (found[strong] > 0.5).all()
    assert (found < 1.3).all()


@pytest.mark.parametrize("exponent", [-45, -38, -34, -22, -20, -18, -10, 10, 18, 20, 30])
def test_orthogonalizes_where_squares_leave_the_range_of_floats(exponent):
    x = np.ones((64, 64)) + np.random.default_rng(0).normal(size=(64, 64))
    found = orthogonalize(jnp.asarray(x * 10.0**exponent, jnp.float32))
    expected = orthogonalize(jnp.asarray(x, jnp.float32))
    if exponent > -38:
        np.testing.assert_allclose(found, expected, atol=1e-4)
    else:  # not normal numbers: shorter steps, and none that diverges
        assert np.linalg.norm(found, 2) < 1.3


def test_takes_no_step_beyond_its_rate_while_gradients_vanish():
    # a loss that comes to be exactly zero, as that of a network that knows its data by heart
    params = {"w": jnp.ones((64, 64)), "b": jnp.ones(64)}
    tx = learned_muon(0.1).transform(_random_theta(0))
    state, update = tx.init(params), jax.jit(tx.update)
    for t in range(1000):
        grads = jax.tree.map(lambda p, t=t: p * jnp.float32(t < 3), params)
        updates, state = update(grads, state, params)
        largest = max(float(jnp.abs(u).max()) for u in jax.tree.leaves(updates))
        assert largest < 1.0, f"a step of {largest} at a rate of .1, {t} steps on"


def test_steps_do_not_depend_on_the_units_of_the_loss():
    theta = _random_theta(3)
    tx = learned_muon().transform(theta)
    results = []
    for unit in (1e-6, 1.0, 1e6):
        state, params = tx.init(PARAMS), PARAMS
        for t in range(4):
            grads = jax.tree.map(lambda g, u=unit: u * g, _grads(PARAMS, t))
            updates, state = tx.update(grads, state, params)
        results.append(updates)
    chex.assert_trees_all_close(results[0], results[1], rtol=1e-3, atol=1e-6)
    chex.assert_trees_all_close(results[2], results[1], rtol=1e-3, atol=1e-6)


def test_knobs_take_the_place_of_the_defaults():
    rule = learned_muon(0.03)
    theta = _random_theta(5)
    assert dict(rule.knobs) == {"learning_rate": 0.03, "weight_decay": 0.0}
    tx = rule.transform(theta, learning_rate=0.06)
    double, _ = tx.update(_grads(PARAMS, 0), tx.init(PARAMS), PARAMS)
    tx = rule.transform(theta)
    single, _ = tx.update(_grads(PARAMS, 0), tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(double, jax.tree.map(lambda u: 2 * u, single), rtol=1e-5)


def test_theta_starts_where_it_is_told():
    theta = learned_muon(start={"adam": 0.5}, without=("time",)).init(None)
    assert theta["adam"].tolist() == [0.5, 0.0]
    assert not any(np.any(z) for name, z in theta.items() if name != "adam")
    with pytest.raises(ValueError, match="unknown number of learned_muon: rate"):
        learned_muon(start={"rate": 1.0})


def test_says_what_it_needs():
    tx = learned_muon().transform(learned_muon().init(None))
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(PARAMS, tx.init(PARAMS))
    rule = learned_muon(stacked_axes=lambda path, param: 2)
    with pytest.raises(ValueError, match=r"stacked_axes gives 2 for params\['bias'\] of 1 axes"):
        rule.transform(rule.init(None)).init({"bias": jnp.ones(3)})


@pytest.mark.parametrize("without", [("caution", "adam"), ("time",), ("time", "schedule", "beta")])
def test_what_is_left_out_is_neutral(without):
    theta = _random_theta(6)
    kept = [n for n, name in enumerate(("", "time", "schedule")) if name not in without]
    less = {name: z[jnp.array(kept)] for name, z in theta.items() if name not in without}
    neutral = {
        name: jnp.zeros(3) if name in without else z.at[_others(kept)].set(0)
        for name, z in theta.items()
    }
    schedule = optax.cosine_decay_schedule(0.02, 9)
    rule = learned_muon(schedule, without=without)
    chex.assert_trees_all_equal_shapes(rule.init(None), less)
    _assert_alike(rule.transform(less), learned_muon(schedule).transform(neutral), steps=5)
    with pytest.raises(ValueError, match="unknown number of learned_muon: momentum; known: beta"):
        learned_muon(without=("momentum",))


def _others(kept):
    return jnp.array([n for n in range(3) if n not in kept], jnp.int32)


def test_over_eight_devices_with_no_more_traffic_than_muon():
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    specs = {"up": P("fsdp", None), "down": P(None, "fsdp"), "bias": P("fsdp")}
    shapes = {"up": (64, 128), "down": (128, 64), "bias": (128,)}
    params = {
        name: jax.device_put(jnp.ones(shapes[name]), NamedSharding(mesh, spec))
        for name, spec in specs.items()
    }
    rule = learned_muon()
    traffic = {}
    for name, tx in (
        ("muon", optax.contrib.muon(0.1)),
        ("ours", rule.transform(rule.init(None))),
    ):
        state = tx.init(params)
        text = jax.jit(tx.update).lower(params, state, params).compile().as_text()
        kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
        traffic[name] = len(re.findall(rf" (?:{kinds})(?:-start)?\(", text))
    assert 0 < traffic["ours"] <= traffic["muon"]
