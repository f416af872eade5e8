"""Effective rates against the rules' own updates, closed forms and recorded ways."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import update_rules
from learned_opt.evaluation import trajectory
from learned_opt.studies.step_sizes import effective_rates, step_sizes
from learned_opt.tasks import Quadratic

RNG = np.random.default_rng(0)
TASK = Quadratic(num_dims=5)


@pytest.mark.parametrize("eps", [1e-8, 1e-2, 10.0])
@pytest.mark.parametrize("name", ["adam", "adadelta"])
def test_an_update_is_the_rate_times_the_gradient(name, eps):
    rule = getattr(update_rules, name)(0.3, eps=eps)
    theta = rule.init(jax.random.key(0))
    tx = rule.transform(theta)
    state, mean = tx.init(jnp.zeros(6)), np.zeros(6)
    for t in range(1, 8):
        gradient = RNG.normal(size=6) * 10.0 ** np.arange(-3, 3)
        updates, after = tx.update(jnp.float32(gradient), state, jnp.zeros(6))
        rates, _ = effective_rates(name, theta, state, after)
        mean = 0.9 * mean + 0.1 * gradient
        along = mean / (1 - 0.9**t) if name == "adam" else gradient
        np.testing.assert_allclose(updates, -rates * along, rtol=2e-4)
        state = after


def test_records_what_a_run_does():
    rule = update_rules.adam(0.1)
    theta, key = rule.init(jax.random.key(0)), jax.random.key(3)
    found = step_sizes("adam", rule, theta, TASK, key, num_steps=12)
    points, _ = trajectory(rule, theta, TASK, key, num_steps=12)
    moved = np.sqrt(np.mean(np.diff(np.asarray(points, np.float64), axis=0) ** 2, axis=1))
    np.testing.assert_allclose(found.update, moved, rtol=1e-4)
    instance = TASK.sample(jax.random.split(jax.random.split(key)[0])[0])
    gradients = [
        2 * instance["W"].T @ (instance["W"] @ point - instance["y"]) for point in points[:-1]
    ]
    expected = np.sqrt(np.mean(np.square(gradients), axis=1))
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-3)
    assert (np.diff(found.rates, axis=1) >= 0).all() and found.rates.shape == (12, 3)


def test_the_first_step_of_adadelta_depends_on_epsilon_alone():
    for eps in (1e-8, 1e-6):
        rule = update_rules.adadelta(eps=eps)
        for scale in (1.0, 30.0):
            tx = rule.transform(rule.init(jax.random.key(0)))
            updates, _ = tx.update(jnp.float32([scale]), tx.init(jnp.zeros(1)), jnp.zeros(1))
            assert float(-updates[0]) == pytest.approx((eps / 0.1) ** 0.5, rel=1e-4)


def test_epsilon_is_in_units_of_the_gradient():
    gradients = jnp.float32(RNG.normal(size=(9, 4)))

    def steps(scale, eps):
        tx = optax.adam(0.1, eps=eps)
        _, updates = jax.lax.scan(
            lambda state, g: tx.update(scale * g, state)[::-1], tx.init(jnp.zeros(4)), gradients
        )
        return updates

    np.testing.assert_allclose(steps(1000.0, 1.0), steps(1.0, 1e-3), rtol=1e-3)
    assert np.abs(steps(1000.0, 1.0) - steps(1.0, 1.0)).max() > 0.01


def test_other_rules_have_no_effective_rates_and_no_step_is_refused():
    rule = update_rules.sgd(0.1)
    theta = rule.init(jax.random.key(0))
    found = step_sizes("sgd", rule, theta, TASK, jax.random.key(0), num_steps=2)
    assert np.isnan(found.rates).all() and np.isfinite(found.update).all()
    with pytest.raises(ValueError, match="no effective rates of rule 'sgd'.*adam, adadelta"):
        effective_rates("sgd", theta, None, None)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        step_sizes("sgd", rule, theta, TASK, jax.random.key(0), num_steps=0)
