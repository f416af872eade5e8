"""Runs of one optimizer from many seeds: its learning curve, and held-out losses at the end.

The optimizer is made inside of the compiled program from a learning rate and a weight decay that
are traced, so that all of a search over them is one program. The training loss is measured on fixed
minibatches, the same for all runs of all optimizers: a curve without the noise of minibatches.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.evaluation import spread
from learned_opt.types import InnerState, Key, Params, Task
from learned_opt.unroll import check_arrays, checked_loss, draw, init_inner, inner_step

_PROBE = 0x7072_6F62  # folded into the key: the minibatches on which the training loss is measured


def _same(state: Any, params: Params) -> Params:
    del state
    return params


class Optimizer(NamedTuple):
    """An optimizer whose learning rate and weight decay are open.

    Attributes:
      make: `make(rate, num_steps, weight_decay)` returns an optax transformation; the rate and the
        decay may be traced, the number of steps, for schedules, is an int.
      evaluated: `evaluated(opt_state, params)` returns the parameters to evaluate, where they are
        not those at which gradients are taken (schedule-free methods).
    """

    make: Callable[..., optax.GradientTransformation]
    evaluated: Callable[[Any, Params], Params] = _same


class Runs(NamedTuple):
    """What became of runs from several seeds.

    Attributes:
      train: the training loss on the fixed minibatches at evenly spaced steps,
        `[seeds, points × factor + 1]`; NaN from where a run diverged on.
      valid: the validation loss after `num_steps`, `[seeds]`; NaN where it had diverged.
      test: the test loss there, `[seeds]`.
      errors: 1 − accuracy on the test split there, `[seeds]`; NaN for tasks without.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    errors: np.ndarray


class _Settings(NamedTuple):
    num_steps: int  # for schedules
    points: int


def run_seeds(
    optimizer: Optimizer,
    task: Task,
    key: Key,
    seeds: Sequence[int],
    *,
    rate: float,
    weight_decay: float = 0.0,
    num_steps: int,
    points: int = 50,
    factor: int = 1,
    probes: int = 4,
    heldout: bool = True,
) -> Runs:
    """Runs an optimizer from several seeds.

    Seed n draws its problem, start and minibatches from `fold_in(key, n)`, whatever the optimizer.

    Args:
      optimizer: the optimizer.
      task: the task.
      key: where everything comes from.
      seeds: the seeds.
      rate: the learning rate.
      weight_decay: the weight decay.
      num_steps: updates after which held-out losses are measured.
      points: how often the training loss is measured in these updates; divides them.
      factor: the run goes on to `factor` times as many updates, for its training loss alone.
      probes: fixed minibatches on which the training loss is measured.
      heldout: whether to measure held-out losses; else they are NaN.

    Raises:
      ValueError: a number below one, or `points` that do not divide `num_steps`.
    """
    numbers: dict[str, Any] = {
        "num_steps": num_steps,
        "points": points,
        "factor": factor,
        "probes": probes,
    }
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if num_steps % points:
        raise ValueError(f"points ({points}) must divide num_steps ({num_steps})")
    check_arrays("task", task)
    if jax.default_backend() == "cpu" and len(seeds) > 1:  # one after another is faster there
        same: dict[str, Any] = dict(rate=rate, weight_decay=weight_decay, heldout=heldout)
        each = [run_seeds(optimizer, task, key, [n], **numbers, **same) for n in seeds]
        return Runs(*(np.concatenate(parts) for parts in zip(*each, strict=True)))
    settings = _Settings(num_steps, points)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(seeds))
    fixed = jax.random.split(jax.random.fold_in(key, _PROBE), probes)
    knobs = jnp.float32(rate), jnp.float32(weight_decay)
    shared = (task, fixed, *knobs)
    instances, params, first = _draw(keys, task, fixed)
    carry = _init(optimizer, instances, params, *knobs, num_steps=num_steps)
    parts, measured = [first[:, None]], None
    for n in range(factor):
        start = jnp.int32(n * num_steps)
        carry, params, losses = _advance(optimizer, keys, carry, start, *shared, settings=settings)
        parts.append(losses)
        if n == 0 and heldout:
            measured = _heldout(task, carry[0].instance, params)
    train = np.concatenate(jax.device_get(parts), axis=1)
    train = np.where(np.isfinite(train), train, np.nan)
    nan = np.full(len(keys), np.nan, np.float32)
    if measured is None:
        return Runs(train, nan, nan, nan)
    early = ~np.isfinite(train[:, : points + 1]).all(axis=1)
    valid, test = jax.device_get(measured)

    def kept(values):
        return np.where(early | ~np.isfinite(values), np.nan, values)

    errors = 1 - test["accuracy"] if "accuracy" in test else nan
    return Runs(train, kept(valid["loss"]), kept(test["loss"]), kept(errors))


def _probe(task, fixed, instance, params):
    """The loss on the fixed minibatches of the training split."""
    return jax.lax.map(lambda key: checked_loss(task, params, instance, key), fixed).mean()


@jax.jit
def _draw(keys, task, fixed):
    """The problem of each seed, its starting parameters and their loss: one program for all."""

    def one(key, task, fixed):
        instance, params = draw(task, jax.random.split(key)[0])
        return instance, params, _probe(task, fixed, instance, params)

    return spread(one, keys, (task, fixed))


@functools.partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _init(optimizer, instances, params, rate, weight_decay, *, num_steps):
    def one(lane, rate, weight_decay):
        instance, params = lane
        tx = optimizer.make(rate, num_steps, weight_decay)
        return InnerState(instance, params, tx.init(params)), jnp.bool_(False)

    return spread(one, (instances, params), (rate, weight_decay))


@functools.partial(jax.jit, static_argnames=("optimizer", "settings"))
def _advance(optimizer, keys, carry, start, task, fixed, rate, weight_decay, *, settings):
    def one(lane, start, task, fixed, rate, weight_decay):
        key, carry = lane
        tx = optimizer.make(rate, settings.num_steps, weight_decay)
        key_run = jax.random.split(key)[1]

        def step(inner, t):
            inner, (loss, _) = inner_step(tx, task, inner, jax.random.fold_in(key_run, t))
            return inner, loss

        def go(carry, n):
            size = settings.num_steps // settings.points
            inner, losses = jax.lax.scan(
                step, carry[0], start + n * size + jnp.arange(size, dtype=jnp.int32)
            )
            evaluated = optimizer.evaluated(inner.opt_state, inner.params)
            loss = _probe(task, fixed, inner.instance, evaluated)
            loss = jnp.where(jnp.isfinite(losses).all(), loss, jnp.nan)
            return (inner, ~jnp.isfinite(loss)), loss

        def rest(carry, n):
            del n
            return carry, jnp.full((), jnp.nan, shape.dtype)

        def segment(carry, n):
            return jax.lax.cond(carry[1], rest, go, carry, n)

        shape = jax.eval_shape(go, carry, jnp.int32(0))[1]
        carry, losses = jax.lax.scan(segment, carry, jnp.arange(settings.points, dtype=jnp.int32))
        inner = carry[0]
        return carry, optimizer.evaluated(inner.opt_state, inner.params), losses

    shared = (start, task, fixed, rate, weight_decay)
    return spread(one, (keys, carry), shared)


@jax.jit
def _heldout(task, instances, params):
    def one(lane, task):
        instance, params = lane
        return tuple(task.evaluate(params, instance, split) for split in ("valid", "test"))

    return spread(one, (instances, params), (task,))


def state_bytes(optimizer: Optimizer, task: Task, key: Key, num_steps: int) -> tuple[int, int]:
    """The bytes of an optimizer's state on a task, and those of the parameters."""

    def shapes(key, rate, weight_decay):
        params = draw(task, key)[1]
        return params, optimizer.make(rate, num_steps, weight_decay).init(params)

    params, state = jax.eval_shape(shapes, key, jnp.float32(1e-3), jnp.float32(0))
    sizes = [sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t)) for t in (state, params)]
    return sizes[0], sizes[1]


def step_times(
    optimizers: dict[str, Optimizer],
    task: Task,
    key: Key,
    *,
    num_steps: int = 50,
    repeats: int = 5,
    progress: Callable[[int], None] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times one step of several optimizers: loss, gradient and update, alone on the device.

    The optimizers take turns, so that whatever else slows the machine down slows all of them.

    Args:
      optimizers: by their names.
      task: the task.
      key: where the problem comes from.
      num_steps: steps that are timed together, in one compiled loop.
      repeats: how often.
      progress: called with the number of optimizers that are compiled.
      clock: seconds; `time.process_time` on a busy CPU, where other programs count not at all.

    Returns:
      Seconds a step of each turn, by name.
    """
    check_arrays("task", task)
    knobs = jnp.float32(1e-3), jnp.float32(0)
    compiled = {}
    for n, (name, optimizer) in enumerate(optimizers.items()):
        go = _timed.lower(optimizer, task, key, *knobs, num_steps=num_steps).compile()
        jax.block_until_ready(go(task, key, *knobs))
        compiled[name] = go
        progress(n + 1)
    found: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(repeats):
        for name, go in compiled.items():
            begin = clock()
            jax.block_until_ready(go(task, key, *knobs))
            found[name].append((clock() - begin) / num_steps)
    return found


@functools.partial(jax.jit, static_argnames=("optimizer", "num_steps"))
def _timed(optimizer, task, key, rate, weight_decay, *, num_steps):
    tx = optimizer.make(rate, num_steps, weight_decay)
    state = init_inner(tx, task, key)

    def step(inner, t):
        return inner_step(tx, task, inner, jax.random.fold_in(key, t))[0], None

    return jax.lax.scan(step, state, jnp.arange(num_steps))[0].params
