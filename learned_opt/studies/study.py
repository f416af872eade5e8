"""Tuning studies: many trials of a rule's hyperparameters as one compiled program.

A trial is a point of a search space, known by (space, seed, index). Trials are lanes of one vmapped
run (`lanes`).

Finished trials are kept in a folder, a line of JSON each. A study that was killed goes on where it
stopped; one of 50 trials is extended to 100; several machines may share a folder.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from learned_opt.studies.lanes import Lanes, default_lanes, run_lanes
from learned_opt.studies.spaces import SearchSpace, check_seed
from learned_opt.studies.trials import TrialStore, read_identity
from learned_opt.types import Task, Theta, UpdateRule
from learned_opt.unroll import check_arrays


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
    patience: int | None = None,
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
      patience: of early stopping in every trial, see `run_lanes`; None: none.
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
    check_seed(seed)
    check_arrays("task", task)
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
    identity |= {} if patience is None else {"patience": patience}
    store = TrialStore(folder, identity | {"definition": space.to_dict()}, shard=shard[0])
    done = store.trials()
    settings: dict[str, Any] = dict(
        num_steps=num_steps,
        num_seeds=num_seeds,
        segments=segments,
        splits=splits,
        report=report,
        patience=patience,
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
