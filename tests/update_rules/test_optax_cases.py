"""Rules reach the minimum where optax asks it of its own optimizers (its `alias_test.py`).

The problems, the number of steps and the tolerance are those of optax: a parabola and Rosenbrock's
function, real and complex, 10,000 steps, to within 0.03 absolute plus 3 %.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.update_rules import hand_designed, hierarchy
from tests.update_rules.rules import COMPLEX

NUM_STEPS = 10_000

# θ that differs from the default: optax's learning rates, but for momentum half of them, with which
# Nesterov is stable in the complex valley; and little decay, which moves the minimum.
THETA = {
    "sgd": {"learning_rate": 1e-3},
    "momentum": {"learning_rate": 5e-4},
    "nesterov": {"learning_rate": 5e-4},
    "adagrad": {"learning_rate": 1.0},
    "adadelta": {"learning_rate": 0.1},
    "rmsprop": {"learning_rate": 5e-3},
    "adam": {"learning_rate": 1e-1},
    "nadam": {"learning_rate": 1e-2},
    "adamw": {"learning_rate": 1e-1, "weight_decay": 1e-5},
    "muon": {"learning_rate": 1e-1},
}
RULES = {name: getattr(hand_designed, name)() for name in THETA}
RULES |= {
    f"hierarchy.{name}": getattr(hierarchy, name)() for name in THETA if hasattr(hierarchy, name)
}


def abs_sq(z):
    return jnp.real(z * jnp.conj(z))


def parabola(dtype):
    a = 1 + 1j if dtype.startswith("complex") else 1
    target = a * jnp.array([1.0, -1.0, 1.0], dtype)
    return jnp.array([-1.0, 10.0, 1.0], dtype), target, lambda x: abs_sq(x - target).sum()


def rosenbrock(dtype):
    a = jnp.asarray(1 + 1j if dtype.startswith("complex") else 1, dtype)
    target = jnp.stack([a, a**2])
    return (
        jnp.zeros(2, dtype),
        target,
        lambda x: abs_sq(a - x[0]) + 100 * abs_sq(x[1] - x[0] ** 2),
    )


def assert_reaches_the_minimum(tx, problem, dtype, num_steps=NUM_STEPS):
    with jax.enable_x64(dtype == "float64"):
        start, target, objective = problem(dtype)

        def step(carry, _):
            params, state = carry
            grads = jnp.conj(jax.grad(objective)(params))  # optax's convention
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=num_steps)[0])
        params, _ = run((start, tx.init(start)))
        assert params.dtype == dtype
        np.testing.assert_allclose(params, target, rtol=3e-2, atol=3e-2)


CASES = [
    (name, dtype)
    for name in RULES
    for dtype in ("float32", "float64", "complex64")
    if dtype != "complex64" or name in COMPLEX
]


@pytest.mark.parametrize("problem", [parabola, rosenbrock])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_hand_designed_rule_reaches_the_minimum(name, dtype, problem):
    rule = RULES[name]
    theta = rule.init(jax.random.key(0))
    changed = THETA[name.removeprefix("hierarchy.")]
    assert changed.keys() <= theta.keys()
    theta |= {k: jnp.float32(x) for k, x in changed.items()}
    complex_valley = name == "sgd" and dtype == "complex64"  # at the largest stable rate it is slow
    num_steps = 2 * NUM_STEPS if complex_valley else NUM_STEPS
    assert_reaches_the_minimum(rule.transform(theta), problem, dtype, num_steps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["lstm_mnist", "lstm_quadratic", "lstm_quadratic_gaussian"])
def test_a_pretrained_rule_reaches_the_minimum_of_a_parabola(name, dtype):
    """Run for a hundred times the updates that it was trained on, it stays there."""
    assert_reaches_the_minimum(learned_opt.pretrained(name), parabola, dtype)


def test_a_pretrained_rule_with_a_schedule_goes_through_the_valley():
    """With a step that is constant it ends .92 away from the minimum: it was trained on 100."""
    schedule = optax.exponential_decay(1.0, 1, 0.999)
    tx = learned_opt.pretrained("lstm_mnist", learning_rate=schedule)
    assert_reaches_the_minimum(tx, rosenbrock, "float32")
