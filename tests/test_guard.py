"""The guard: a rule steps while it serves, a fallback where it does not."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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
    "rnnprop": update_rules.rnnprop((4, 3), input_size=3),
    "celo2": update_rules.celo2(),
    "learned_muon": update_rules.learned_muon(),
}

FAST = ("sgd", "adam", "muon", "hierarchy.nadam", "lstm", "learned_muon")


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
        self.holder = False
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
        self.holder = False
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
                losses, noise = math.ceil(length / 2), self.averages()[2] * length**0.5
                margin = noise + max(losses * self.start - self.level, 0) / 10
                if self.holder:
                    margin = -noise - max(losses * self.seen[0] - self.rival, 0) / 20
                if self.rival + margin < self.level:
                    self.hold *= 2
                    self.holder = True
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
    rule = optax.sgd(0.02, momentum=0.5)
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


def test_a_schedule_ends_when_the_training_does():
    """In the fallback's part of a duel the rule's counts go on, and the rest of its state not."""
    rule = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda t: -0.01))
    tx = guard(rule, optax.sgd(1e-4), hold=5, duel=4)
    p = jnp.linspace(-1, 1, 5)
    state = tx.init(p)
    for n in range(1, 9):
        before = state.rule
        updates, state = tx.update(p - 3, state, p, value=jnp.sum((p - 3) ** 2))
        p = optax.apply_updates(p, updates)
        trace, schedule = state.rule
        assert schedule.count == n
        if n > 4:  # a swap at the fifth, then the reply
            chex.assert_trees_all_equal(trace, before[0])
    assert guard_report(state)["fallback_steps"] == 3


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
