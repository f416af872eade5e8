"""Many θ of one rule at once: runs as lanes of one compiled program.

Lanes start from the same parameters and see the same minibatches, so that only their
hyperparameters differ, and the examples are gathered once for all of them. A lane whose loss stops
being finite is frozen, and the step recorded.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from learned_opt.evaluation import place, runs_alone, spread
from learned_opt.tasks.checks import positive
from learned_opt.types import Key, Params, Task, Theta, UpdateRule
from learned_opt.unroll import check_arrays, fast_transform, init_inner, inner_step

# Floats of parameters, gradients and optimizer state that the lanes of one batch may hold: on CPU
# what stays in cache, else what fills a GPU (`scripts/benchmark study`).
_CPU_FLOATS, _ACCELERATOR_FLOATS = 2**22, 2**30
_MAX_LANES = 1024


class Lanes(NamedTuple):
    """What became of a batch of runs.

    Attributes:
      losses: the mean minibatch loss over each segment, `[lanes, segments]`; NaN once diverged or
        stopped.
      heldout: split -> metric -> values after each segment, `[lanes, segments]`.
      reported: metric -> value on the split that is reported, at the end, `[lanes]`.
      diverged_at: the first step whose loss was not finite, int `[lanes]`; −1 if there was none.
    """

    losses: np.ndarray
    heldout: dict[str, dict[str, np.ndarray]]
    reported: dict[str, np.ndarray]
    diverged_at: np.ndarray


def run_lanes(
    rule: UpdateRule,
    thetas: Theta,
    task: Task,
    key: Key,
    *,
    num_steps: int,
    num_seeds: int = 1,
    segments: int = 10,
    splits: Sequence[str] = ("valid",),
    report: str | None = None,
    patience: int | None = None,
    mesh: Mesh | None = None,
) -> Lanes:
    """Runs a rule with many θ at once, from one start and on the same minibatches.

    The transformation is built from each θ inside of the vmapped function, so that every
    hyperparameter, those used at `init` too, is each lane's own. Lanes are vmapped, or follow one
    another where `runs_alone` says that this is faster.

    Args:
      rule: the update rule.
      thetas: θs, stacked: every leaf `[lanes, ...]`.
      task: the task.
      key: where the problem, its start and its minibatches come from.
      num_steps: updates.
      num_seeds: runs of every lane, on problems of `fold_in(key, n)`, whose results are averaged;
        one diverges if any of them does. With 1, the run is that of `key` itself.
      segments: parts of the run, all of the same length, that are recorded.
      splits: what to evaluate on after each segment.
      report: a split to evaluate on once, at the end.
      patience: with it, a run stops once the loss of the split 'valid' has not come down for so
        many segments, and keeps the parameters of the lowest one: `reported` is theirs, and
        `heldout` has after each segment what is kept by then (`stop_early`). A run that diverges
        later has not diverged.
      mesh: a mesh of this process's devices with a single axis, over which lanes are sharded; their
        number must be a multiple of its size.

    Raises:
      ValueError: numbers of steps and segments, or of lanes and devices, that do not fit; or
        patience below one, or without the split 'valid'.
    """
    if segments < 1 or num_steps < 1 or num_steps % segments:
        raise ValueError(f"segments ({segments}) must divide num_steps ({num_steps})")
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}")
    if patience is not None:
        patience = positive("patience", patience)
        if "valid" not in splits:
            raise ValueError(f"patience needs the split 'valid', got splits={tuple(splits)}")
    num_lanes = len(jax.tree.leaves(thetas)[0])
    if mesh and num_lanes % mesh.size:
        raise ValueError(f"{num_lanes} lanes cannot be shared by {mesh.size} devices")
    check_arrays("task", task)
    settings = _Settings(
        num_steps // segments, segments, tuple(splits), report, runs_alone(task), patience
    )
    keys = _keys_of_seeds(key, num_seeds)
    thetas, shared = place(thetas, mesh, lanes=True), place((task, keys), mesh)
    return jax.device_get(_run_compiled(rule, thetas, *shared, settings=settings, mesh=mesh))


def start_loss(task: Task, key: Key, *, num_seeds: int = 1, split: str = "valid") -> float:
    """The loss on a split of the parameters from which `run_lanes` starts, with the same arguments.

    Args:
      task: the task.
      key: where the problem and its start come from.
      num_seeds: problems whose losses are averaged.
      split: where the loss is measured.
    """
    return float(_start_loss(task, _keys_of_seeds(key, num_seeds), split=split))


@functools.partial(jax.jit, static_argnames="split")
def _start_loss(task, keys, *, split):
    def one(key):
        return _measure(task, _start(optax.identity(), task, key), (split,))[split]["loss"]

    return jax.lax.map(one, keys).mean()


def _keys_of_seeds(key, num_seeds):
    if num_seeds == 1:
        return key[None]
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_seeds))


class _Settings(NamedTuple):
    segment_steps: int
    segments: int
    splits: tuple[str, ...]
    report: str | None
    alone: bool
    patience: int | None


class _Kept(NamedTuple):
    """What early stopping keeps of a run."""

    params: Params
    loss: jax.Array
    waited: jax.Array  # segments since that loss, int32 []


@functools.partial(jax.jit, static_argnames=("rule", "settings", "mesh"))
def _run_compiled(rule, thetas, task, keys, *, settings, mesh):
    def run(key, theta, task):
        key_run = jax.random.split(key)[1]
        tx = fast_transform(rule, theta)
        step = functools.partial(_step, tx, task, key_run)

        def go(carry, n):
            steps = n * settings.segment_steps + jnp.arange(settings.segment_steps, dtype=jnp.int32)
            carry, losses = jax.lax.scan(step, carry, steps)
            return carry, _measure(task, carry, settings.splits), losses.mean()

        def go_on(carry, heldout, kept, n):
            carry, measured, loss = go(carry, n)
            if settings.patience:
                better = measured["valid"]["loss"] < kept.loss
                now = _Kept(carry[0].params, measured["valid"]["loss"], jnp.zeros_like(kept.waited))
                kept = _where(better, now, kept._replace(waited=kept.waited + 1))
                measured = _where(better | ~jnp.isfinite(kept.loss), measured, heldout)
            return carry, measured, kept, loss

        def rest(carry, heldout, kept, _):  # frozen: what was measured stays as it was
            return carry, heldout, kept, jnp.full_like(unmeasured[1], jnp.nan)

        def segment(state, n):
            carry, heldout, kept = state
            goes_on = carry[1] < 0
            if settings.patience:
                goes_on &= kept.waited < settings.patience
            # Lanes that are vmapped take both branches, so a lane that rests is chosen as it was.
            *state, loss = jax.lax.cond(goes_on, go_on, rest, carry, heldout, kept, n)
            return tuple(state), (loss, state[1])

        carry = _start(tx, task, key)
        unmeasured = jax.tree.map(jnp.zeros_like, jax.eval_shape(go, carry, jnp.int32(0))[1:])
        kept = None
        if settings.patience:
            lowest = jnp.full_like(unmeasured[0]["valid"]["loss"], jnp.inf)
            kept = _Kept(carry[0].params, lowest, jnp.int32(-1))
        (carry, _, kept), (losses, heldout) = jax.lax.scan(
            segment,
            (carry, unmeasured[0], kept),
            jnp.arange(settings.segments, dtype=jnp.int32),
        )
        if kept is None:
            reported, diverged_at = _finish(task, carry, key_run, settings)
        else:
            inner, diverged_at = carry
            carry = inner._replace(params=kept.params), diverged_at
            reported = _finish(task, carry, key_run, settings)[0]
            diverged_at = jnp.where(jnp.isfinite(kept.loss), -1, diverged_at)
        return Lanes(losses, heldout, reported, diverged_at)

    def one(theta, task, keys):
        if len(keys) == 1:
            return run(keys[0], theta, task)
        return _over_seeds(spread(run, keys, (theta, task), alone=settings.alone))

    return spread(one, thetas, (task, keys), mesh, alone=settings.alone)


def _where(condition, yes, no):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _over_seeds(runs: Lanes) -> Lanes:
    """One lane of several runs: their mean, and the first step at which any diverged."""
    never = jnp.iinfo(jnp.int32).max
    first = jnp.where(runs.diverged_at < 0, never, runs.diverged_at).min()
    averaged = jax.tree.map(lambda x: x.mean(axis=0), runs)
    return averaged._replace(diverged_at=jnp.where(first == never, -1, first))


def _start(tx, task, key):
    """What a lane carries: its problem in flight, and the step at which it diverged or −1."""
    return init_inner(tx, task, jax.random.split(key)[0]), jnp.full((), -1, jnp.int32)


def _step(tx, task, key_run, carry, t):
    """One update, unless the lane has diverged: then its parameters are frozen, its loss NaN.

    The optimizer's state is not: nothing reads it once the parameters stay as they are.
    """
    inner, diverged_at = carry
    new, (loss, _) = inner_step(tx, task, inner, jax.random.fold_in(key_run, t))
    diverged_at = jnp.where((diverged_at < 0) & ~jnp.isfinite(loss), t, diverged_at)
    alive = diverged_at < 0
    params = _where(alive, new.params, inner.params)
    return (new._replace(params=params), diverged_at), jnp.where(alive, loss, jnp.nan)


def _measure(task, carry, splits):
    inner, _ = carry
    return {split: task.evaluate(inner.params, inner.instance, split) for split in splits}


def _finish(task, carry, key_run, settings):
    """The report, and where it diverged, after the last update too."""
    inner, diverged_at = carry
    num_steps = settings.segment_steps * settings.segments
    last = task.loss(inner.params, inner.instance, jax.random.fold_in(key_run, num_steps))
    diverged_at = jnp.where(
        (diverged_at < 0) & ~jnp.isfinite(last), jnp.int32(num_steps), diverged_at
    )
    split = settings.report
    return _measure(task, carry, (split,))[split] if split else {}, diverged_at


def default_lanes(rule: UpdateRule, task: Task) -> int:
    """How many lanes to run at once, by the memory that one takes: a power of two."""

    def floats(key):
        theta = rule.init(key)
        inner = init_inner(rule.transform(theta), task, key)
        return inner.params, inner.params, inner.opt_state  # and as much again for gradients

    shapes = jax.eval_shape(floats, jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(shapes))
    budget = _CPU_FLOATS if jax.default_backend() == "cpu" else _ACCELERATOR_FLOATS
    lanes = max(1, min(_MAX_LANES, budget // max(size, 1)))
    return 2 ** (lanes.bit_length() - 1)
