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
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.meta_training.unroll import init_inner, inner_step
from learned_opt.spaces import SearchSpace
from learned_opt.types import Key, Task, Theta, UpdateRule

# Floats of parameters, gradients and optimizer state that the lanes of one batch may hold.
_CPU_FLOATS, _ACCELERATOR_FLOATS = 2**23, 2**30
_MAX_LANES = 1024


class Lanes(NamedTuple):
    """What became of a batch of runs.

    Attributes:
      losses: the mean minibatch loss over each segment, `[lanes, segments]`; NaN once diverged.
      heldout: split -> metric -> values after each segment, `[lanes, segments]`.
      diverged_at: the first step whose loss was not finite, int `[lanes]`; −1 if there was none.
    """

    losses: np.ndarray
    heldout: dict[str, dict[str, np.ndarray]]
    diverged_at: np.ndarray


@functools.partial(jax.jit, static_argnames=("rule", "num_steps", "segments", "splits"))
def _run_lanes(rule, thetas, task, key, *, num_steps, segments, splits):
    key_inner, key_run = jax.random.split(key)

    def one(theta):
        tx = rule.transform(theta)
        inner = init_inner(tx, task, key_inner)

        def step(carry, t):
            inner, diverged_at = carry
            new, (loss, _) = inner_step(tx, task, inner, jax.random.fold_in(key_run, t))
            diverged_at = jnp.where((diverged_at < 0) & ~jnp.isfinite(loss), t, diverged_at)
            alive = diverged_at < 0
            inner = jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, inner)
            return (inner, diverged_at), jnp.where(alive, loss, jnp.nan)

        def segment(carry, first):
            carry, losses = jax.lax.scan(step, carry, first + jnp.arange(num_steps // segments))
            params, instance = carry[0].params, carry[0].instance
            heldout = {s: task.evaluate(params, instance, s) for s in splits}
            return carry, (losses.mean(), heldout)

        starts = jnp.arange(0, num_steps, num_steps // segments)
        carry = inner, jnp.full((), -1, jnp.int32)
        (inner, diverged_at), (losses, heldout) = jax.lax.scan(segment, carry, starts)
        last = task.loss(inner.params, inner.instance, jax.random.fold_in(key_run, num_steps))
        diverged_at = jnp.where((diverged_at < 0) & ~jnp.isfinite(last), num_steps, diverged_at)
        return losses, heldout, diverged_at

    return jax.vmap(one)(thetas)


def run_lanes(
    rule: UpdateRule,
    thetas: Theta,
    task: Task,
    key: Key,
    *,
    num_steps: int,
    segments: int = 10,
    splits: Sequence[str] = ("valid",),
) -> Lanes:
    """Runs a rule with many θ at once, from one start and on the same minibatches.

    The transformation is built from each θ inside of the vmapped function, so that every
    hyperparameter, those used at `init` too, is each lane's own.

    Args:
      rule: the update rule.
      thetas: θs, stacked: every leaf `[lanes, ...]`.
      task: the task.
      key: where the problem, its start and its minibatches come from.
      num_steps: updates.
      segments: parts of the run, all of the same length, that are reported.
      splits: what to evaluate on after each segment.

    Raises:
      ValueError: a number of steps that is no multiple of that of segments.
    """
    if segments < 1 or num_steps < 1 or num_steps % segments:
        raise ValueError(f"segments ({segments}) must divide num_steps ({num_steps})")
    settings: dict[str, Any] = dict(num_steps=num_steps, segments=segments, splits=tuple(splits))
    losses, heldout, diverged_at = _run_lanes(rule, thetas, task, key, **settings)
    return jax.device_get(Lanes(losses, heldout, diverged_at))


def default_lanes(rule: UpdateRule, task: Task) -> int:
    """How many lanes to run at once, by the memory that one takes."""

    def floats(key):
        theta = rule.init(key)
        inner = init_inner(rule.transform(theta), task, key)
        return inner.params, inner.params, inner.opt_state  # and as much again for gradients

    shapes = jax.eval_shape(floats, jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(shapes))
    budget = _CPU_FLOATS if jax.default_backend() == "cpu" else _ACCELERATOR_FLOATS
    return max(1, min(_MAX_LANES, budget // max(size, 1)))


class TrialStore:
    """Finished trials in a folder: `study.json` says of what, `trials*.jsonl` hold them.

    Every process appends to a file of its own, so that several machines can share the folder.
    """

    def __init__(self, folder: str | os.PathLike, identity: Mapping[str, Any], *, shard: int = 0):
        """Opens a folder, or starts it.

        Args:
          folder: the folder.
          identity: what the trials depend on: the space, the seed, the workload, the budget, ….
          shard: the number of this process among those that share the folder.

        Raises:
          ValueError: the folder belongs to another study, or a file in it is damaged.
        """
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"trials_{shard}.jsonl"
        wanted = json.loads(json.dumps(identity))
        path = self._folder / "study.json"
        if path.exists():
            try:
                present = json.loads(path.read_text())
            except ValueError:
                raise ValueError(f"{path} is damaged; choose another folder") from None
            if present != wanted:
                names = sorted(
                    name
                    for name in present.keys() | wanted.keys()
                    if present.get(name) != wanted.get(name)
                )
                raise ValueError(
                    f"{self._folder} holds another study, which differs in {', '.join(names)}; "
                    "choose another folder for this one"
                )
        else:
            partial = path.with_suffix(f".{os.getpid()}.tmp")
            partial.write_text(json.dumps(wanted, indent=2))
            partial.replace(path)
        self._mend()

    def _mend(self) -> None:
        """Cuts off a last line that a kill left half-written."""
        if self._file.exists():
            data = self._file.read_bytes()
            if data and not data.endswith(b"\n"):
                with self._file.open("r+b") as file:
                    file.truncate(data.rfind(b"\n") + 1)

    def trials(self) -> dict[int, dict[str, Any]]:
        """All finished trials, by their index, those of other processes too.

        Raises:
          ValueError: a line is damaged; the message names it.
        """
        found: dict[int, dict[str, Any]] = {}
        for file in sorted(self._folder.glob("trials_*.jsonl")):
            lines = file.read_text().split("\n")
            for number, line in enumerate(lines, 1):
                if not line:
                    continue
                try:
                    trial = json.loads(line)
                    found[trial["index"]] = trial
                except (ValueError, KeyError, TypeError):
                    if number == len(lines):  # another process is writing it
                        continue
                    raise ValueError(
                        f"{file}, line {number} is damaged; delete that line and start the study "
                        "again: its trial will be repeated, the others are kept"
                    ) from None
        return dict(sorted(found.items()))

    def append(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """Writes finished trials, and has them on the disk before it returns."""
        with self._file.open("a") as file:
            for trial in trials:
                file.write(json.dumps(trial, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


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
    lanes: int | None = None,
    segments: int = 10,
    splits: Sequence[str] = ("valid",),
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
      lanes: trials that run together; by default what memory allows.
      segments: see `run_lanes`.
      splits: splits to evaluate on; never 'test', which is for the winner alone.
      shard: (n, of how many): this process does every so-manieth batch, from the n-th.
      theta: θ of a rule whose space has no parameters, a pretrained one for example; by default
        that of `rule.init`.
      progress: called with the numbers of batches done and to do.

    Returns:
      Index -> trial: `index`, `hyperparameters` (θ), `point`, `losses`, `heldout`, `diverged_at`.
      Numbers that are not finite are None.

    Raises:
      ValueError: the space is not one of the rule, the folder holds another study, a number out of
        range, or the test split.
    """
    if "test" in splits:
        raise ValueError("the test split is not for tuning; evaluate the winner on it")
    if num_trials < 1 or not 0 <= shard[0] < shard[1]:
        raise ValueError(f"num_trials ({num_trials}) must be at least 1 and shard {shard} n < of")
    theta = rule.init(jax.random.key(0)) if theta is None else theta
    if space.parameters:
        space.check(theta)
    lanes = lanes or default_lanes(rule, task)
    identity = {
        "space": space.identity,
        "workload": workload,
        "num_steps": num_steps,
        "seed": seed,
        "segments": segments,
        "splits": list(splits),
        "lanes": lanes,
        "theta": None if space.parameters else digest(theta),
    }
    store = TrialStore(folder, identity | {"definition": space.to_dict()}, shard=shard[0])
    done = store.trials()
    settings: dict[str, Any] = dict(num_steps=num_steps, segments=segments, splits=splits)
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
            result = run_lanes(rule, _stacked(thetas), task, jax.random.key(seed), **settings)
        else:
            thetas = [{} for _ in batch]
            result = _over_seeds(rule, theta, task, seed, batch, settings)
        store.append(
            [
                _record(i, points[lane], thetas[lane], result, lane)
                for lane, i in enumerate(batch)
                if i not in done and i < num_trials
            ]
        )
    progress(len(todo), len(todo))
    return {i: trial for i, trial in store.trials().items() if i < num_trials}


def digest(theta: Theta) -> str:
    """Tells θs apart."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(theta):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:16]


def _over_seeds(rule, theta, task, seed, batch, settings) -> Lanes:
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
        "diverged_at": None if result.diverged_at[lane] < 0 else int(result.diverged_at[lane]),
    }


def scores(
    trials: Mapping[int, Mapping[str, Any]], *, split: str = "valid", metric: str = "loss"
) -> np.ndarray:
    """The final scores of trials `[num_trials]`, infinity where one diverged.

    Args:
      trials: from `run_study`.
      split: the split.
      metric: its metric, where lower is better; 'error' is 1 − accuracy.

    Raises:
      ValueError: no trials.
    """
    if not trials:
        raise ValueError("there are no trials")
    found = []
    for trial in trials.values():
        values = trial["heldout"][split]
        last = values["accuracy" if metric == "error" else metric][-1]
        if trial["diverged_at"] is not None or last is None:
            found.append(math.inf)
        else:
            found.append(1 - last if metric == "error" else last)
    return np.array(found)
