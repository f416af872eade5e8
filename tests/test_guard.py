"""The guard: a rule steps while it serves, a fallback where it does not."""

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

from learned_opt import guard, guard_report, update_rules
from learned_opt.tasks import Quadratic
from learned_opt.unroll import init_inner, unroll
from learned_opt.update_rules import hierarchy

HAND_DESIGNED = (
    *("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "nadam"),
    *("adamw", "muon"),
)
RULES = {
    **{name: getattr(update_rules, name)() for name in HAND_DESIGNED},
    **{f"hierarchy.{name}": getattr(hierarchy, name)() for name in HAND_DESIGNED[:8]},
    "lstm": update_rules.lstm((4, 3)),
    "lstm_raw": update_rules.lstm((4,), preprocess=None),
}

FAST = ("sgd", "adam", "muon", "hierarchy.nadam", "lstm")


def make_tx(name):
    theta = RULES[name].init(jax.random.key(0))
    if name.startswith("lstm"):
        theta = jax.tree.map(
            lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), theta
        )
    return RULES[name].transform(theta)


def make_params(dtype=jnp.float32):
    params = {"w": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": [jnp.array(0.5), None]}
    return jax.tree.map(lambda p: p.astype(dtype), params)


class Reference:
    """The guard of two optimizers in plain Python, on one float64 number; no arrays, no masks.

    The rule is p − a·g. The fallback is gradient descent with momentum: its state is v.
    """

    def __init__(self, p, *, hold, duel, rate, fallback_rate):
        self.p, self.hold, self.duel = p, hold, duel
        self.rate, self.fallback_rate = rate, fallback_rate
        self.v, self.seen, self.best = 0.0, [], None
        self.phase, self.left, self.bad = "fallback", 0, 0
        self.slot = None
        self.trips = dict.fromkeys(("loss", "rise", "update", "step", "gradient", "worse"), 0)

    def averages(self):
        def average(values, decay):
            weights = decay ** np.arange(len(values))[::-1]
            return float(np.sum(weights * values) / np.sum(weights)) if len(values) else 0.0

        return (
            average(self.seen, 0.9),
            average(self.seen, 0.99),
            average(np.abs(np.diff(self.seen)), 0.99),
        )

    def save(self, v):
        self.slot = (self.p, v, list(self.seen), self.best)

    def restore(self):
        self.p, self.v, self.seen, self.best = self.slot
        self.seen = list(self.seen)

    def trip(self, reason):
        self.trips[reason] += 1
        self.hold *= 4
        self.phase, self.left = "fallback", self.hold

    def step(self, loss, g):
        finite = math.isfinite(g)
        self.bad = 0 if finite else self.bad + 1
        rules = self.phase in ("trial", "rule")
        reason, lowest = None, False
        if rules and self.bad >= 3:
            reason = "gradient"
        if math.isfinite(loss):
            _, slow, noise = self.averages()  # the past
            self.seen.append(loss)
            fast = self.averages()[0]
            best = self.best if self.best is not None else 0.0
            rises = fast > slow + (slow - best) + 3 * noise + 1e-6 * abs(slow)
            lowest = self.best is None or fast < self.best
            self.best = fast if lowest else self.best
            if rules and rises and len(self.seen) > 10:
                reason = "rise"
        elif rules:
            reason = "loss"
        if reason:
            self.trip(reason)
            self.restore()
            return
        if not finite:
            return
        length = max(self.duel, self.hold // 8)
        if self.phase in ("trial", "reply") and 2 * self.left < length:
            self.level += loss if math.isfinite(loss) else math.inf
        v = self.v
        self.v = 0.9 * v + g  # the fallback follows, whoever steps
        if self.left <= 0:
            if self.phase == "trial":
                start = self.slot
                self.save(v)
                end, self.slot = self.slot, start
                self.restore()
                self.slot = end
                self.phase, self.left, self.rival, self.level = "reply", length, self.level, 0.0
                return
            if self.phase == "reply":
                progress = max(math.ceil(length / 2) * self.start - self.level, 0)
                margin = self.averages()[2] * length**0.5 + progress / 4
                if self.rival + margin < self.level:
                    self.hold *= 2
                    self.phase, self.left = "rule", self.hold
                    self.restore()
                    return
                self.trip("worse")
            else:
                self.save(v)
                self.phase, self.left, self.level = "trial", length, 0.0
                self.start = self.averages()[0]
        elif self.phase == "rule" and lowest:
            self.save(v)
        rule = self.phase in ("trial", "rule")
        self.p += -self.rate * g if rule else -self.fallback_rate * self.v
        self.left -= 1


_NUMBERS = dict(hold=2, duel=5)
_REFERENCE = guard(optax.sgd(0.02), optax.sgd(0.01, momentum=0.9), **_NUMBERS)


@jax.jit
def _reference_step(params, state, loss, grad):
    updates, state = _REFERENCE.update(grad, state, params, value=loss)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("seed", range(4))
def test_follows_a_plain_python_loop(seed):
    """Noise, falls and rises of the loss, losses and gradients that are not finite."""
    rng = np.random.default_rng(seed)
    steps = 400
    losses = 2 * np.exp(-np.arange(steps) / 80) + 0.02 * rng.normal(size=steps)
    losses += np.where(rng.random(steps) < 0.02, rng.exponential(3, steps), 0)
    losses[rng.random(steps) < 0.01] = math.nan
    grads = rng.normal(size=steps)
    grads[rng.random(steps) < 0.02] = math.inf
    grads[150:156] = math.nan
    with jax.enable_x64(True):
        params = jnp.array(0.3)
        state = _REFERENCE.init(params)
        reference = Reference(0.3, rate=0.02, fallback_rate=0.01, **_NUMBERS)
        # The losses depend on the parameters, so that who wins a duel does too.
        for loss, grad in zip(losses, grads, strict=True):
            loss = float(np.float32(loss + 0.3 * np.float32(reference.p) ** 2))
            params, state = _reference_step(params, state, loss, grad)
            reference.step(loss, grad)
            np.testing.assert_allclose(params, reference.p, rtol=1e-6, atol=1e-9)
        report = guard_report(state)
        assert report["trips"] == reference.trips
        assert sum(report["trips"].values()) >= 2 and report["restores"] >= 2
        assert report["steps"] == steps


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in RULES],
)
def test_is_the_rule_where_it_never_trips(name):
    rule, params = make_tx(name), make_params()
    tx = guard(rule, max_ratio=math.inf)
    state, rule_state = tx.init(params), rule.init(params)
    for n in range(3):
        grads = jax.tree.map(lambda p, n=n: jnp.cos(p + n), params)
        updates, state = tx.update(grads, state, params)
        expected, rule_state = rule.update(grads, rule_state, params)
        chex.assert_trees_all_equal(updates, expected)
        chex.assert_trees_all_equal(state.rule, rule_state)
        params = optax.apply_updates(params, updates)
    report = guard_report(state)
    assert report["rule_steps"] == report["steps"] == 3
    assert not any(report["trips"].values())
    follower = update_rules.adam().transform(
        {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8}
    )
    assert jax.tree.structure(state.fallback) == jax.tree.structure(follower.init(params))
    assert optax.tree.get(state.fallback, "count") == 3  # it has followed


def test_a_run_in_which_the_rule_wins_is_the_rules_own_run_delayed():
    """With every duel won the rule's trajectory is its own: the reply is undone, state and all."""
    rule = optax.adam(0.1)
    loss = lambda p: jnp.sum((p - 3) ** 2)  # noqa: E731
    params = jnp.linspace(-1, 1, 5)
    tx = guard(rule, optax.sgd(1e-4), hold=5, duel=4)

    def run(tx, steps):
        p, state, points = params, tx.init(params), [params]
        update = jax.jit(
            lambda g, s, p: optax.with_extra_args_support(tx).update(g, s, p, value=loss(p))
        )
        for _ in range(steps):
            updates, state = update(jax.grad(loss)(p), state, p)
            p = optax.apply_updates(p, updates)
            points.append(p)
        return points, state

    points, state = run(tx, 19)
    own, _ = run(rule, 13)
    # 4 steps, a swap, 4 of the fallback, a restore, 9 of the rule
    report = guard_report(state)
    assert (report["rule_steps"], report["fallback_steps"], report["restores"]) == (13, 4, 2)
    chex.assert_trees_all_close(points[19], own[13], rtol=1e-5)
    chex.assert_trees_all_close(points[5], params, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.3, 30.0])
def test_a_rule_that_diverges_leaves_the_fallbacks_run(rate):
    """Even the fallback's moments are those that it would have had."""
    task, key = Quadratic(5), jax.random.key(0)
    fallback = optax.adam(0.05)
    tx = guard(optax.sgd(rate), fallback, max_ratio=math.inf)
    start = lambda tx: init_inner(tx, task, key)  # noqa: E731
    guarded, losses = unroll(tx, task, start(tx), key, 300)
    _, plain = unroll(fallback, task, start(fallback), key, 300)
    report = guard_report(guarded.opt_state)
    assert sum(report["trips"].values()) >= 1 and report["restores"] >= 1
    assert report["fallback_steps"] >= 270
    np.testing.assert_allclose(losses[-1], plain[report["fallback_steps"] - 1], rtol=0.01)


def test_a_rule_that_does_not_move_loses_the_duel():
    task, key = Quadratic(5), jax.random.key(0)
    tx = guard(optax.sgd(0.0), optax.adam(0.05), hold=20, duel=10)
    state, _ = unroll(tx, task, init_inner(tx, task, key), key, 300)
    report = guard_report(state.opt_state)
    assert report["trips"]["worse"] >= 1 and report["fallback_steps"] > 250


def test_noise_does_not_trip():
    """A loss of heavy noise around a level, and around a falling one."""
    tx = guard(optax.sgd(0.1), optax.adam(0.1), duel=0)

    def run(key, slope):
        noise = 0.3 * jax.random.t(key, 5, (1000,))
        losses = 1 + noise + jnp.exp(-slope * jnp.arange(1000))

        def step(state, loss):
            return tx.update(jnp.array(0.1), state, jnp.array(1.0), value=loss)[1], None

        return jax.lax.scan(step, tx.init(jnp.array(1.0)), losses)[0]

    keys = jax.random.split(jax.random.key(0), 30)
    for slope in (0.0, 0.003):
        report = guard_report(jax.jit(jax.vmap(run, (0, None)))(keys, slope))
        assert np.sum(report["trips"]["rise"]) == 0


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("offset", [0.0, -5.0])
def test_a_rise_trips_in_a_few_steps_in_any_unit(scale, offset):
    rng = np.random.default_rng(0)
    losses = offset + 0.2 + 2 * np.exp(-np.arange(200) / 40) + 0.05 * rng.normal(size=200)
    losses[150:] += 0.5 * np.arange(1, 51)
    tx = guard(optax.sgd(1e-3), optax.adam(1e-3), duel=0)
    params = jnp.ones(3)
    state, tripped = tx.init(params), None
    update = jax.jit(tx.update)
    for t, loss in enumerate(losses):
        _, state = update(params, state, params, value=jnp.float32(scale * loss))
        if tripped is None and guard_report(state)["trips"]["rise"]:
            tripped = t
    assert 150 < tripped <= 160


def test_a_far_larger_step_is_never_taken():
    params = jnp.ones(4)
    tx = guard(optax.sgd(1.0), optax.sgd(1e-3), max_ratio=100.0)
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates, -1e-3)
    assert guard_report(state)["trips"]["step"] == 1
    within = guard(optax.sgd(0.09), optax.sgd(1e-3), max_ratio=100.0)
    updates, _ = within.update(params, within.init(params), params)
    np.testing.assert_allclose(updates, -0.09)


@pytest.mark.parametrize("name", ["adam", "muon", "lstm"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_a_gradient_that_is_not_finite_changes_nothing(name, bad):
    params = make_params()
    tx = guard(make_tx(name))
    _, state = tx.update(params, tx.init(params), params, value=1.0)
    grads = {**params, "w": params["w"].at[1, 2].set(bad)}
    updates, after = jax.jit(tx.update)(grads, state, params, value=1.0)
    chex.assert_trees_all_equal(updates, optax.tree.zeros_like(params))
    for part in ("rule", "fallback", "snapshot"):
        chex.assert_trees_all_equal(getattr(after, part), getattr(state, part))
    assert guard_report(after)["skipped"] == 1


def test_an_update_that_is_not_finite_is_replaced():
    """By the fallback's, and the rule's state stays as it was."""
    bad = optax.chain(optax.trace(0.9), optax.stateless(lambda u, p: jax.tree.map(jnp.log, u)))
    params, grads = jnp.ones(2), jnp.array([1.0, -1.0])
    tx = guard(bad, optax.sgd(0.5))
    before = tx.init(params)
    updates, state = tx.update(grads, before, params)
    np.testing.assert_array_equal(updates, [-0.5, 0.5])
    chex.assert_trees_all_equal(state.rule, before.rule)
    assert guard_report(state)["trips"]["update"] == 1


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
