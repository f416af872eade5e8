"""The trainer: what it keeps, skips, counts, and that it goes on with the same bits."""

import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.checkpoints import Checkpointer
from learned_opt.meta_training import TruncatedBPTT, init_state, meta_step, train
from learned_opt.tasks import Quadratic
from learned_opt.update_rules import lstm, sgd

RULE = lstm((4,), preprocess=None)
ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
KEY = jax.random.key(0)


def make(**changes):
    settings = dict(
        task=Quadratic(3), rule=RULE, num_tasks=8, unroll_length=5, horizon=20, mapping="vmap"
    )
    return TruncatedBPTT(**(settings | changes))


def test_meta_training_lowers_the_loss_of_the_rule():
    records = []
    train(
        make(),
        ADAM,
        init_state(make(), ADAM, RULE, KEY),
        num_meta_steps=150,
        write=lambda step, record: records.append(record | {"step": step}),
    )
    first, last = records[0]["meta_loss"], records[-1]["meta_loss"]
    assert [r["step"] for r in records] == list(range(10, 151, 10))
    assert last < 0.6 * first
    assert records[0]["inner_steps"] == 10 * 8 * 5


def test_meta_training_a_learning_rate_finds_a_good_one():
    # theta = the learning rate of SGD: following its meta-gradient tunes it.
    rule = sgd(1e-4)
    optimizer = optax.adam(2e-3)
    estimator = make(rule=rule, unroll_length=20)
    start = init_state(estimator, optimizer, rule, KEY)
    state = train(estimator, optimizer, start, num_meta_steps=60)
    assert 0.01 < float(state.best.theta["learning_rate"]) < 0.3


def test_one_trace_and_the_same_seed_gives_the_same_bits():
    chex.clear_trace_counter()
    results = []
    for _ in range(2):
        state = init_state(make(), ADAM, RULE, KEY).meta
        for _ in range(3):
            state, _ = meta_step(make(), ADAM, state)
        results.append(jax.device_get(state.theta))
    chex.assert_trees_all_equal(*results)
    other = init_state(make(), ADAM, RULE, jax.random.key(1)).meta
    assert any(
        (a != b).any()
        for a, b in zip(*map(jax.tree.leaves, (other.theta, results[0])), strict=True)
    )


def test_the_state_is_donated():
    state = init_state(make(), ADAM, RULE, KEY).meta
    meta_step(make(), ADAM, state)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.estimator_state.inner.params))


def test_a_meta_gradient_that_is_not_finite_is_skipped_and_counted():
    state = init_state(make(), ADAM, RULE, KEY)
    theta = jax.device_get(state.meta.theta)
    broken = state.meta.estimator_state.inner._replace(
        params=state.meta.estimator_state.inner.params * jnp.nan
    )
    estimator_state = state.meta.estimator_state._replace(inner=broken)
    state = state._replace(meta=state.meta._replace(estimator_state=estimator_state))
    records = []
    after = train(
        make(),
        ADAM,
        state,
        num_meta_steps=1,
        log_every=1,
        write=lambda step, record: records.append(record),
    )
    chex.assert_trees_all_equal(jax.device_get(after.meta.theta), theta)
    assert int(after.num_skipped) == 1 == records[0]["skipped"]
    assert int(after.num_diverged) == 8 == records[0]["num_diverged"]
    assert int(after.meta.opt_state[1][0].count) == 0
    # The problems are replaced at the next step, and training goes on.
    again = train(make(), ADAM, after, num_meta_steps=2)
    assert int(again.num_skipped) == 1
    chex.assert_tree_all_finite(again.meta.estimator_state.inner)


def test_the_best_theta_is_kept_and_training_stops_early():
    scores = iter([3.0, 1.0, 2.0, float("nan"), 5.0, 0.0])
    thetas = []

    def validate(theta):
        thetas.append(theta)
        return next(scores)

    state = train(
        make(),
        ADAM,
        init_state(make(), ADAM, RULE, KEY),
        num_meta_steps=100,
        validate=validate,
        validate_every=2,
        patience=3,
    )
    assert int(state.best.step) == 4
    assert float(state.best.score) == 1.0
    chex.assert_trees_all_equal(jax.device_get(state.best.theta), thetas[1])
    assert int(state.meta.step) == 10


def test_goes_on_from_any_checkpoint_with_the_same_bits(tmp_path):
    settings = dict(validate=lambda theta: float(theta["output"]["bias"][0]), validate_every=3)

    def start():
        return init_state(make(), ADAM, RULE, KEY)

    whole = train(make(), ADAM, start(), num_meta_steps=9, **settings)
    checkpointer = Checkpointer(tmp_path, keep=10)
    train(make(), ADAM, start(), num_meta_steps=7, save=checkpointer.save, save_every=2, **settings)
    step, restored = checkpointer.restore_latest(start())
    assert step == 7
    resumed = train(make(), ADAM, restored, num_meta_steps=9, **settings)
    chex.assert_trees_all_equal(_bits(resumed), _bits(whole))


def _bits(state):
    return state._replace(meta=state.meta._replace(key=jax.random.key_data(state.meta.key)))


def test_ctrl_c_saves_a_whole_step_and_stops():
    saved = []
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests with &

    def write(step, record):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped after 4 meta-updates"):
        train(
            make(),
            ADAM,
            init_state(make(), ADAM, RULE, KEY),
            num_meta_steps=50,
            log_every=2,
            write=write,
            save=lambda step, state: saved.append((step, int(state.meta.step))),
        )
    assert saved == [(4, 4)]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["num_meta_steps", "validate_every", "log_every", "save_every"])
def test_refuses_no_steps(name):
    state = init_state(make(), ADAM, RULE, KEY)
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        train(make(), ADAM, state, **({"num_meta_steps": 1} | {name: 0}))


def test_eight_devices_equal_one():
    results = []
    for mesh in (None, jax.make_mesh((8,), ("tasks",))):
        estimator = make(mesh=mesh, num_tasks=16)
        state = init_state(estimator, ADAM, RULE, KEY).meta
        if mesh is not None:
            params = state.estimator_state.inner.params
            assert len(params.sharding.device_set) == 8
            assert params.addressable_shards[0].data.shape[0] == 2
            text = meta_step.lower(estimator, ADAM, state).compile().as_text()
            assert "all-gather" not in text
        for _ in range(5):
            state, metrics = meta_step(estimator, ADAM, state)
        results.append(jax.device_get((state.theta, metrics)))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)
    assert np.isfinite(results[0][1]["meta_loss"])
