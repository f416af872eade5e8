"""Mixtures against their parts, one by one, in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.meta_training import Mixture, TruncatedBPTT
from learned_opt.tasks import Quadratic
from learned_opt.update_rules import lstm

KEY = jax.random.key(1)
RULE = lstm((3,), preprocess=None)
SETTINGS = dict(rule=RULE, num_tasks=2, unroll_length=4, horizon=8, mapping="vmap")
PARTS = [TruncatedBPTT(task=Quadratic(n, family="gaussian"), **SETTINGS) for n in (2, 6)]
THETA = jax.tree.map(
    lambda x: x + 0.05 * jax.random.normal(jax.random.key(2), x.shape), RULE.init(KEY)
)


def alone(k, key, state):
    return jax.jit(TruncatedBPTT.estimate)(PARTS[k], jax.random.fold_in(key, k), THETA, state)


def steps(mixture, count=3):
    """The meta-gradients and metrics of a mixture, and those of its parts."""
    state = mixture.init(KEY, THETA)
    states = [p.init(jax.random.fold_in(KEY, k), THETA) for k, p in enumerate(PARTS)]
    estimate = jax.jit(Mixture.estimate)
    for t in range(count):
        key = jax.random.key(10 + t)
        grads, state, metrics = estimate(mixture, key, THETA, state)
        own = [alone(k, key, states[k]) for k in range(2)]
        states = [o[1] for o in own]
        yield grads, metrics, [o[0] for o in own], [o[2] for o in own]


def test_given_weights_add_up():
    mixture = Mixture([(PARTS[0], 2.0), (PARTS[1], 0.25)], names=("small", "large"))
    for grads, metrics, own, own_metrics in steps(mixture):
        expected = jax.tree.map(lambda a, b: 2.0 * a + 0.25 * b, *own)
        chex.assert_trees_all_close(grads, expected, rtol=1e-5, atol=1e-6)
        for name, found in zip(("small", "large"), own_metrics, strict=True):
            np.testing.assert_allclose(metrics[f"{name}/meta_loss"], found["meta_loss"], rtol=1e-5)
        assert metrics["inner_steps"] == 16 and metrics["num_diverged"] == 0


def test_running_scales_make_sizes_alike():
    mixture = Mixture([(PARTS[0], 1.0), (PARTS[1], 1.0)], scaling="running", decay=0.5)
    sizes = np.zeros(2)
    for t, (grads, _, own, _) in enumerate(steps(mixture)):
        norms = np.array([float(optax.tree.norm(g)) for g in own])
        sizes = 0.5 * sizes + 0.5 * norms
        scales = sizes / (1 - 0.5 ** (t + 1))
        expected = jax.tree.map(lambda a, b, s=scales: a / s[0] + b / s[1], *own)
        chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-6)


def test_a_part_that_diverged_is_left_out_and_counted():
    mixture = Mixture([(PARTS[0], 1.0), (PARTS[1], 1.0)], scaling="running")
    state = mixture.init(KEY, THETA)
    broken = state.parts[1]._replace(
        inner=state.parts[1].inner._replace(params=state.parts[1].inner.params * jnp.nan)
    )
    state = state._replace(parts=(state.parts[0], broken))
    grads, after, metrics = mixture.estimate(KEY, THETA, state)
    expected = alone(0, KEY, state.parts[0])[0]
    norm = optax.tree.norm(expected)
    chex.assert_trees_all_close(grads, jax.tree.map(lambda g: g / norm, expected), rtol=1e-4)
    assert metrics["1/skipped"] == 1 and metrics["0/skipped"] == 0
    assert metrics["num_diverged"] == metrics["1/num_diverged"] == 2
    assert after.counts.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        ([], {}, "at least one part"),
        ([(PARTS[0], 0.0)], {}, "weight of '0' must be positive"),
        ([(PARTS[0], 1.0)], {"names": ("a", "b")}, "one for each of 1 parts"),
        ([(PARTS[0], 1.0)], {"scaling": "own"}, "unknown scaling 'own'"),
        ([(PARTS[0], 1.0)], {"decay": 1.0}, "decay must be"),
    ],
)
def test_refuses_bad_settings(parts, settings, message):
    with pytest.raises(ValueError, match=message):
        Mixture(parts, **settings)
