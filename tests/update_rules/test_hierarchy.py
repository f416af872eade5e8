"""The rules of Choi et al. against their equations in NumPy, and where optax's differ."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.update_rules import hierarchy

NAMES = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam", "adagrad", "adadelta")


def log_floats(low, high):
    return st.floats(np.log10(low), np.log10(high)).map(lambda x: 10.0**x)


RANGES = {
    "learning_rate": log_floats(1e-4, 1e2),
    "decay_steps": st.floats(0.5, 40),
    "decay_factor": log_floats(1e-4, 1),
    "one_minus_momentum": log_floats(1e-4, 1),
    "one_minus_rho": log_floats(1e-5, 1),
    "one_minus_b1": log_floats(1e-4, 1),
    "one_minus_b2": log_floats(1e-7, 1),
    "eps": log_floats(1e-10, 1e10),
    "rho": st.floats(0.0, 0.999),
    "initial_accumulator_value": st.floats(0.0, 1.0),
}


def names_of(rule):
    parameters = inspect.signature(getattr(hierarchy, rule)).parameters
    return [name for name in parameters if name != "schedule"]


def by_the_book(rule, h, gradients):
    """The equations, step by step; returns what the parameters lose at each."""
    lost = []
    m = np.zeros(gradients.shape[1])
    v = {"rmsprop": 1.0, "adagrad": h.get("initial_accumulator_value")}.get(rule, 0.0) + m
    s = np.zeros_like(m)
    for t, g in enumerate(gradients):
        eta = h["learning_rate"] * (1 - (1 - h["decay_factor"]) * min(t / h["decay_steps"], 1))
        if rule == "sgd":
            down = eta * g
        elif rule in ("momentum", "nesterov"):
            gamma = 1 - h["one_minus_momentum"]
            m = gamma * m + g
            down = eta * (m if rule == "momentum" else gamma * m + g)
        elif rule == "rmsprop":
            rho = 1 - h["one_minus_rho"]
            v = rho * v + (1 - rho) * g**2
            m = (1 - h["one_minus_momentum"]) * m + eta * g / np.sqrt(v + h["eps"])
            down = m
        elif rule in ("adam", "nadam"):
            b1, b2 = 1 - h["one_minus_b1"], 1 - h["one_minus_b2"]
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            b = np.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1))
            top = m if rule == "adam" else b1 * m + (1 - b1) * g
            down = eta * b * top / (np.sqrt(v) + h["eps"])
        elif rule == "adagrad":
            v = v + g**2
            down = eta * g / np.sqrt(v + h["eps"])
        else:
            v = h["rho"] * v + (1 - h["rho"]) * g**2
            delta = np.sqrt(s + h["eps"]) / np.sqrt(v + h["eps"]) * g
            s = h["rho"] * s + (1 - h["rho"]) * delta**2
            down = eta * delta
        lost.append(down)
    return np.array(lost)


_RULES = {name: getattr(hierarchy, name)() for name in NAMES}


@pytest.fixture(scope="module")
def run():
    """`run(rule, θ, gradients)`: what the parameters lose at each step; one program a rule."""

    def updates(tx, gradients):
        def step(state, g):
            update, state = tx.update(g, state, jnp.zeros_like(g))  # optax's adadelta asks for them
            return state, -update

        return jax.lax.scan(step, tx.init(jnp.zeros_like(gradients[0])), gradients)[1]

    compiled = {
        name: jax.jit(lambda theta, g, rule=rule: updates(rule.transform(theta), g))
        for name, rule in _RULES.items()
    }
    return lambda rule, theta, gradients: np.asarray(compiled[rule](theta, gradients))


@pytest.mark.parametrize("rule", NAMES)
def test_follows_the_equations(rule, run):
    @settings(max_examples=60, deadline=None)
    @given(st.fixed_dictionaries({name: RANGES[name] for name in names_of(rule)}), st.data())
    def check(h, data):
        seed = data.draw(st.integers(0, 2**32 - 1))
        gradients = np.random.default_rng(seed).normal(size=(30, 3))
        with jax.enable_x64(True):
            theta = {name: jnp.float64(value) for name, value in h.items()}
            got = run(rule, theta, jnp.asarray(gradients))
        # 1 − b² in the book's form is what loses digits, not the rule.
        np.testing.assert_allclose(got, by_the_book(rule, h, gradients), rtol=1e-7)

    check()


def trajectory(tx, steps=40):
    """Parameters of a fixed quadratic after each of a number of steps."""
    curvature = jnp.linspace(0.1, 1.0, 5)

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(curvature * x, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.ones(5)
    return np.asarray(jax.lax.scan(step, (start, tx.init(start)), length=steps)[1])


def ours(rule, **theta):
    return trajectory(rule.transform(rule.init(jax.random.key(0)) | theta))


@pytest.mark.parametrize(
    ("rule", "other"),
    [
        (hierarchy.sgd(0.1), optax.sgd(0.1)),
        (hierarchy.momentum(0.1), optax.sgd(0.1, momentum=0.9)),
        (hierarchy.nesterov(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)),
        (
            hierarchy.rmsprop(0.01),
            optax.rmsprop(0.01, decay=0.9, eps=1e-8, initial_scale=1.0, momentum=0.9),
        ),
        (hierarchy.adam(0.01, eps=1e-12), optax.adam(0.01, eps=1e-12)),
        (hierarchy.adagrad(0.1), optax.adagrad(0.1)),
        (hierarchy.adadelta(1.0), optax.adadelta(1.0)),
    ],
    ids=["sgd", "momentum", "nesterov", "rmsprop, v₀ = 1", "adam, ε → 0", "adagrad", "adadelta"],
)
def test_where_optax_agrees(rule, other):
    np.testing.assert_allclose(ours(rule), trajectory(other), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "other", "at_least"),
    [
        (hierarchy.adam(0.05, eps=1e-3), optax.adam(0.05, eps=1e-3), 1e-3),
        (hierarchy.adam(0.05, eps=1.0), optax.adam(0.05, eps=1.0), 0.2),
        (hierarchy.nadam(0.05), optax.nadam(0.05), 1e-3),
        (hierarchy.rmsprop(0.01), optax.rmsprop(0.01, momentum=0.9), 1e-2),
    ],
    ids=["adam, ε = 1e-3", "adam, ε = 1", "nadam", "rmsprop, v₀ = 0"],
)
def test_where_optax_differs(rule, other, at_least):
    a, b = ours(rule), trajectory(other)
    assert np.max(np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)) > at_least


def test_float32_keeps_what_one_minus_beta_says():
    """At 1 − β₂ = 1e-7 a float32 β₂ is off by a fifth; the rule agrees with float64."""
    gradients = np.random.default_rng(0).normal(size=(20, 3))
    h = {"learning_rate": 0.1, "decay_steps": 1.0, "decay_factor": 1.0}
    h |= {"one_minus_b1": 1e-4, "one_minus_b2": 1e-7, "eps": 1e-8}
    tx = hierarchy.adam().transform({name: jnp.float32(value) for name, value in h.items()})
    state, got = tx.init(jnp.zeros(3)), []
    for g in gradients:
        update, state = tx.update(jnp.asarray(g, jnp.float32), state)
        got.append(-update)
    with jax.enable_x64(True):
        exact = [1 - (1 - jnp.float64(1e-7)) ** n for n in (1, 2)]
    np.testing.assert_allclose(
        hierarchy.one_minus_power(jnp.float32(1e-7), jnp.arange(1.0, 3.0)), exact, rtol=1e-6
    )
    book = by_the_book("adam", h, gradients)
    error = np.linalg.norm(np.array(got) - book) / np.linalg.norm(book)
    assert error < 1e-5
    assert abs((1 - np.float32(1 - 1e-7)) / 1e-7 - 1) > 0.1  # what would have been lost
