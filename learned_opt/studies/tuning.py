"""Tuning: the search for a hyperparameter in a rule's θ, on a log grid.

Tuning draws its own problems: nothing of an evaluation with the same key is seen.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from learned_opt import evaluation
from learned_opt.types import Key, Task, Theta, UpdateRule
from learned_opt.unroll import check_arrays

_TUNING = 0x7475_6E65  # folded into the key: tuning's problems are not evaluation's


class Tuned(NamedTuple):
    """What a search found.

    Attributes:
      theta: θ with the best value in its place.
      name: the hyperparameter searched over.
      grid: the values tried, increasing, `[num_values]`.
      scores: the mean final loss of each, `[num_values]`; infinity where a run diverged.
      value: the best value.
      score: its score.
      on_edge: 'low' or 'high' where the best value is the lowest or highest one tried, else None.
    """

    theta: Theta
    name: str
    grid: np.ndarray
    scores: np.ndarray
    value: float
    score: float
    on_edge: Literal["low", "high"] | None


def log_grid(low: float, high: float, *, per_decade: int) -> np.ndarray:
    """Values 10^(k / per_decade), k a whole number, from about `low` to about `high`.

    Raises:
      ValueError: the ends are not positive and increasing, or `per_decade` is below one.

    Example:
      >>> log_grid(0.01, 0.1, per_decade=2)
      array([0.01      , 0.03162278, 0.1       ])
    """
    if not (0 < low <= high < math.inf):
        raise ValueError(f"a log grid needs 0 < low <= high, got {low} and {high}")
    if per_decade < 1:
        raise ValueError(f"per_decade must be at least 1, got {per_decade}")
    first, last = (round(math.log10(end) * per_decade) for end in (low, high))
    return 10.0 ** (np.arange(first, last + 1) / per_decade)


def tune(
    rule: UpdateRule,
    task: Task,
    key: Key,
    *,
    num_steps: int,
    num_seeds: int,
    low: float,
    high: float,
    per_decade: int = 8,
    name: str = "learning_rate",
    theta: Theta | None = None,
    split: str | None = "valid",
    window: int = 1,
    max_extensions: int = 3,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """Finds the value of one hyperparameter with the lowest mean final loss.

    While the best value lies on the grid's edge, the grid grows by a decade on that side. Every
    value meets the same problems, starts and minibatches.

    Args:
      rule: the update rule; its θ must have the scalar `name`.
      task: the task.
      key: where the problems come from. An evaluation with the same key meets other ones.
      num_steps: updates in a run.
      num_seeds: runs for each value.
      low: the lowest value at first.
      high: the highest value at first.
      per_decade: values a factor of ten.
      name: which entry of θ.
      theta: the other entries; by default those of `rule.init`.
      split: the split whose loss, after the last update, is the score; 'train' or 'valid'. None
        scores by the minibatch losses after the last `window` updates.
      window: see `split`.
      max_extensions: decades that may be added, both sides together.
      batch_size: runs that are vmapped, of all values and seeds; 1 does them one after another. By
        default what suits the device and the size of the problem.
      mesh: a mesh of this process's devices with a single axis, to spread the runs over; or None.
      progress: called with the numbers of runs done and planned.

    Returns:
      A `Tuned`. Where the best lies on the edge of the extended grid, `on_edge` says so; where
      every value diverged, the lowest one is returned with an infinite score.

    Raises:
      ValueError: a number out of range, an unknown `name`, or the test split.
    """
    theta = rule.init(jax.random.key(0)) if theta is None else theta
    if not isinstance(theta, dict) or name not in theta or jnp.ndim(theta[name]):
        raise ValueError(f"θ has no scalar {name!r} to tune")
    if split == "test":
        raise ValueError("the test split is not for tuning")
    for label, number in [("num_steps", num_steps), ("num_seeds", num_seeds), ("window", window)]:
        if number < 1:
            raise ValueError(f"{label} must be at least 1, got {number}")
    if window > num_steps:
        raise ValueError(f"window ({window}) must be at most num_steps ({num_steps})")
    check_arrays("task", task)
    grid = log_grid(low, high, per_decade=per_decade)
    total = len(grid) * num_seeds
    num_devices = mesh.size if mesh else 1
    batch_size = batch_size or evaluation.default_batch_size(rule, theta, task)
    lanes = num_devices * min(batch_size, math.ceil(total / num_devices))
    settings = dict(
        rule=rule, name=name, split=split, window=window, num_steps=num_steps, mesh=mesh
    )
    shared = evaluation.place((theta, task, jax.random.fold_in(key, _TUNING)), mesh)
    score = functools.partial(_score, settings, shared, num_seeds, lanes)
    scores = score(grid, lambda done: progress(done, total))
    for _ in range(max_extensions):
        edge = _edge(scores)
        if edge is None:
            break
        steps = np.arange(1, per_decade + 1)
        new = (
            grid[0] * 10 ** (-steps[::-1] / per_decade)
            if edge == "low"
            else grid[-1] * 10 ** (steps / per_decade)
        )
        done, total = total, total + len(new) * num_seeds
        new_scores = score(new, lambda n, done=done, total=total: progress(done + n, total))
        order = slice(None, None, 1 if edge == "low" else -1)
        grid = np.concatenate([new, grid][order])
        scores = np.concatenate([new_scores, scores][order])
    best = int(np.argmin(scores))
    theta = {**theta, name: jnp.asarray(grid[best], jnp.float32)}
    return Tuned(theta, name, grid, scores, float(grid[best]), float(scores[best]), _edge(scores))


def _edge(scores: np.ndarray) -> Literal["low", "high"] | None:
    best = int(np.argmin(scores))
    if best == 0:
        return "low"
    return "high" if best == len(scores) - 1 else None


def _score(settings, shared, num_seeds, lanes, values, progress) -> np.ndarray:
    """Mean final losses `[len(values)]`, not finite ones as infinity."""
    values = np.repeat(np.asarray(values, np.float32), num_seeds)
    seeds = np.tile(np.arange(num_seeds), len(values) // num_seeds)
    scores = []
    for start in range(0, len(values), lanes):
        # The last batch is filled up, so that there is one program.
        index = np.arange(start, start + lanes) % len(values)
        batch = evaluation.place((values[index], seeds[index]), settings["mesh"], lanes=True)
        scores.append(jax.device_get(_final_losses(batch, shared, **settings)))
        progress(min(start + lanes, len(values)))
    flat = np.concatenate(scores)[: len(values)]
    means = flat.reshape(-1, num_seeds).astype(np.float64).mean(axis=1)
    return np.where(np.isfinite(means), means, np.inf)


@functools.partial(
    jax.jit, static_argnames=("rule", "name", "split", "window", "num_steps", "mesh")
)
def _final_losses(lanes, shared, *, rule, name, split, window, num_steps, mesh):
    def one(lane, theta, task, key):
        value, seed = lane
        losses, heldout = evaluation.run(
            rule,
            {**theta, name: value},
            task,
            jax.random.fold_in(key, seed),
            num_steps=num_steps,
            eval_steps=(num_steps,) if split else (),
            splits=(split,) if split else (),
        )
        final = heldout[split]["loss"][0] if split else jnp.mean(losses[-window:])
        return jnp.where(jnp.isfinite(losses).all(), final, jnp.nan)

    return evaluation.spread(one, lanes, shared, mesh)
