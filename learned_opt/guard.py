"""A guard: a rule steps while it serves, and a fallback where it does not."""

import functools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.types import Params, Scalar
from learned_opt.update_rules import hand_designed

_FAST, _SLOW = 0.9, 0.99  # decays of the averages of the loss
_RISE, _NOISE = 1.0, 3.0  # c, and k in δ = k·(mean absolute difference of successive losses)
_ROUNDING = 1e-6  # relative rise that is rounding, where the loss has no noise
_MAX_HOLD = 2**20  # H stops doubling here
_PATIENCE = 3  # gradients in a row that are not finite, before the rule is blamed for them
_TRIES = 3  # steps that a restore may take, where p + (s - p) is not s for rounding

# The phases. In a duel the rule has n steps (TRIAL), then the fallback has n from the same point.
_TRIAL, _REPLY, _RULE, _FALLBACK = range(4)
REASONS = ("loss", "rise", "update", "step", "gradient", "worse")


class Monitor(NamedTuple):
    """What is known of the loss: float32 `[]` and a count, int32 `[]`.

    Attributes:
      fast: sum behind the fast average f.
      slow: sum behind the slow average s.
      noise: sum behind the mean absolute difference of successive losses.
      last: the loss before.
      best: f*, the lowest f.
      count: losses seen.
    """

    fast: Scalar
    slow: Scalar
    noise: Scalar
    last: Scalar
    best: Scalar
    count: Scalar


class Control(NamedTuple):
    """Whose turn it is: int32 `[]`, but for the float32 `level` and `rival`.

    Attributes:
      phase: trial, reply, rule or fallback, as 0 … 3.
      left: updates left in this phase.
      hold: H, the length of the next phase outside of a duel.
      bad: gradients in a row that were not finite.
      restoring: how many steps in a row have restored parameters.
      level: sum of the losses in the second half of this leg of a duel.
      rival: that of the rule's leg, during the reply.
    """

    phase: Scalar
    left: Scalar
    hold: Scalar
    bad: Scalar
    restoring: Scalar
    level: Scalar
    rival: Scalar


class Snapshot(NamedTuple):
    """A point to go back to.

    Attributes:
      params: the parameters.
      fallback: the fallback's state there.
      monitor: what was known of the loss.
    """

    params: Params
    fallback: optax.OptState
    monitor: Monitor


class GuardState(NamedTuple):
    """State of `guard`.

    Attributes:
      rule: the rule's state.
      fallback: the fallback's state.
      snapshot: the point to go back to; None with `restore=False`.
      monitor: what is known of the loss.
      control: whose turn it is.
      counts: int32 `[]` by name: `steps`, `rule_steps`, `fallback_steps`, `restores`,
        `skipped` and the trips.
    """

    rule: optax.OptState
    fallback: optax.OptState
    snapshot: Snapshot | None
    monitor: Monitor
    control: Control
    counts: dict[str, Scalar]


class _Settings(NamedTuple):
    max_ratio: float
    hold: int
    duel: int


def guard(
    tx: optax.GradientTransformation,
    fallback: optax.GradientTransformation | None = None,
    *,
    max_ratio: float = 1000.0,
    hold: int = 100,
    duel: int = 50,
    restore: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """TODO."""
    for name, value in (("tx", tx), ("fallback", fallback)):
        if not (
            callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))
        ):
            if name == "tx" or value is not None:
                raise TypeError(
                    f"{name} must be an optax transformation, got {value!r}; write for example "
                    "guard(learned_opt.pretrained('lstm_mnist'), optax.adam(1e-3))"
                )
    if isinstance(max_ratio, bool) or not max_ratio > 1:
        raise ValueError(f"max_ratio must be above 1 (math.inf for no limit), got {max_ratio!r}")
    for name, value, least in (("hold", hold, 1), ("duel", duel, 0)):
        if isinstance(value, bool) or operator.index(value) < least:
            raise ValueError(f"{name} must be an integer, at least {least}, got {value!r}")
    if fallback is None:
        adam = hand_designed.adam()
        fallback = adam.transform(adam.init(jax.random.key(0)))
    rule, spare = map(optax.with_extra_args_support, (tx, fallback))
    settings = _Settings(max_ratio, min(hold, _MAX_HOLD), duel if restore else 0)

    def init_fn(params: Params) -> GuardState:
        fallback_state, monitor = spare.init(params), _first_monitor()
        snapshot = None
        if restore:  # copies: the state and the parameters may both be donated
            copy = functools.partial(jax.tree.map, jnp.copy)
            snapshot = Snapshot(copy(params), copy(fallback_state), _first_monitor())
        names = ("steps", "rule_steps", "fallback_steps", "restores", "skipped", *REASONS)
        counts = {name: jnp.zeros((), jnp.int32) for name in names}
        control = _first_control(settings)
        return GuardState(rule.init(params), fallback_state, snapshot, monitor, control, counts)

    def update_fn(updates, state, params=None, *, value=None, **extra_args: Any):
        like = jax.tree.map(jnp.result_type, updates if params is None else params)
        finite = _within_limit(updates)
        clean = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros_like(g)), updates)
        if value is not None:
            extra_args["value"] = value
        cast = functools.partial(jax.tree.map, lambda dtype, u: jnp.asarray(u, dtype), like)
        proposed, rule_state = rule.update(clean, state.rule, params, **extra_args)
        safe, fallback_state = spare.update(clean, state.fallback, params, **extra_args)
        proposed, safe = cast(proposed), cast(safe)

        facts = _Facts(
            loss=None if value is None else _check_loss(value),
            finite=finite,
            usable=_all_finite(proposed),
            within=_within_ratio(proposed, safe, settings.max_ratio),
            exact=jnp.array(True),
        )
        saved = None if params is None or value is None else state.snapshot
        if saved is not None:
            back = cast(jax.tree.map(jnp.subtract, saved.params, params))
            facts = facts._replace(exact=_reaches(params, back, saved.params))
        control, monitor, act = _decide(
            state.control, state.monitor, facts, settings, can_restore=saved is not None
        )
        new_updates = _select(act.use_rule, proposed, safe)
        new_updates = _select(finite, new_updates, jax.tree.map(jnp.zeros_like, new_updates))
        rule_state = _select(finite & facts.usable & act.advance, rule_state, state.rule)
        advance = finite & _all_finite(safe)
        fallback_state = _select(advance, fallback_state, state.fallback)
        snapshot = state.snapshot
        if saved is not None:
            here = Snapshot(params, state.fallback, monitor)
            snapshot = _select(act.save, here, saved)
            new_updates = _select(act.restore, back, new_updates)
            fallback_state = _select(act.restore, saved.fallback, fallback_state)
            monitor = _select(act.restore, saved.monitor, monitor)
        if params is not None:  # p + u may overflow where neither is infinite
            new_updates = jax.tree.map(_finite_sum, params, new_updates)
        else:
            new_updates = jax.tree.map(
                lambda u: jnp.where(jnp.isfinite(u), u, jnp.zeros_like(u)), new_updates
            )
        counts = _count(state.counts, act)
        return new_updates, GuardState(
            rule_state, fallback_state, snapshot, monitor, control, counts
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Facts(NamedTuple):
    """What a step has shown; bool `[]`, but for the loss (None where it is not given)."""

    loss: Scalar | None
    finite: Scalar  # the gradients
    usable: Scalar  # the rule's update is finite
    within: Scalar  # … and not far larger than the fallback's
    exact: Scalar  # the update to the snapshot reaches it


class _Act(NamedTuple):
    """What to do now, bool `[]`: exactly one of a step, a restore and, else, nothing."""

    use_rule: Scalar
    use_fallback: Scalar
    restore: Scalar
    save: Scalar
    advance: Scalar  # the rule's state
    trips: dict[str, Scalar]


def _first_monitor() -> Monitor:
    zero = jnp.zeros((), jnp.float32)
    return Monitor(zero, zero, zero, zero, zero, jnp.zeros((), jnp.int32))


def _first_control(settings: _Settings) -> Control:
    """The fallback's turn is over at the first step."""
    integers = (_FALLBACK, 0, settings.hold, 0, 0)
    zero = jnp.zeros((), jnp.float32)
    return Control(*(jnp.asarray(n, jnp.int32) for n in integers), zero, zero)


def _observe(m: Monitor, loss: Scalar) -> tuple[Monitor, Scalar, Scalar]:
    """Takes a loss in; whether f has risen clearly above its past, and is the lowest so far."""
    count = jnp.minimum(m.count, 2**20).astype(jnp.float32)
    change = jnp.minimum(jnp.abs(loss - m.last), jnp.finfo(jnp.float32).max)
    seen = Monitor(
        fast=_FAST * m.fast + (1 - _FAST) * loss,
        slow=_SLOW * m.slow + (1 - _SLOW) * loss,
        noise=jnp.where(count > 0, _SLOW * m.noise + (1 - _SLOW) * change, 0),
        last=loss,
        best=m.best,
        count=jnp.minimum(m.count, 2**20) + 1,
    )
    fast = seen.fast / (1 - _FAST ** (count + 1))
    slow = seen.slow / (1 - _SLOW ** (count + 1))
    noise = _noise(seen)
    rises = fast > slow + _RISE * (slow - m.best) + _NOISE * noise + _ROUNDING * jnp.abs(slow)
    lowest = (count == 0) | (fast < m.best)
    return seen._replace(best=jnp.where(lowest, fast, m.best)), (count > 1) & rises, lowest


def _noise(m: Monitor) -> Scalar:
    """The mean absolute difference of successive losses."""
    return m.noise / (1 - _SLOW ** jnp.clip(m.count - 1, 1, 2**20).astype(jnp.float32))


def _decide(
    c: Control, monitor: Monitor, facts: _Facts, settings: _Settings, *, can_restore: bool
) -> tuple[Control, Monitor, _Act]:
    """One step of the guard, on scalars alone."""
    no = jnp.array(False)
    finite, dueling = facts.finite, can_restore and settings.duel > 0
    again = c.restoring > 0  # the restore before did not reach the snapshot
    trial, reply, ruling, falling = (c.phase == n for n in range(4))
    made_here = (trial | ruling) & ~again  # the rule made these parameters
    bad = jnp.where(finite, 0, c.bad + 1)
    trips = {name: no for name in REASONS}
    trips["gradient"] = made_here & (bad >= _PATIENCE)
    lowest, level = no, c.level
    length = jnp.maximum(settings.duel, c.hold // 8)
    if facts.loss is not None:
        sound = jnp.isfinite(facts.loss)
        seen, rises, lowest = _observe(monitor, jnp.where(sound, facts.loss, 0))
        monitor = _select(sound & ~again, seen, monitor)
        lowest &= sound
        trips["loss"] = made_here & ~sound
        trips["rise"] = made_here & sound & rises
        half = (trial | reply) & finite & (2 * c.left < length)
        level = level + jnp.where(half, jnp.where(sound, facts.loss, jnp.inf), 0)
    tripped = _any(trips)

    due = finite & (c.left <= 0) & ~tripped & ~again
    swap = due & trial & facts.exact if dueling else no
    margin = _noise(monitor) * jnp.sqrt(length.astype(jnp.float32))  # of a sum of n/2 differences
    won = due & reply & (c.rival + margin < level) if dueling else no
    trips["worse"] = (due & ((trial & ~facts.exact) | (reply & ~won))) if dueling else no
    forfeit = trips["worse"] & trial
    start = due & ((falling | ruling) if dueling else (falling | reply))
    save = swap | start | (ruling & lowest & finite & ~tripped & ~again)
    restore = again | ((tripped | forfeit | swap | won) if can_restore else no)

    proposes = ((trial | ruling) & ~due | start) & ~tripped & ~restore & finite
    if not dueling:
        proposes |= (trial | ruling) & ~tripped & ~restore & finite
    trips["update"] = proposes & ~facts.usable
    trips["step"] = proposes & facts.usable & ~facts.within
    refused = trips["update"] | trips["step"]
    if can_restore:
        restore |= refused & ~save  # what was saved just now is here
    use_rule = proposes & ~refused
    use_fallback = finite & ~use_rule & ~restore

    tripped = tripped | refused | trips["worse"]
    ended = tripped | won
    turn = jnp.where(
        tripped,
        _FALLBACK,
        jnp.where(
            swap,
            _REPLY,
            jnp.where(won, _RULE, jnp.where(start, _TRIAL if dueling else _RULE, c.phase)),
        ),
    )
    left = jnp.where(ended, c.hold, jnp.where(swap | start, length, c.left)) - (
        use_rule | use_fallback
    )
    control = Control(
        phase=turn.astype(jnp.int32),
        left=jnp.maximum(left, 0).astype(jnp.int32),
        hold=jnp.where(
            ended, jnp.minimum(jnp.where(tripped, 4, 2) * c.hold, _MAX_HOLD), c.hold
        ).astype(jnp.int32),
        bad=bad.astype(jnp.int32),
        restoring=jnp.where(
            restore & ~facts.exact & (c.restoring < _TRIES - 1), c.restoring + 1, 0
        ).astype(jnp.int32),
        level=jnp.where(swap | start, 0, level),
        rival=jnp.where(swap, level, c.rival),
    )
    return control, monitor, _Act(use_rule, use_fallback, restore, save, ~reply & ~restore, trips)


def _count(counts: dict[str, Scalar], act: _Act) -> dict[str, Scalar]:
    happened = {
        "steps": jnp.array(True),
        "rule_steps": act.use_rule,
        "fallback_steps": act.use_fallback,
        "restores": act.restore,
        "skipped": ~(act.use_rule | act.use_fallback | act.restore),
        **act.trips,
    }
    return {
        name: jnp.where(happened[name], optax.safe_increment(n), n) for name, n in counts.items()
    }


def _any(flags: dict[str, Scalar]) -> Scalar:
    return functools.reduce(jnp.logical_or, flags.values())


def _select(condition: Scalar, a: Any, b: Any) -> Any:
    """The tree `a` where the condition holds, else `b`; nothing of the other leaks."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _wide(x: Any) -> jax.Array:
    """In float32 at least, and real: the larger part of a complex number."""
    if jnp.iscomplexobj(x):
        x = jnp.maximum(jnp.abs(jnp.real(x)), jnp.abs(jnp.imag(x)))
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def _within_limit(grads: Params) -> Scalar:
    """Whether no gradient is NaN, infinite or so large that sums of its squares overflow."""

    def within(g):
        g = _wide(g)
        return jnp.all(jnp.abs(g) <= float(jnp.finfo(g.dtype).max) ** 0.4)

    return functools.reduce(jnp.logical_and, map(within, jax.tree.leaves(grads)), jnp.array(True))


def _all_finite(tree: Params) -> Scalar:
    flags = (jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree))
    return functools.reduce(jnp.logical_and, flags, jnp.array(True))


def _square_norm(tree: Params) -> Scalar:
    """In float32; infinite where it is too large for that."""

    def square(x):
        parts = (jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else (x,)
        return sum(jnp.sum(jnp.square(jnp.asarray(part, jnp.float32))) for part in parts)

    return sum(map(square, jax.tree.leaves(tree)), jnp.zeros((), jnp.float32))


def _within_ratio(proposed: Params, safe: Params, max_ratio: float) -> Scalar:
    norm, safe_norm = jnp.sqrt(_square_norm(proposed)), jnp.sqrt(_square_norm(safe))
    return (safe_norm == 0) | (norm <= max_ratio * safe_norm)


def _reaches(params: Params, updates: Params, target: Params) -> Scalar:
    """Whether params + updates is the target but for rounding."""
    reached = jax.tree.map(lambda p, u: jnp.asarray(p + u, jnp.result_type(p)), params, updates)
    off = _square_norm(jax.tree.map(jnp.subtract, reached, target))
    return off <= 1e-4 * _square_norm(target)


def _finite_sum(param: Any, update: jax.Array) -> jax.Array:
    reached = jnp.asarray(param + update, jnp.result_type(param))
    return jnp.where(jnp.isfinite(reached), update, jnp.zeros_like(update))


def _check_loss(value: Any) -> Scalar:
    if jnp.shape(value) != () or jnp.iscomplexobj(value):
        raise ValueError(
            f"value must be the loss, one real number, got shape {list(jnp.shape(value))} and "
            f"dtype {jnp.result_type(value)}"
        )
    return jnp.asarray(value, jnp.float32)


def guard_report(state: Any) -> dict[str, Any]:
    """TODO."""
    found = [
        leaf
        for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, GuardState))
        if isinstance(leaf, GuardState)
    ]
    if len(found) != 1:
        raise ValueError(
            f"guard_report needs a state with one guard in it, found {len(found)}: give it the "
            "state of a transformation that learned_opt.guard made"
        )
    counts = {name: jax.device_get(n).tolist() for name, n in found[0].counts.items()}
    trips = {name: counts.pop(name) for name in REASONS}
    return {**counts, "trips": trips}
