"""Imitation against a Python loop, and the loss at a segment's end."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.meta_training import Imitation, TruncatedBPTT, init_state, meta_step
from learned_opt.tasks import Quadratic
from learned_opt.update_rules import adam, lstm, sgd

KEY = jax.random.key(0)
SETTINGS = dict(task=Quadratic(3), num_tasks=2, unroll_length=4, horizon=8)


@pytest.mark.parametrize("final_rate", [None, 0.02])
def test_equals_a_loop(final_rate):
    rule = lstm((3,), preprocess=None)
    rng = np.random.default_rng(0)
    theta = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype), rule.init(KEY)
    )
    settings = SETTINGS | {"teacher_rate": 0.1, "teacher_final_rate": final_rate}
    estimator = Imitation(rule=rule, **settings)
    state = estimator.init(KEY, theta)
    assert state.inner_step.tolist() == [0, 4]
    rates = [0.1] * 4  # the first four of a horizon of eight
    if final_rate:
        rates = [0.02 + 0.08 * (1 + np.cos(np.pi * t / 8)) / 2 for t in range(4)]

    def distance(theta, n):
        tx, teacher = rule.transform(theta), optax.adam(1.0)
        inner = jax.tree.map(lambda x: x[n], state.inner)
        key = jax.random.split(jax.random.fold_in(KEY, n))[1]
        params = inner.params
        rule_state, adam_state, total = tx.init(params), teacher.init(params), 0.0
        for t in range(4):
            g = jax.grad(estimator.task.loss)(params, inner.instance, jax.random.fold_in(key, t))
            a, adam_state = teacher.update(g, adam_state)
            a = rates[t] * a
            u, rule_state = tx.update(g, rule_state)
            total += jnp.sum((u - a) ** 2) / jnp.sum(a**2) / 4
            params = params + a
        return total

    values, grads = zip(*(jax.value_and_grad(distance)(theta, n) for n in (0, 1)), strict=True)
    found, after, metrics = jax.jit(Imitation.estimate)(estimator, KEY, theta, state)
    np.testing.assert_allclose(metrics["meta_loss"], np.mean(values), rtol=1e-4)
    chex.assert_trees_all_close(
        found, jax.tree.map(lambda a, b: (a + b) / 2, *grads), rtol=1e-3, atol=1e-6
    )
    assert after.inner_step.tolist() == [4, 8]
    assert metrics["inner_steps"] == 8 and metrics["num_diverged"] == 0


def test_adam_that_imitates_adam_finds_its_learning_rate():
    rule = adam(0.01)
    estimator = Imitation(rule=rule, teacher_rate=0.1, **SETTINGS)
    optimizer = optax.masked(
        optax.adam(5e-3), {**dict.fromkeys(rule.init(KEY), False), "learning_rate": True}
    )
    optimizer = optax.chain(optimizer, _only("learning_rate"))
    state = init_state(estimator, optimizer, rule, KEY).meta
    for _ in range(60):
        state, metrics = meta_step(estimator, optimizer, state)
    assert metrics["meta_loss"] < 1e-2
    assert abs(float(state.theta["learning_rate"]) - 0.1) < 0.01


def _only(name):
    return optax.stateless(
        lambda updates, params: {
            k: u if k == name else jnp.zeros_like(u) for k, u in updates.items()
        }
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 6}, "must be a multiple of unroll_length"),
        ({"num_tasks": 0}, "num_tasks must be at least 1"),
        ({"teacher_rate": 0.0}, "teacher_rate must be positive"),
        ({"teacher_final_rate": 0.2}, "must be positive and at most teacher_rate"),
        ({"teacher_final_rate": 0.0}, "must be positive and at most teacher_rate"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Imitation(rule=sgd(), **({"teacher_rate": 0.1} | SETTINGS | settings))


@pytest.mark.parametrize("second_order", [False, True])
def test_the_last_loss_of_a_segment_alone(second_order):
    """One step of SGD from the segment's start: d loss(p - lr g) / d lr = −⟨g', g⟩."""
    rule = sgd(0.01)
    theta = rule.init(KEY)
    settings = SETTINGS | {"second_order": second_order}
    estimator = TruncatedBPTT(rule=rule, segment_loss="last", **settings)
    state = estimator.init(KEY, theta)
    grads, _, metrics = jax.jit(TruncatedBPTT.estimate)(estimator, KEY, theta, state)

    def last_loss(rate, n):
        inner = jax.tree.map(lambda x: x[n], state.inner)
        key = jax.random.split(jax.random.fold_in(KEY, n))[1]
        params, unravel = jax.flatten_util.ravel_pytree(inner.params)
        for t in range(4):
            g = jax.grad(estimator.task.loss)(params, inner.instance, jax.random.fold_in(key, t))
            params = params - rate * (g if second_order else jax.lax.stop_gradient(g))
        return estimator.task.loss(params, inner.instance, jax.random.fold_in(key, 4))

    values, wanted = zip(*(jax.value_and_grad(last_loss)(0.01, n) for n in (0, 1)), strict=True)
    np.testing.assert_allclose(grads["learning_rate"], np.mean(wanted), rtol=1e-4)
    np.testing.assert_allclose(metrics["segment_end_loss"], np.mean(values), rtol=1e-5)
    with pytest.raises(ValueError, match="unknown segment_loss 'first': expected 'sum' or 'last'"):
        TruncatedBPTT(rule=rule, segment_loss="first", **SETTINGS)
