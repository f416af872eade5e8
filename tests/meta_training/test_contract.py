"""What meta-training asks of every estimator, and nothing else: one of twenty lines has it too."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.checkpoints import Checkpointer
from learned_opt.meta_training import (
    NRES,
    PES,
    FullES,
    Imitation,
    Mixture,
    TruncatedBPTT,
    TruncatedES,
    init_state,
    meta_step,
    train,
)
from learned_opt.tasks import Quadratic
from learned_opt.unroll import init_inner, unroll
from learned_opt.update_rules import lstm

KEY = jax.random.key(0)
RULE = lstm((4,), preprocess=None)
OPTIMIZER = optax.adam(1e-2)
SETTINGS = dict(rule=RULE, num_tasks=4, unroll_length=5, horizon=20, mapping="vmap")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Smallest:
    """Differentiates whole runs, of fresh problems each time: it carries nothing."""

    task: Quadratic

    def init(self, key, theta):
        return ()

    def estimate(self, key, theta, state):
        def loss(theta, key):
            tx = RULE.transform(theta)
            key_init, key_run = jax.random.split(key)
            return unroll(tx, self.task, init_inner(tx, self.task, key_init), key_run, 10)[1].mean()

        keys = jax.random.split(key, 4)
        losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0))(theta, keys)
        return jax.tree.map(lambda g: g.mean(0), grads), state, {"meta_loss": losses.mean()}


ESTIMATORS = {
    "first order": TruncatedBPTT(task=Quadratic(3), **SETTINGS),
    "second order": TruncatedBPTT(task=Quadratic(3), second_order=True, **SETTINGS),
    "judged on valid": TruncatedBPTT(task=Quadratic(3), meta_loss="valid", **SETTINGS),
    "mixture": Mixture.of_tasks(
        [(Quadratic(3), 1.0), (Quadratic(5), 0.5)], names=("small", "large"), **SETTINGS
    ),
    "scaled mixture": Mixture(
        [(TruncatedBPTT(task=Quadratic(3), **SETTINGS), 1.0), (Smallest(Quadratic(2)), 2.0)],
        scaling="running",
    ),
    "imitation": Imitation(
        task=Quadratic(3), rule=RULE, teacher_rate=0.1, num_tasks=4, unroll_length=5, horizon=20
    ),
    "smallest": Smallest(Quadratic(3)),
    **{
        kind.__name__: kind(
            task=Quadratic(3), rule=RULE, num_tasks=4, unroll_length=5, horizon=5, sigma=0.1
        )
        for kind in (FullES, NRES, PES, TruncatedES)
    },
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


@every_estimator
def test_state_and_meta_gradient_keep_their_types(name):
    estimator, theta = ESTIMATORS[name], RULE.init(KEY)
    state = jax.jit(type(estimator).init)(estimator, KEY, theta)
    grads, after, metrics = jax.jit(type(estimator).estimate)(estimator, KEY, theta, state)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, theta)
    assert all(jnp.shape(value) == () for value in metrics.values())
    chex.assert_tree_all_finite((grads, metrics))
    assert float(optax.tree.norm(grads)) > 0
    same = jax.jit(type(estimator).estimate)(estimator, KEY, theta, state)[0]
    chex.assert_trees_all_equal(grads, same)


@every_estimator
def test_trains_and_goes_on_from_a_checkpoint_with_the_same_bits(name, tmp_path):
    estimator, records = ESTIMATORS[name], []

    def start():
        return init_state(estimator, OPTIMIZER, RULE, KEY)

    def write(step, record):
        records.append(record)

    whole = train(estimator, OPTIMIZER, start(), num_meta_steps=5, log_every=5, write=write)
    checkpointer = Checkpointer(tmp_path)
    train(estimator, OPTIMIZER, start(), num_meta_steps=2, save=checkpointer.save)
    _, restored = checkpointer.restore_latest(start())
    resumed = train(estimator, OPTIMIZER, restored, num_meta_steps=5)
    bits = lambda s: (s.meta.theta, s.meta.opt_state, s.meta.estimator_state)  # noqa: E731
    chex.assert_trees_all_equal(bits(resumed), bits(whole))
    assert any(
        np.asarray(a != b).any()
        for a, b in zip(
            jax.tree.leaves(whole.meta.theta), jax.tree.leaves(RULE.init(KEY)), strict=True
        )
    )
    if name != "smallest":
        assert records[0]["inner_steps"] >= 5 * 4 * 5
        assert records[0]["inner_steps_per_second"] > 0


@pytest.mark.parametrize("name", ["first order", "mixture"])
def test_over_eight_devices_as_on_one(name):
    results = []
    for mesh in (None, jax.make_mesh((8,), ("tasks",))):
        settings = SETTINGS | {"num_tasks": 16, "mesh": mesh}
        if name == "mixture":
            tasks = [(Quadratic(3), 1.0), (Quadratic(5), 0.5)]
            estimator = Mixture.of_tasks(tasks, **settings)
        else:
            estimator = TruncatedBPTT(task=Quadratic(3), **settings)
        state = init_state(estimator, OPTIMIZER, RULE, KEY).meta
        for _ in range(3):
            state, metrics = meta_step(estimator, OPTIMIZER, state)
        sharded = jax.tree.leaves(state.estimator_state)[0].sharding
        assert len(sharded.device_set) == (8 if mesh else 1)
        results.append(jax.device_get((state.theta, metrics)))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_an_estimator_that_is_no_pytree_is_refused():
    class Unregistered:
        def init(self, key, theta): ...

        def estimate(self, key, theta, state): ...

    with pytest.raises(TypeError, match="estimator is a Unregistered, not arrays.*register_datacl"):
        init_state(Unregistered(), OPTIMIZER, RULE, KEY)
