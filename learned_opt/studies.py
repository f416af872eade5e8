"""Tuning studies: many trials of a rule's hyperparameters as one compiled program.

A trial is a point of a search space, known by (space, seed, index). Trials are lanes of one vmapped
run: they start from the same parameters and see the same minibatches, so that only their
hyperparameters differ, and the examples are gathered once for all of them. A lane whose loss stops
being finite is frozen, and the step recorded.

Finished trials are kept in a folder, a line of JSON each. A study that was killed goes on where it
stopped; one of 50 trials is extended to 100; several machines may share a folder.
"""

import functools
import hashlib
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from learned_opt.evaluation import place, spread
from learned_opt.meta_training.unroll import init_inner, inner_step
from learned_opt.spaces import SearchSpace
from learned_opt.trials import TrialStore, read_identity
from learned_opt.types import Key, Task, Theta, UpdateRule

# Floats of parameters, gradients and optimizer state that the lanes of one batch may hold: on CPU
# what stays in cache, else what fills a GPU (`scripts/benchmark study`).
_CPU_FLOATS, _ACCELERATOR_FLOATS = 2**22, 2**30
_MAX_LANES = 1024


class Lanes(NamedTuple):
    """What became of a batch of runs.

    Attributes:
      losses: the mean minibatch loss over each segment, `[lanes, segments]`; NaN once diverged.
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
    mesh: Mesh | None = None,
) -> Lanes:
    """Runs a rule with many θ at once, from one start and on the same minibatches.

    The transformation is built from each θ inside of the vmapped function, so that every
    hyperparameter, those used at `init` too, is each lane's own. A task that sets `stepwise_on_cpu`
    is run there one lane after another, by a Python loop over a jitted step.

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
      mesh: a mesh of this process's devices with a single axis, over which lanes are sharded; their
        number must be a multiple of its size.

    Raises:
      ValueError: numbers of steps and segments, or of lanes and devices, that do not fit.
    """
    if segments < 1 or num_steps < 1 or num_steps % segments:
        raise ValueError(f"segments ({segments}) must divide num_steps ({num_steps})")
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}")
    num_lanes = len(jax.tree.leaves(thetas)[0])
    if mesh and num_lanes % mesh.size:
        raise ValueError(f"{num_lanes} lanes cannot be shared by {mesh.size} devices")
    settings = _Settings(num_steps // segments, segments, tuple(splits), report)
    keys = key[None]
    if num_seeds > 1:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_seeds))
    if getattr(task, "stepwise_on_cpu", False) and jax.default_backend() == "cpu":
        return _run_stepwise(rule, thetas, task, keys, settings)
    thetas, shared = place(thetas, mesh, lanes=True), place((task, keys), mesh)
    return jax.device_get(_run_compiled(rule, thetas, *shared, settings=settings, mesh=mesh))


class _Settings(NamedTuple):
    segment_steps: int
    segments: int
    splits: tuple[str, ...]
    report: str | None


@functools.partial(jax.jit, static_argnames=("rule", "settings", "mesh"))
def _run_compiled(rule, thetas, task, keys, *, settings, mesh):
    def run(theta, task, key):
        key_run = jax.random.split(key)[1]

        def segment(carry, n):
            steps = n * settings.segment_steps + jnp.arange(settings.segment_steps)
            step = functools.partial(_step, rule.transform(theta), task, key_run)
            carry, losses = jax.lax.scan(step, carry, steps)
            return carry, (losses.mean(), _measure(task, carry, settings.splits))

        carry = _start(rule.transform(theta), task, key)
        carry, (losses, heldout) = jax.lax.scan(segment, carry, jnp.arange(settings.segments))
        reported, diverged_at = _finish(task, carry, key_run, settings)
        return Lanes(losses, heldout, reported, diverged_at)

    def one(theta, task, keys):
        if len(keys) == 1:
            return run(theta, task, keys[0])
        return _over_seeds(jax.vmap(run, (None, None, 0))(theta, task, keys))

    return spread(one, thetas, (task, keys), mesh)


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
    params = jax.tree.map(lambda a, b: jnp.where(alive, a, b), new.params, inner.params)
    return (new._replace(params=params), diverged_at), jnp.where(alive, loss, jnp.nan)


def _measure(task, carry, splits):
    inner, _ = carry
    return {split: task.evaluate(inner.params, inner.instance, split) for split in splits}


def _finish(task, carry, key_run, settings):
    """The report, and where it diverged, after the last update too."""
    inner, diverged_at = carry
    num_steps = settings.segment_steps * settings.segments
    last = task.loss(inner.params, inner.instance, jax.random.fold_in(key_run, num_steps))
    diverged_at = jnp.where((diverged_at < 0) & ~jnp.isfinite(last), num_steps, diverged_at)
    split = settings.report
    return _measure(task, carry, (split,))[split] if split else {}, diverged_at


def _run_stepwise(rule, thetas, task, keys, settings: _Settings) -> Lanes:
    """Lanes one after another, each step a call: for what XLA:CPU is slow at inside of a loop."""

    def stack(runs):
        return jax.tree.map(lambda *x: np.stack(x), *runs)

    lanes = []
    for n in range(len(jax.tree.leaves(thetas)[0])):
        theta = jax.tree.map(operator.itemgetter(n), thetas)
        runs = [_run_one_stepwise(rule, theta, task, key, settings) for key in keys]
        lanes.append(runs[0] if len(runs) == 1 else jax.device_get(_over_seeds(stack(runs))))
    return stack(lanes)


def _run_one_stepwise(rule, theta, task, key, settings: _Settings) -> Lanes:
    start, step, measure, finish = _stepwise(rule)
    key_run = jax.random.split(key)[1]
    carry = start(theta, task, key)
    losses: list[Any] = []
    heldout: list[Any] = []
    for segment in range(settings.segments):
        if heldout and int(carry[1]) >= 0:  # frozen: what was measured stays as it was
            losses.append(np.nan)
            heldout.append(heldout[-1])
            continue
        found = []
        for t in range(segment * settings.segment_steps, (segment + 1) * settings.segment_steps):
            carry, loss = step(theta, task, key_run, carry, np.int32(t))
            found.append(loss)
        losses.append(np.mean(jax.device_get(found)))
        heldout.append(jax.device_get(measure(task, carry, splits=settings.splits)))
    reported, diverged_at = finish(task, carry, key_run, settings=settings)
    stacked = jax.tree.map(lambda *x: np.stack(x), *heldout)
    return jax.device_get(Lanes(np.array(losses), stacked, reported, diverged_at))


@functools.lru_cache
def _stepwise(rule: UpdateRule) -> tuple[Callable[..., Any], ...]:
    def step(theta, task, key_run, carry, t):
        return _step(rule.transform(theta), task, key_run, carry, t)

    return (
        jax.jit(lambda theta, task, key: _start(rule.transform(theta), task, key)),
        jax.jit(step, donate_argnames="carry"),
        jax.jit(_measure, static_argnames="splits"),
        jax.jit(_finish, static_argnames="settings"),
    )


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


def run_study(
    rule: UpdateRule,
    space: SearchSpace,
    task: Task,
    folder: str | os.PathLike,
    *,
    workload: str,
    num_trials: int,
    num_steps: int,
    seed: int = 0,
    num_seeds: int = 1,
    lanes: int | None = None,
    segments: int = 10,
    splits: Sequence[str] = ("valid",),
    report: str | None = "test",
    mesh: Mesh | None = None,
    shard: tuple[int, int] = (0, 1),
    theta: Theta | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, dict[str, Any]]:
    """Runs the trials of a study that are not done yet.

    Batches of lanes are always the same ones, whatever was done before and by whom, so the table
    of a study that was interrupted is that of one that was not, to the bit. A rule whose space has
    no parameters is run over as many seeds instead.

    Args:
      rule: the update rule.
      space: where its hyperparameters are searched.
      task: the task; its minibatches and starts come from `seed`, the same for every trial.
      folder: where finished trials are kept; one study a folder.
      workload: the task's name, which tells studies apart.
      num_trials: trials in all; a larger number extends a study.
      num_steps: updates in a run.
      seed: of the points and of the runs.
      num_seeds: runs of every trial, see `run_lanes`.
      lanes: trials that run together; by default what the folder's trials ran with, and in a new
        one what memory allows, but no more than there are for each process.
      segments: see `run_lanes`.
      splits: splits to evaluate on after each segment; never 'test'.
      report: the split on which each trial is evaluated once, at its end, for the statistics of
        what the best of K by validation gives there; nothing is ever chosen by it. None: no split.
      mesh: a mesh with a single axis over which lanes are sharded; its size divides `lanes`.
      shard: (n, of how many): this process does every so-manieth batch, from the n-th.
      theta: θ of a rule whose space has no parameters, a pretrained one for example; by default
        that of `rule.init`.
      progress: called with the numbers of batches done and to do.

    Returns:
      Index -> trial: `index`, `hyperparameters` (θ), `point`, `losses`, `heldout`,
      `reported`, `diverged_at`.
      Numbers that are not finite are None.

    Raises:
      ValueError: the space is not one of the rule, the folder holds another study, a number out of
        range, or the test split.
    """
    if "test" in splits:
        raise ValueError("the test split is not for tuning; `report` gives it at the end")
    if num_trials < 1 or not 0 <= shard[0] < shard[1]:
        raise ValueError(f"num_trials ({num_trials}) must be at least 1 and shard {shard} n < of")
    theta = rule.init(jax.random.key(0)) if theta is None else theta
    if space.parameters:
        space.check(theta)
    if not lanes:
        present = read_identity(folder) or {}
        lanes = present.get("lanes") or _lanes(rule, task, num_trials, shard[1], mesh)
    identity = {
        "space": space.identity,
        "workload": workload,
        "num_steps": num_steps,
        "seed": seed,
        "num_seeds": num_seeds,
        "segments": segments,
        "splits": list(splits),
        "report": report,
        "lanes": lanes,
        "theta": None if space.parameters else digest(theta),
    }
    store = TrialStore(folder, identity | {"definition": space.to_dict()}, shard=shard[0])
    done = store.trials()
    settings: dict[str, Any] = dict(
        num_steps=num_steps,
        num_seeds=num_seeds,
        segments=segments,
        splits=splits,
        report=report,
    )
    batches = [range(first, first + lanes) for first in range(0, num_trials, lanes)]
    todo = [
        batch
        for n, batch in enumerate(batches)
        if n % shard[1] == shard[0] and any(i not in done for i in batch if i < num_trials)
    ]
    for n, batch in enumerate(todo):
        progress(n, len(todo))
        points = space.points(batch.start, batch.stop, seed=seed)
        if space.parameters:
            thetas = [space.theta(point, budget=num_steps) for point in points]
            result = run_lanes(
                rule, _stacked(thetas), task, jax.random.key(seed), mesh=mesh, **settings
            )
        else:
            thetas = [{} for _ in batch]
            result = _without_knobs(rule, theta, task, seed, batch, settings)
        store.append(
            [
                _record(i, points[lane], thetas[lane], result, lane)
                for lane, i in enumerate(batch)
                if i not in done and i < num_trials
            ]
        )
    progress(len(todo), len(todo))
    return {i: trial for i, trial in store.trials().items() if i < num_trials}


def _lanes(rule, task, num_trials, num_processes, mesh) -> int:
    """How many lanes a new study has: no more than fill up, and a multiple of the devices."""
    size = mesh.size if mesh else 1
    memory = max(default_lanes(rule, task) // size, 1)
    return size * min(memory, math.ceil(num_trials / (num_processes * size)))


def digest(theta: Theta) -> str:
    """Tells θs apart."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(theta):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:16]


def _without_knobs(rule, theta, task, seed, batch, settings) -> Lanes:
    """One θ from as many starts as there are lanes."""
    single = jax.tree.map(lambda x: jnp.asarray(x)[None], theta)
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in batch]
    results = [run_lanes(rule, single, task, key, **settings) for key in keys]
    return jax.tree.map(lambda *x: np.concatenate(x), *results)


def _stacked(thetas: Sequence[Mapping[str, float]]) -> Theta:
    return {name: jnp.asarray([t[name] for t in thetas], jnp.float32) for name in thetas[0]}


def _record(index: int, point, theta, result: Lanes, lane: int) -> dict[str, Any]:
    def numbers(values):
        return [float(x) if math.isfinite(x) else None for x in values[lane]]

    return {
        "index": index,
        "point": point,
        "hyperparameters": theta,
        "losses": numbers(result.losses),
        "heldout": {
            split: {metric: numbers(values) for metric, values in metrics.items()}
            for split, metrics in result.heldout.items()
        },
        "reported": {
            metric: numbers(values[:, None])[0] for metric, values in result.reported.items()
        },
        "diverged_at": None if result.diverged_at[lane] < 0 else int(result.diverged_at[lane]),
    }
