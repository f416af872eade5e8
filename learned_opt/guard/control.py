"""Whose turn it is: the guard's decisions, on scalars alone."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import optax

from learned_opt.guard.trees import select
from learned_opt.types import Scalar

_FAST, _SLOW = 0.9, 0.99  # decays of the averages of the loss
_RISE, _NOISE = 1.0, 3.0  # c, and k in δ = k·(mean absolute difference of successive losses)
_LEAD = 0.1  # how much more than the fallback the rule must have lowered the loss, to win
_DEBT = 0.05  # of all that the loss has come down, what a rule that holds the turn may be behind
_FIRST = 10  # losses, before which their noise is not known
_ROUNDING = 1e-6  # relative rise that is rounding, where the loss has no noise
MAX_HOLD = 2**20  # H stops doubling here
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
      first: the first loss.
      seen: losses seen.
    """

    fast: Scalar
    slow: Scalar
    noise: Scalar
    last: Scalar
    best: Scalar
    first: Scalar
    seen: Scalar


class Control(NamedTuple):
    """Whose turn it is: int32 `[]`, but for the float32 `start`, `level` and `rival`.

    Attributes:
      phase: trial, reply, rule or fallback, as 0 … 3.
      left: updates left in this phase.
      hold: H, the length of the next phase outside of a duel.
      bad: gradients in a row that were not finite.
      restoring: how many steps in a row have restored parameters.
      holder: whether the rule won the last duel, as 0 or 1.
      start: f where the duel started.
      level: sum of the losses in the second half of this leg of a duel.
      rival: that of the rule's leg, during the reply.
    """

    phase: Scalar
    left: Scalar
    hold: Scalar
    bad: Scalar
    restoring: Scalar
    holder: Scalar
    start: Scalar
    level: Scalar
    rival: Scalar


class Settings(NamedTuple):
    """The numbers that `guard` is given."""

    max_ratio: float
    hold: int
    duel: int


class Facts(NamedTuple):
    """What a step has shown; bool `[]`, but for the loss (None where it is not given)."""

    loss: Scalar | None
    finite: Scalar  # the gradients
    usable: Scalar  # the rule's update is finite
    within: Scalar  # … and not far larger than the fallback's
    exact: Scalar  # at the end of the rule's part of a duel: the way back reaches the start


class Act(NamedTuple):
    """What to do now, bool `[]`: exactly one of a step, a restore and, else, nothing."""

    use_rule: Scalar
    use_fallback: Scalar
    restore: Scalar
    save: Scalar
    advance: Scalar  # the rule's state
    trips: dict[str, Scalar]


def first_monitor() -> Monitor:
    """Nothing is known yet."""
    # A state that is donated shares no array.
    zeros = {name: jnp.zeros((), jnp.float32) for name in Monitor._fields}
    return Monitor(**zeros | {"seen": jnp.zeros((), jnp.int32)})


def first_control(settings: Settings) -> Control:
    """The fallback's turn is over at the first step."""
    return Control(
        phase=jnp.asarray(_FALLBACK, jnp.int32),
        left=jnp.asarray(0, jnp.int32),
        hold=jnp.asarray(settings.hold, jnp.int32),
        bad=jnp.asarray(0, jnp.int32),
        restoring=jnp.asarray(0, jnp.int32),
        holder=jnp.asarray(0, jnp.int32),
        start=jnp.zeros((), jnp.float32),
        level=jnp.zeros((), jnp.float32),
        rival=jnp.zeros((), jnp.float32),
    )


def _observe(m: Monitor, loss: Scalar) -> tuple[Monitor, Scalar, Scalar]:
    """Takes a loss in; whether f has risen clearly above its past, and is the lowest so far."""
    count = jnp.minimum(m.seen, 2**20).astype(jnp.float32)
    change = jnp.minimum(jnp.abs(loss - m.last), jnp.finfo(jnp.float32).max)
    seen = Monitor(
        fast=_FAST * m.fast + (1 - _FAST) * loss,
        slow=_SLOW * m.slow + (1 - _SLOW) * loss,
        noise=jnp.where(count > 0, _SLOW * m.noise + (1 - _SLOW) * change, 0),
        last=loss,
        best=m.best,
        first=jnp.where(count > 0, m.first, loss),
        seen=jnp.minimum(m.seen, 2**20) + 1,
    )
    fast = _fast(seen)
    slow = m.slow / (1 - _SLOW ** jnp.maximum(count, 1))  # its past, without this loss
    margin = _RISE * (slow - m.best) + _NOISE * _noise(m) + _ROUNDING * jnp.abs(slow)
    rises = (count >= _FIRST) & (fast > slow + margin)
    lowest = (count == 0) | (fast < m.best)
    return seen._replace(best=jnp.where(lowest, fast, m.best)), rises, lowest


def _fast(m: Monitor) -> Scalar:
    """The fast average."""
    return m.fast / (1 - _FAST ** jnp.clip(m.seen, 1, 2**20).astype(jnp.float32))


def _noise(m: Monitor) -> Scalar:
    """The mean absolute difference of successive losses."""
    return m.noise / (1 - _SLOW ** jnp.clip(m.seen - 1, 1, 2**20).astype(jnp.float32))


def decide(
    c: Control, monitor: Monitor, facts: Facts, settings: Settings, *, can_restore: bool
) -> tuple[Control, Monitor, Act]:
    """One step of the guard, on scalars alone."""
    no = jnp.array(False)
    finite, dueling = facts.finite, can_restore and settings.duel > 0
    again = c.restoring > 0  # the restore before did not reach the snapshot
    trial, reply, ruling, falling = (c.phase == n for n in range(4))
    made_here = (trial | ruling) & ~again  # the rule made these parameters
    bad = jnp.where(finite, 0, c.bad + 1)
    trips = {name: no for name in REASONS}
    lowest, level = no, c.level
    length = jnp.maximum(settings.duel, c.hold // 8)
    if facts.loss is not None:
        sound = jnp.isfinite(facts.loss)
        seen, rises, lowest = _observe(monitor, jnp.where(sound, facts.loss, 0))
        monitor = select(sound & ~again, seen, monitor)
        lowest &= sound
        trips["loss"] = made_here & ~sound
        trips["rise"] = made_here & sound & rises
        half = (trial | reply) & finite & (2 * c.left < length)
        level = level + jnp.where(half, jnp.where(sound, facts.loss, jnp.inf), 0)
    trips["gradient"] = made_here & (bad >= _PATIENCE) & ~_any(trips)
    tripped = _any(trips)

    due = finite & (c.left <= 0) & ~tripped & ~again
    swap = due & trial & facts.exact if dueling else no
    losses = ((length + 1) // 2).astype(jnp.float32)  # in a level
    noise = _noise(monitor) * jnp.sqrt(length.astype(jnp.float32))
    lead = noise + _LEAD * jnp.maximum(losses * c.start - level, 0)
    debt = noise + _DEBT * jnp.maximum(losses * monitor.first - c.rival, 0)
    margin = jnp.where(c.holder > 0, -debt, lead)
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

    act = Act(use_rule, use_fallback, restore, save, ~reply & ~restore, trips)

    tripped = tripped | refused | trips["worse"]
    turns = (  # the first that holds
        (tripped, _FALLBACK),
        (swap, _REPLY),
        (won, _RULE),
        (start, _TRIAL if dueling else _RULE),
    )
    phase = c.phase
    for happens, turn in reversed(turns):
        phase = jnp.where(happens, turn, phase)
    hold = jnp.where(tripped, 4 * c.hold, jnp.where(won, 2 * c.hold, c.hold))
    hold = jnp.minimum(hold, MAX_HOLD)
    left = jnp.where(tripped | won, hold, jnp.where(swap | start, length, c.left))
    left = jnp.maximum(left - (use_rule | use_fallback), 0)
    control = Control(
        phase=jnp.asarray(phase, jnp.int32),
        left=jnp.asarray(left, jnp.int32),
        hold=jnp.asarray(hold, jnp.int32),
        bad=jnp.asarray(bad, jnp.int32),
        restoring=c.restoring,
        holder=jnp.asarray(jnp.where(tripped, 0, jnp.where(won, 1, c.holder)), jnp.int32),
        start=jnp.where(start, _fast(monitor), c.start),
        level=jnp.where(swap | start, 0, level),
        rival=jnp.where(swap, level, c.rival),
    )
    return control, monitor, act


def ends_trial(c: Control) -> Scalar:
    """Whether the rule's part of a duel is over."""
    return (c.phase == _TRIAL) & (c.left <= 0)


def settle(control: Control, act: Act, exact: Scalar) -> Control:
    """Restores again where the parameters were not reached, for a few steps."""
    tries = jnp.where(act.restore & ~exact, control.restoring + 1, 0)
    return control._replace(restoring=jnp.where(tries < _TRIES, tries, 0).astype(jnp.int32))


def count(counts: dict[str, Scalar], act: Act) -> dict[str, Scalar]:
    """Counts what has happened."""
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
