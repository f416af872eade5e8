"""The guard among other transformations: fuzzed gradients, dtypes, shardings, bad arguments."""

import functools
import math

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

from learned_opt import guard, guard_report
from tests.test_guard import RULES, make_params, make_tx


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _fuzz(tx, key, limits, dtype, shape):
    """Whether every update, and every parameter after it, is finite."""
    low, high = limits

    def lane(key):
        keys = jax.random.split(key, 10)
        params = jax.random.normal(key, shape).astype(dtype)

        def step(carry, key):
            params, state = carry
            a, b, c, d = jax.random.split(key, 4)
            exponent = jax.random.uniform(a, shape, minval=low, maxval=high)
            exponent += jax.random.uniform(b, (), minval=-10, maxval=10)
            grads = jax.random.rademacher(c, shape, jnp.float32) * 10.0**exponent
            kind = jax.random.randint(d, shape, 0, 60)
            special = jnp.array([math.nan, math.inf, -math.inf, 0.0, 1e-45, 3e38])
            grads = jnp.where(kind < 6, special[jnp.minimum(kind, 5)], grads).astype(dtype)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            fine = jnp.all(jnp.isfinite(updates)) & jnp.all(jnp.isfinite(params))
            return (params, state), fine

        (_, state), fine = jax.lax.scan(step, (params, tx.init(params)), keys)
        return jnp.all(fine), state.counts["rule_steps"]

    return jax.vmap(lane)(key)


def check_fuzz(name, dtype, lanes):
    tx = guard(make_tx(name), max_ratio=math.inf)  # nothing but finiteness holds the rule back
    with jax.enable_x64(dtype == "float64"):
        keys = jax.random.split(jax.random.key(0), lanes)
        fine, rule_steps = _fuzz(tx, keys, (-30.0, 30.0), dtype, (2, 2))
        assert fine.all()
        assert rule_steps.sum() > lanes / 10


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("adam", "float16"),
        ("adam", "float64"),
        ("hierarchy.nadam", "bfloat16"),
        ("lstm", "float32"),
    ],
)
def test_no_update_is_ever_infinite(name, dtype):
    check_fuzz(name, dtype, 200)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_no_update_is_ever_infinite_in_a_million(name, dtype):
    check_fuzz(name, dtype, 25_000)  # of 10 steps of 4 gradients


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(width=32), min_size=6, max_size=6),
    st.lists(st.floats(width=32), min_size=6, max_size=6),
)
def test_finite_parameters_stay_finite(grads, losses):
    params = state = None
    for dtype in (jnp.float32, jnp.bfloat16):
        params = jnp.array([1.0, -3e38], dtype)
        state = _HYPOTHESIS.init(params)
        for n in range(0, 6, 2):
            updates, state = _UPDATE(jnp.array(grads[n : n + 2], dtype), state, params, losses[n])
            params = optax.apply_updates(params, updates)
            assert np.isfinite(updates).all() and np.isfinite(params).all()
    assert guard_report(state)["steps"] == 3


_HYPOTHESIS = guard(optax.adam(1e37), optax.sgd(1e3), hold=1, duel=1)
_UPDATE = jax.jit(lambda g, s, p, loss: _HYPOTHESIS.update(g, s, p, value=loss))


def run_steps(tx, params, steps=30):
    """A few steps on a quadratic, the loss given; the rule loses its duel."""

    def step(carry, _):
        params, state = carry
        loss = lambda p: sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(p))  # noqa: E731
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)


SMALL = guard(optax.sgd(1.2), optax.adam(0.01), hold=3, duel=3)
JITTED = SMALL._replace(update=jax.jit(SMALL.update))


def test_scan_jit_and_vmap_agree():
    lanes = [jax.tree.map(lambda p, n=n: p + n, make_params()) for n in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *lanes)
    run = jax.jit(lambda p: run_steps(SMALL, p)[0])
    together = jax.jit(jax.vmap(run))(stacked)
    alone = jax.tree.map(lambda *x: jnp.stack(x), *map(run, lanes))
    chex.assert_trees_all_close(together, alone, rtol=1e-4, atol=1e-6)
    assert guard_report(together[1])["steps"] == [30, 30, 30]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_keeps_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        params = make_params(dtype)
        state = SMALL.init(params)
        updates, after = JITTED.update(params, state, params, value=jnp.array(1.0, dtype))
        for a, b in ((updates, params), (after, state)):
            assert jax.tree.structure(a) == jax.tree.structure(b)
            assert jax.tree.map(jax.typeof, a) == jax.tree.map(jax.typeof, b)
        scalars = jax.tree.leaves((state.monitor, state.control, state.counts))
        assert {str(x.dtype) for x in scalars} == {"float32", "int32"}


@pytest.mark.parametrize(
    "params", [{}, (), {"a": None}, np.float64(0.5), 0.5, {"e": np.zeros((0, 2))}]
)
def test_takes_empty_trees_and_numbers(params):
    state = SMALL.init(params)
    updates, state = JITTED.update(params, state, params, value=1.0)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert guard_report(state)["rule_steps"] == 1


def test_takes_complex_parameters_where_the_rule_does():
    params = jnp.array([1.0 + 2.0j, -0.5j])
    tx = guard(optax.sgd(0.1))
    updates, _ = tx.update(params, tx.init(params), params, value=1.0)
    np.testing.assert_allclose(updates, -0.1 * params)
    updates, _ = tx.update(params * jnp.nan, tx.init(params), params, value=1.0)
    np.testing.assert_array_equal(updates, 0)


def test_low_precision_comes_back_to_the_snapshot():
    """Where p + (s − p) is not s for rounding, it takes a second step."""
    params = jnp.array([0.0502, -0.03, 1e-3], jnp.bfloat16)
    tx = guard(optax.sgd(300.0), optax.sgd(1e-3), max_ratio=math.inf)
    state = tx.init(params)
    p = params
    for loss in (1.0, 0.9, math.nan, math.nan, 1.0):
        updates, state = tx.update(jnp.ones_like(p), state, p, value=loss)
        p = optax.apply_updates(p, updates)
    assert guard_report(state)["trips"]["loss"] == 1
    np.testing.assert_allclose(np.asarray(p, np.float32), np.asarray(params, np.float32), atol=2e-3)


def test_buffers_may_be_donated():
    params = make_params()
    state = SMALL.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = SMALL.update(params, state, params, value=1.0)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    assert guard_report(state)["steps"] == 3


def test_report_finds_the_guard_in_other_states():
    params = make_params()
    for tx in (
        optax.chain(optax.clip(1.0), JITTED),
        optax.MultiSteps(JITTED, every_k_schedule=1),
        optax.inject_hyperparams(lambda rate: guard(optax.sgd(rate), optax.sgd(0.1)))(rate=0.1),
        optax.masked(JITTED, {"w": True, "b": [False, None]}),
    ):
        state = tx.init(params)
        _, state = optax.with_extra_args_support(tx).update(params, state, params, value=1.0)
        report = guard_report(state)
        assert report["steps"] == report["rule_steps"] == 1
        assert set(report["trips"]) == {"loss", "rise", "update", "step", "gradient", "worse"}
    with pytest.raises(ValueError, match="found 0: give it the state"):
        guard_report(optax.adam(0.1).init(params))
    with pytest.raises(ValueError, match="found 2"):
        guard_report((state, state))


def test_multi_steps_counts_whole_steps():
    params = make_params()
    tx = optax.MultiSteps(SMALL, every_k_schedule=2)
    state, update = tx.init(params), jax.jit(tx.update)
    for n in range(4):
        updates, state = update(params, state, params, value=1.0)
        moved = float(jnp.abs(updates["w"]).max()) > 0
        assert moved == (n % 2 == 1)
    assert guard_report(state)["steps"] == 2


def test_without_a_loss_or_parameters_it_guards_steps_alone():
    params = jnp.ones(3)
    for restore in (True, False):
        tx = guard(optax.sgd(50.0), optax.sgd(1e-3), hold=1, max_ratio=1e3, restore=restore)
        assert (tx.init(params).snapshot is None) == (not restore)
        state = tx.init(params)
        for _ in range(5):
            updates, state = tx.update(params, state)
            np.testing.assert_allclose(updates, -1e-3)
        report = guard_report(state)
        assert report["trips"]["step"] == 2 and report["fallback_steps"] == 5


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_is_sharded_as_adam_and_shares_scalars_alone(axis_type):
    mesh = jax.make_mesh((8,), ("shards",), (getattr(AxisType, axis_type),))
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))  # noqa: E731
    tx = guard(make_tx("lstm"))
    whole = {"first": jnp.ones((8, 3)), "last": jnp.ones((2, 16))}
    expected, _ = jax.jit(tx.update)(whole, tx.init(whole), whole, value=1.0)
    with jax.set_mesh(mesh):
        params = {
            "first": put(whole["first"], "shards"),
            "last": put(whole["last"], None, "shards"),
        }
        for init in (lambda tx: tx.init(params), lambda tx: jax.jit(tx.init)(params)):
            state, adam = init(tx), optax.tree.get(init(optax.adam(0.1)), "mu")
            kept = optax.tree.get(state.snapshot.fallback, "mu"), state.snapshot.params
            for tree in (*kept, optax.tree.get(state.fallback, "mu")):
                for key, like in adam.items():
                    if not like.sharding.is_fully_replicated:
                        assert tree[key].sharding.is_equivalent_to(like.sharding, 2)
        state = tx.init(params)
        value = put(jnp.array(1.0))
        update = jax.jit(lambda g, s, p, v: tx.update(g, s, p, value=v))
        compiled = update.lower(params, state, params, value).compile()
        updates, after = update(params, state, params, value)
        for key, u in updates.items():
            assert u.sharding.is_equivalent_to(params[key].sharding, 2)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    text = compiled.as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in text
    for line in text.splitlines():
        if "= " in line and " all-reduce(" in line:
            assert "[]" in line and "[8" not in line and "[2," not in line, line


def test_extra_arguments_reach_both():
    seen = []

    def note(name):
        def update(updates, state, params=None, *, value=None, extra=None, **rest):
            seen.append((name, value, extra, rest))
            return updates, state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    tx = guard(note("rule"), note("fallback"))
    params = jnp.ones(2)
    tx.update(params, tx.init(params), params, value=1.0, extra=2, other=3)
    tx.update(params, tx.init(params), params)
    assert seen[:2] == [(name, 1.0, 2, {"other": 3}) for name in ("rule", "fallback")]
    assert seen[2:] == [(name, None, None, {}) for name in ("rule", "fallback")]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(tx="adam"), TypeError, "tx must be an optax transformation, got 'adam'"),
        (dict(fallback=1e-3), TypeError, "fallback must be an optax transformation"),
        (dict(max_ratio=1.0), ValueError, "max_ratio must be above 1"),
        (dict(max_ratio=math.nan), ValueError, "max_ratio must be above 1"),
        (dict(max_ratio="10"), ValueError, "max_ratio must be above 1"),
        (dict(hold=0), ValueError, "hold must be an integer, at least 1"),
        (dict(hold=2.5), ValueError, "hold must be an integer, at least 1"),
        (dict(duel=-1), ValueError, "duel must be an integer, at least 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        guard(**({"tx": optax.sgd(0.1)} | arguments))


@pytest.mark.parametrize("value", [jnp.ones(2), 1j, "loss"])
def test_a_loss_that_is_no_number_is_refused(value):
    params = jnp.ones(2)
    with pytest.raises(ValueError, match="value must be the loss, one real number"):
        SMALL.update(params, SMALL.init(params), params, value=value)
