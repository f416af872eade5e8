"""Rules by label: against a NumPy recurrence, the rules alone, and in meta-training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.meta_training import TruncatedBPTT
from learned_opt.tasks import Classifier
from learned_opt.update_rules import adam, by_label, lstm, muon
from tests.update_rules.test_lstm import numpy_lstm_step, numpy_preprocess, random_theta

PARAMS = {"conv": {"kernel": jnp.zeros((2, 1, 1, 3))}, "dense": jnp.zeros((2, 2)), "b": 0.0}


def gradients(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.float32(rng.normal(size=jnp.shape(p))), PARAMS)


def steps(tx, num_steps=4):
    state, found = tx.init(PARAMS), []
    update = jax.jit(tx.update)
    for n in range(num_steps):
        updates, state = update(gradients(n), state, PARAMS)
        found.append(updates)
    return found


def test_two_lstms_follow_the_numpy_recurrence():
    rule = by_label({"conv": lstm((3, 2)), "rest": lstm((4,))})
    theta = {"conv": random_theta(lstm((3, 2)), 1), "rest": random_theta(lstm((4,)), 2)}
    sizes = {"conv": (3, 2), "rest": (4,)}
    got = steps(rule.transform(theta))
    for path, p in jax.tree.leaves_with_path(PARAMS):
        label = "conv" if jnp.ndim(p) == 4 else "rest"
        for index in np.ndindex(jnp.shape(p)):
            hidden = cell = [np.zeros(s) for s in sizes[label]]
            for n, updates in enumerate(got):
                g = float(dict(jax.tree.leaves_with_path(gradients(n)))[path][index])
                u, hidden, cell = numpy_lstm_step(theta[label], numpy_preprocess(g), hidden, cell)
                mine = dict(jax.tree.leaves_with_path(updates))[path][index]
                np.testing.assert_allclose(mine, 0.1 * u, rtol=1e-5, atol=1e-6)


def test_one_rule_twice_is_the_rule():
    theta = random_theta(lstm((3,)))
    twice = by_label({"conv": lstm((3,)), "rest": lstm((3,))})
    got = steps(twice.transform({"conv": theta, "rest": theta}))
    chex.assert_trees_all_close(got, steps(lstm((3,)).transform(theta)), rtol=1e-6, atol=1e-7)


def test_each_part_moves_as_if_it_were_alone():
    theta = {"conv": random_theta(lstm((3,))), "rest": adam().init(jax.random.key(0))}
    got = steps(by_label({"conv": lstm((3,)), "rest": adam()}).transform(theta))
    alone = steps(lstm((3,)).transform(theta["conv"]))
    ours = steps(optax.adam(1e-3))
    for mine, learned, plain in zip(got, alone, ours, strict=True):
        chex.assert_trees_all_close(mine["conv"], learned["conv"], rtol=1e-6)
        chex.assert_trees_all_close(mine["dense"], plain["dense"], rtol=1e-5)
        chex.assert_trees_all_close(mine["b"], plain["b"], rtol=1e-5)


def test_paths_are_given_and_a_label_may_go_unused():
    rule = by_label({"b": adam(), "w": adam(), "none": muon()}, lambda path, p: _label(path))
    theta = rule.init(jax.random.key(0))
    assert set(theta) == {"b", "w", "none"}
    chex.assert_trees_all_close(
        steps(rule.transform(theta)), steps(optax.adam(1e-3)), rtol=1e-5, atol=1e-9
    )


def _label(path):
    return "b" if path == "['b']" else "w"


def test_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="at least one rule"):
        by_label({})
    with pytest.raises(TypeError, match="label -> UpdateRule, got 'conv' -> GradientTransf"):
        by_label({"conv": optax.adam(1e-3)})
    rule = by_label({"conv": adam(), "dense": adam()})
    with pytest.raises(ValueError, match=r"'rest' for params\['b'\], which has no rule; rules: "):
        rule.transform(rule.init(jax.random.key(0))).init(PARAMS)


def conv_task():
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (40, 4, 4, 1), np.uint8), rng.integers(0, 3, 40)
    return Classifier.from_arrays({"train": data}, num_classes=3, network="tiny_cnn", batch_size=4)


def meta_gradient(rule, theta, **settings):
    estimator = TruncatedBPTT(
        task=conv_task(), rule=rule, num_tasks=2, unroll_length=3, horizon=6, **settings
    )
    state = jax.jit(TruncatedBPTT.init)(estimator, jax.random.key(0), theta)
    return jax.jit(TruncatedBPTT.estimate)(estimator, jax.random.key(1), theta, state)[0]


def test_the_fast_meta_gradient_is_that_through_the_tree():
    rule = by_label({"conv": lstm((3,)), "rest": lstm((2,), preprocess=None)})
    theta = {"conv": random_theta(lstm((3,))), "rest": random_theta(lstm((2,), preprocess=None))}
    plain = meta_gradient(rule._replace(coordinatewise=False, parts=()), theta)
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(plain))
    for settings in ({"block_size": 64}, {"mapping": "vmap", "block_size": 0}):
        fast = meta_gradient(rule, theta, **settings)
        chex.assert_trees_all_close(fast, plain, rtol=2e-3, atol=2e-4)


def test_a_share_of_the_coordinates_is_taken_of_each_part():
    rule = by_label({"conv": lstm((2,)), "rest": lstm((2,))})
    theta = {
        "conv": random_theta(lstm((2,))),
        "rest": random_theta(
            lstm(
                (2,),
            ),
            1,
        ),
    }
    full = meta_gradient(rule, theta)
    some = meta_gradient(rule, theta, replay_fraction=0.3)
    # 1,152 of the 1,224 numbers of the kernels are in one that is sampled; all else is kept.
    chex.assert_trees_all_close(some["rest"], full["rest"], rtol=1e-4, atol=1e-6)
    assert float(optax.tree.norm(optax.tree.sub(some["conv"], full["conv"]))) > 0
