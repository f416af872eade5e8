"""A guard: a rule steps while it serves, and a fallback where it does not.

`learned_opt.guard` is the *function* below, although this folder has the same name.
"""

import functools
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.guard.control import (
    MAX_HOLD,
    REASONS,
    Control,
    Facts,
    Monitor,
    Settings,
    count,
    decide,
    ends_trial,
    first_control,
    first_monitor,
    settle,
)
from learned_opt.guard.trees import (
    finite_sum,
    reaches,
    select,
    square_norm,
    with_counts_of,
    within_limit,
)
from learned_opt.types import Params, Scalar
from learned_opt.update_rules import hand_designed


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


def guard(
    tx: optax.GradientTransformation,
    fallback: optax.GradientTransformation | None = None,
    *,
    max_ratio: float = 1000.0,
    hold: int = 50,
    duel: int = 50,
    restore: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Guards a rule: it steps while it serves, and a fallback steps where it does not.

    Every step asks both for an update, u of the rule and v of the fallback, and takes one of them.
    With the loss ℓ given as `value=`, f and s its averages with decays .9 and .99 (bias corrected),
    f* the lowest f, and d the average, with decay .99, of |ℓ_t − ℓ_{t−1}|, the rule *trips* when

    .. math:: f > s + (s - f^*) + 3 d, \quad \lVert u \rVert > \kappa \lVert v \rVert,

    or when the loss, u, or three gradients in a row are not finite; s, f* and d are those before
    this loss, and f counts from the eleventh on. H then grows fourfold, and the fallback has the
    next H steps.

    At the start, and whenever a turn of H steps is over, there is a *duel*: the rule has n steps,
    the parameters go back, and the fallback has n steps from the same point. The rule wins if in
    the second half of its steps the mean ℓ was lower than in the fallback's by more than the noise,
    :math:`2 d / \sqrt{n}`, and a tenth of what the fallback's is below f at the start. A rule that
    won the duel before keeps its turn unless its mean is higher by more than the noise and a
    twentieth of all that ℓ has come down: a long step is behind in every short race, and ahead in
    the long run. Then H doubles, and the rule has the next H steps from where it came to. Else that
    is a trip too, and the fallback goes on from where *it* came to. n is `duel`, or H/8 where that
    is more.

    With the parameters given to `update` a trip restores them: those before the duel, or in a
    longer turn those at f*. The update is then p_saved − p, so nothing may change it: a guard comes
    last in a chain. The fallback's state goes back too, for gradients met on the rule's way can
    spoil its moments for thousands of steps. In low precision, where p + (p_saved − p) is not
    p_saved, up to three steps restore.

    Both states advance on every step, but in the fallback's part of a duel the rule's counts alone,
    so that a schedule ends when the training does. None advances on a gradient that is not finite
    (or so large that sums of its squares overflow: above 2.6e15 in float32): that gives a zero
    update and leaves both states as they were, bit for bit. No update is ever infinite, and none
    takes finite parameters out of range.

    Without `value=` or without parameters there are no duels and nothing is restored: the rule
    steps unless its update is not finite or too large. Statistics beside the parameters, such as
    the running averages of BatchNorm, are not restored. Where the fallback too is slow at first, a
    rule can win its duel and spoil the network later; what it then took from the fallback's run is
    lost.

    Args:
      tx: the rule.
      fallback: what steps instead; by default Adam with a learning rate of 1e-3.
      max_ratio: κ, in norms of all parameters together. Learned rules take steps 10 to 100 times as
        long as those of Adam at 1e-3 where they serve.
      hold: H before the first duel or trip, in steps.
      duel: n, in steps; 0 for no duels: the rule then steps until it trips.
      restore: whether to keep a copy of the parameters and of the fallback's state to go back to.
        Without it there are no duels.

    Returns:
      An optax transformation; `guard_report` reads its state. The state is that of both, the copy
      and scalars (float32 and int32), and sharded as the parameters are.

    Raises:
      TypeError: `tx` or `fallback` is no optax transformation.
      ValueError: a number out of range; from `update`, a `value` that is not one real number.

    Example:
      >>> import optax, learned_opt
      >>> tx = learned_opt.guard(learned_opt.pretrained('lstm_quadratic'), optax.adam(1e-2))
      >>> loss = lambda p: (p ** 2).sum()
      >>> params = jnp.ones(3)
      >>> state = tx.init(params)
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = tx.update(grads, state, params, value=value)
      >>> learned_opt.guard_report(state)['rule_steps']
      1

    References:
      Heaton et al., *Safeguarded learned convex optimization*, 2020, https://arxiv.org/abs/2003.01880,
      and Prémont-Schwarz et al., *A simple guard for learned optimizers*, 2022 (LGL2O, section 3),
      https://arxiv.org/abs/2201.12426, fall back step by step where an energy, or the loss on fresh
      data, says so. Both ask for more than the one loss a step that there is here.
    """
    for name, part in (("tx", tx), ("fallback", fallback)):
        made = callable(getattr(part, "init", None)) and callable(getattr(part, "update", None))
        if not made and (name == "tx" or part is not None):
            raise TypeError(
                f"{name} must be an optax transformation, got {part!r}; write for example "
                "guard(learned_opt.pretrained('lstm_mnist'), optax.adam(1e-3))"
            )
    number = isinstance(max_ratio, int | float) and not isinstance(max_ratio, bool)
    if not (number and max_ratio > 1):
        raise ValueError(f"max_ratio must be above 1 (math.inf for no limit), got {max_ratio!r}")
    for name, value, least in (("hold", hold, 1), ("duel", duel, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer, at least {least}, got {value!r}")
    if fallback is None:
        adam = hand_designed.adam()
        fallback = adam.transform(adam.init(jax.random.key(0)))
    rule, spare = map(optax.with_extra_args_support, (tx, fallback))
    settings = Settings(max_ratio, min(hold, MAX_HOLD), duel if restore else 0)

    def init_fn(params: Params) -> GuardState:
        fallback_state, monitor = spare.init(params), first_monitor()
        snapshot = None
        if restore:  # copies: the state and the parameters may both be donated
            copy = functools.partial(jax.tree.map, jnp.copy)
            snapshot = Snapshot(copy(params), copy(fallback_state), first_monitor())
        names = ("steps", "rule_steps", "fallback_steps", "restores", "skipped", *REASONS)
        counts = {name: jnp.zeros((), jnp.int32) for name in names}
        control = first_control(settings)
        return GuardState(rule.init(params), fallback_state, snapshot, monitor, control, counts)

    def update_fn(updates, state, params=None, *, value=None, **extra_args: Any):
        like = jax.tree.map(jnp.result_type, updates if params is None else params)
        finite = within_limit(updates)
        clean = jax.tree.map(lambda g: jnp.where(finite, g, jnp.zeros_like(g)), updates)
        if value is not None:
            extra_args["value"] = value
        cast = functools.partial(jax.tree.map, lambda dtype, u: jnp.asarray(u, dtype), like)
        proposed, rule_state = rule.update(clean, state.rule, params, **extra_args)
        safe, fallback_state = spare.update(clean, state.fallback, params, **extra_args)
        # Each is used often: without the barrier XLA would compute it anew for every use.
        proposed, safe = jax.lax.optimization_barrier((cast(proposed), cast(safe)))

        square, safe_square = square_norm(proposed), square_norm(safe)
        within = jnp.sqrt(square) <= settings.max_ratio * jnp.sqrt(safe_square)
        facts = Facts(
            loss=None if value is None else _check_loss(value),
            finite=finite,
            usable=jnp.isfinite(square),
            within=(safe_square == 0) | within,
            exact=jnp.array(True),
        )
        saved = None if params is None or value is None else state.snapshot
        if saved is not None:
            back = cast(jax.tree.map(jnp.subtract, saved.params, params))
            facts = facts._replace(exact=_arrives(ends_trial(state.control), params, back, saved))
        control, monitor, act = decide(
            state.control, state.monitor, facts, settings, can_restore=saved is not None
        )
        if saved is not None:
            control = settle(control, act, _arrives(act.restore, params, back, saved))
        new_updates = select(act.use_rule, proposed, safe)
        new_updates = select(finite, new_updates, jax.tree.map(jnp.zeros_like, new_updates))
        rule_state = select(act.advance, rule_state, with_counts_of(rule_state, state.rule))
        rule_state = select(finite & facts.usable, rule_state, state.rule)
        fallback_state = select(finite, fallback_state, state.fallback)
        snapshot = state.snapshot
        if saved is not None:
            here = Snapshot(params, state.fallback, monitor)
            snapshot = select(act.save, here, saved)
            new_updates = select(act.restore, back, new_updates)
            fallback_state = select(act.restore, saved.fallback, fallback_state)
            monitor = select(act.restore, saved.monitor, monitor)
        if params is not None:  # p + u may overflow where neither is infinite
            new_updates = jax.tree.map(finite_sum, params, new_updates)
        else:
            new_updates = jax.tree.map(
                lambda u: jnp.where(jnp.isfinite(u), u, jnp.zeros_like(u)), new_updates
            )
        counts = count(state.counts, act)
        return new_updates, GuardState(
            rule_state, fallback_state, snapshot, monitor, control, counts
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _arrives(asked: Scalar, params: Params, back: Params, saved: Snapshot) -> Scalar:
    """Whether the parameters are those of the snapshot after an update; true where not asked."""
    return jax.lax.cond(asked, lambda: reaches(params, back, saved.params), lambda: jnp.array(True))


def _check_loss(value: Any) -> Scalar:
    known = isinstance(value, jax.Array | np.ndarray | np.generic | numbers.Number)
    if not known or jnp.shape(value) != () or jnp.iscomplexobj(value):
        raise ValueError(f"value must be the loss, one real number, got {value!r}")
    return jnp.asarray(value, jnp.float32)


def guard_report(state: Any) -> dict[str, Any]:
    """Reads what a guard has done from a state that holds its own.

    Args:
      state: the state of `guard`, or of `optax.chain`, `optax.MultiSteps` and the like around it; a
        train state will do.

    Returns:
      `steps`; `rule_steps` and `fallback_steps`, the steps taken; `restores`; `skipped`, steps
      without an update; and `trips`, how often the rule tripped on each of: `loss`, not finite;
      `rise` of the loss; `update`, not finite; `step`, too large; `gradient`, not finite; `worse`,
      a duel lost. Nested lists of integers where the state was vmapped.

    Raises:
      ValueError: there is no guard in the state, or more than one.
    """
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
