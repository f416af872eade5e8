"""Evaluation: a rule with a fixed θ, on many fresh problems of a task.

Every rule that is given the same key meets the same problems, starts and minibatches, so results of
several rules are paired.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from learned_opt.early_stopping import kept_so_far
from learned_opt.tasks.checks import positive
from learned_opt.types import Key, Params, Task, Theta, UpdateRule
from learned_opt.unroll import (
    check_arrays,
    checked_loss,
    draw,
    fast_transform,
    init_inner,
    inner_step,
    unroll,
)

# Floats of parameters and optimizer state that one batch of runs may hold: on CPU what stays in
# cache (runs one after another are the fastest for all but tiny problems), else what fills a GPU.
_CPU_FLOATS, _ACCELERATOR_FLOATS = 2**17, 2**28
_MAX_BATCH = 1024

# Floats that the loss of one run keeps for its gradient, beyond which runs on CPU are not vmapped.
_CPU_ACTIVATIONS = 2**19


class Evaluation(NamedTuple):
    """Losses of one rule over many runs.

    Attributes:
      losses: `[num_seeds, num_steps + 1]`; column t is the minibatch loss at params_t, after t
        updates. Runs that diverged hold the non-finite losses they had.
      heldout: split -> metric -> `[num_seeds, len(eval_steps)]`.
      eval_steps: the steps of `heldout`: how many updates had been done.
    """

    losses: np.ndarray
    heldout: dict[str, dict[str, np.ndarray]]
    eval_steps: tuple[int, ...]

    @property
    def diverged(self) -> np.ndarray:
        """Which runs had a loss that was not finite, bool `[num_seeds]`."""
        return ~np.isfinite(self.losses).all(axis=1)

    @property
    def ended_above_start(self) -> np.ndarray:
        """Which runs did not diverge and yet ended above their start, bool `[num_seeds]`."""
        return ended_above_start(self.losses)


def ended_above_start(losses: np.ndarray) -> np.ndarray:
    """Which runs end above their start, though all their losses are finite.

    A run does where its last loss is above its first one, and so is the median of its last tenth
    (at least one loss): neither an outlier among the last minibatches counts, nor a run that
    oscillates and ends below its start. Of a rule that does nothing about half of the runs count.

    Args:
      losses: `[runs, num_steps + 1]`, of params_0 … params_T.

    Returns:
      Bool `[runs]`.
    """
    losses = np.asarray(losses, np.float64)
    last = losses[:, -max(1, losses.shape[1] // 10) :]
    finite = np.isfinite(losses).all(axis=1)
    lower = np.minimum(np.median(last, axis=1), losses[:, -1])
    return finite & (lower > losses[:, 0])


def evaluate(
    rule: UpdateRule,
    theta: Theta,
    task: Task,
    key: Key,
    *,
    num_seeds: int,
    num_steps: int,
    eval_steps: Sequence[int] = (),
    splits: Sequence[str] = ("test",),
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    patience: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Runs a rule on `num_seeds` fresh problems for `num_steps` updates each.

    Run n draws its problem, start and minibatches from `fold_in(key, n)`, whatever the rule, the
    batch size and `eval_steps` are.

    Args:
      rule: the update rule.
      theta: its θ.
      task: the task.
      key: where the problems come from.
      num_seeds: runs.
      num_steps: updates in a run.
      eval_steps: numbers of updates after which to call `task.evaluate`, at most `num_steps`.
      splits: the held-out splits to evaluate on.
      batch_size: runs that are vmapped; 1 does them one after another. By default what suits the
        device and the size of the problem. Memory grows with it.
      mesh: a mesh of this process's devices with a single axis, to spread the runs over; or None.
      patience: with it, `heldout` has at each of `eval_steps` what early stopping has kept by then:
        the metrics where the loss of the split 'valid' was lowest, of a run that stops once it has
        not come down for so many of `eval_steps` (`studies.stop_early`). `losses` are of whole
        runs all the same.
      progress: called with the number of runs done.

    Returns:
      An `Evaluation`, on the host.

    Raises:
      ValueError: a number below one, an evaluation step out of range, or patience without
        `eval_steps` or the split 'valid'.
    """
    eval_steps = _check_steps(num_steps, eval_steps)
    for name, value in [("num_seeds", num_seeds), ("batch_size", batch_size)]:
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if patience is not None:
        patience = positive("patience", patience)
        if not (eval_steps and "valid" in splits):
            raise ValueError(
                "patience needs eval_steps, and splits with 'valid' in them, "
                f"got eval_steps={eval_steps} and splits={tuple(splits)}"
            )
    check_arrays("task", task)
    num_devices = mesh.size if mesh else 1
    batch_size = batch_size or default_batch_size(rule, theta, task)
    stride = num_devices * min(batch_size, math.ceil(num_seeds / num_devices))
    settings = dict(num_steps=num_steps, eval_steps=eval_steps, splits=tuple(splits), mesh=mesh)
    theta, task, key = place((theta, task, key), mesh)
    parts = []
    for start in range(0, num_seeds, stride):
        # The last batch may go over the end, so that there is one program.
        index = place(jnp.arange(start, start + stride), mesh, lanes=True)
        parts.append(jax.device_get(_run_batch(rule, theta, task, key, index, **settings)))
        progress(min(start + stride, num_seeds))
    losses, heldout = jax.tree.map(lambda *x: np.concatenate(x)[:num_seeds], *parts)
    if patience is not None:
        kept = kept_so_far(heldout["valid"]["loss"], patience)
        heldout = jax.tree.map(lambda x: np.take_along_axis(x, kept, axis=1), heldout)
    return Evaluation(losses, heldout, eval_steps)


def default_batch_size(rule: UpdateRule, theta: Theta, task: Task) -> int:
    """How many runs to vmap: by the device, and the size of parameters and optimizer state."""
    check_arrays("task", task)
    inner = jax.eval_shape(
        lambda theta, task, key: init_inner(rule.transform(theta), task, key),
        theta,
        task,
        jax.random.key(0),
    )
    if runs_alone(task):
        return 1
    floats = sum(x.size for x in jax.tree.leaves((inner.params, inner.opt_state)))
    budget = _CPU_FLOATS if jax.default_backend() == "cpu" else _ACCELERATOR_FLOATS
    return max(1, min(_MAX_BATCH, budget // max(floats, 1)))


def run(
    rule: UpdateRule,
    theta: Theta,
    task: Task,
    key: Key,
    *,
    num_steps: int,
    eval_steps: tuple[int, ...] = (),
    splits: tuple[str, ...] = (),
) -> tuple[jax.Array, dict[str, dict[str, jax.Array]]]:
    """One run, to be jitted and vmapped.

    Args:
      rule: the update rule.
      theta: its θ.
      task: the task.
      key: where the problem, its start and its minibatches come from.
      num_steps: updates.
      eval_steps: increasing numbers of updates after which to evaluate.
      splits: the splits to evaluate on.

    Returns:
      Losses `[num_steps + 1]` and, split -> metric, `[len(eval_steps)]`.
    """
    tx = fast_transform(rule, theta)
    key_inner, key_run = jax.random.split(key)
    state = init_inner(tx, task, key_inner)
    losses, heldout, step = [], [], 0
    for stop in sorted({*eval_steps, num_steps}):
        if stop > step:
            state, segment = unroll(tx, task, state, key_run, stop - step, start=step)
            losses.append(segment)
            step = stop
        if stop in eval_steps:
            heldout.append({s: task.evaluate(state.params, state.instance, s) for s in splits})
    last = task.loss(state.params, state.instance, jax.random.fold_in(key_run, num_steps))
    losses.append(last[None])
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *heldout) if heldout else {}
    return jnp.concatenate(losses), stacked


@functools.partial(jax.jit, static_argnames=("rule", "num_steps", "eval_steps", "splits", "mesh"))
def _run_batch(rule, theta, task, key, index, *, mesh, **settings):
    def one(n, theta, task, key):
        return run(rule, theta, task, jax.random.fold_in(key, n), **settings)

    return spread(one, index, (theta, task, key), mesh)


def runs_alone(task: Task) -> bool:
    """Whether several runs of a task are faster one after another than vmapped.

    They are on CPU where one run's activations alone fill the cache: conv nets, language models.
    Vmapping helps small networks, whose steps are short and share their examples.
    """
    if jax.default_backend() != "cpu":
        return False

    def residuals(task, key):
        instance, params = draw(task, key)
        return jax.vjp(lambda params: checked_loss(task, params, instance, key), params)[1]

    kept = jax.eval_shape(residuals, task, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(kept)) > _CPU_ACTIVATIONS


def spread(
    fn: Callable[..., Any],
    lanes: Any,
    shared: tuple,
    mesh: Mesh | None = None,
    *,
    alone: bool = False,
) -> Any:
    """Computes `fn(lane, *shared)` for every lane, the lanes vmapped and sharded over a mesh.

    Args:
      fn: what to compute.
      lanes: a tree of arrays with the lanes along the leading axis.
      shared: what is the same for all lanes.
      mesh: a mesh with a single axis whose size divides the number of lanes, or None.
      alone: whether the lanes of a device follow one another instead of being vmapped.
    """

    def local(lanes, shared):
        def one(lane):
            return fn(lane, *shared)

        # A single lane is not vmapped: on CPU, batched operations of size one are slower.
        single = len(jax.tree.leaves(lanes)[0]) == 1
        return jax.lax.map(one, lanes) if alone or single else jax.vmap(one)(lanes)

    if mesh is None:
        return local(lanes, shared)
    along = P(*mesh.axis_names)
    return jax.shard_map(local, mesh=mesh, in_specs=(along, P()), out_specs=along, check_vma=False)(
        lanes, shared
    )


def place(tree: Any, mesh: Mesh | None, *, lanes: bool = False) -> Any:
    """Puts a tree on the devices of a mesh: a copy on each, or its lanes divided among them."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, P(*mesh.axis_names) if lanes else P()))


def trajectory(
    rule: UpdateRule, theta: Theta, task: Task, key: Key, *, num_steps: int
) -> tuple[Params, jax.Array]:
    """Records one run's parameters.

    Returns:
      The parameters after 0 … num_steps updates, each leaf `[num_steps + 1, ...]`, and the losses
      there, `[num_steps + 1]`.
    """
    check_arrays("task", task)
    return _trajectory(rule, theta, task, key, num_steps=num_steps)


@functools.partial(jax.jit, static_argnames=("rule", "num_steps"))
def _trajectory(rule, theta, task, key, *, num_steps):
    tx = rule.transform(theta)
    key_inner, key_run = jax.random.split(key)

    def step(state, t):
        new_state, (loss, _) = inner_step(tx, task, state, jax.random.fold_in(key_run, t))
        return new_state, (state.params, loss)

    start = init_inner(tx, task, key_inner)
    return jax.lax.scan(step, start, jnp.arange(num_steps + 1))[1]


def step_time(
    rule: UpdateRule, theta: Theta, task: Task, key: Key, *, num_steps: int = 50, repeats: int = 3
) -> float:
    """Measures one inner step: loss, gradient and update, alone on the device.

    Args:
      rule: the update rule.
      theta: its θ.
      task: the task.
      key: where the problem comes from.
      num_steps: steps that are timed together, in one compiled loop.
      repeats: times that this is done.

    Returns:
      Seconds a step, of the fastest repeat.
    """
    check_arrays("task", task)
    tx_task = functools.partial(_timed_unroll, rule, num_steps=num_steps)
    state = jax.jit(lambda theta, task, key: init_inner(rule.transform(theta), task, key))(
        theta, task, key
    )
    jax.block_until_ready(tx_task(theta, task, state, key))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(tx_task(theta, task, state, key))
        times.append(time.perf_counter() - begin)
    return min(times) / num_steps


@functools.partial(jax.jit, static_argnames=("rule", "num_steps"))
def _timed_unroll(rule, theta, task, state, key, *, num_steps):
    return unroll(rule.transform(theta), task, state, key, num_steps)


def typical_step(
    rule: UpdateRule, theta: Theta, task: Task, key: Key, *, num_steps: int = 100
) -> dict[str, float]:
    """How far a rule moves a parameter with one update, in a run of its own.

    Returns:
      The root mean square over all parameters of an update's change, in the parameters' units: its
      `median` over the run's updates, their 5th percentile `low` and 95th `high`.
    """
    params, _ = trajectory(rule, theta, task, key, num_steps=num_steps)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    flat = np.concatenate([leaf.reshape(num_steps + 1, -1) for leaf in leaves], axis=1)
    sizes = np.sqrt(np.mean(np.diff(flat, axis=0) ** 2, axis=1))
    low, median, high = np.quantile(sizes, [0.05, 0.5, 0.95])
    return {"median": float(median), "low": float(low), "high": float(high)}


def state_bytes_per_parameter(rule: UpdateRule, theta: Theta, params: Params) -> float:
    """The size of the optimizer's state over the number of parameters, in bytes.

    Args:
      rule: the update rule.
      theta: its θ.
      params: the parameters, or their shapes.
    """
    state: Any = jax.eval_shape(
        lambda theta, params: rule.transform(theta).init(params), theta, params
    )
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return size / sum(x.size for x in jax.tree.leaves(params))


def _check_steps(num_steps: int, eval_steps: Sequence[int]) -> tuple[int, ...]:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    for step in eval_steps:
        if not 0 <= step <= num_steps:
            raise ValueError(f"evaluation step {step} is not in 0 … {num_steps} (num_steps)")
    return tuple(sorted(set(eval_steps)))
