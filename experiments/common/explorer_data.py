"""What the explorer shows, recorded: ways over surfaces, and a training with its steps."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.common.build import load_rule, make_task
from experiments.common.names import display_name
from learned_opt import evaluation
from learned_opt.figures import explorer
from learned_opt.studies.trajectories import Ways, at_rate, ways
from learned_opt.tasks import Surface
from learned_opt.types import UpdateRule


def start_grid(surface: Surface, side: int) -> np.ndarray:
    """Starts on a grid inside of the map, rows from the top down, `[side², 2]`.

    The one next to the surface's own start is replaced by that.
    """
    inside = (np.arange(side) + 0.5) / side
    x, y = (low + (high - low) * inside for low, high in surface.window)
    grid = np.stack(np.meshgrid(x, y[::-1]), axis=-1).reshape(-1, 2)
    nearest = np.argmin(np.sum((grid - surface.start) ** 2, axis=1))
    grid[nearest] = surface.start
    return grid


def record_surface(
    surface: Surface,
    rules: Sequence[tuple[str, Sequence[float]]],
    *,
    side: int,
    num_steps: int,
    report: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Follows every rule from every start at every rate, packed.

    Args:
      surface: the surface.
      rules: pairs (name, rates).
      side: of the grid of starts.
      num_steps: updates.
      report: called after each rule.

    Returns:
      `window`, `box`, `minima`, `starts`, `map`, and `ways`: rule -> `memory`, the names of what is
      remembered, and `data`: points, losses and memories, packed in this order.
    """
    starts = start_grid(surface, side)
    low, high = explorer.box(surface.window)
    found: dict[str, Any] = {}
    for name, rates in rules:
        rule, theta = load_rule(name)
        found[name] = _packed(
            ways(rule, theta, surface, starts, rates, num_steps=num_steps), surface
        )
        report()
    nearest = np.argmin(np.sum((starts - surface.start) ** 2, axis=1))
    return {
        "window": surface.window,
        "box": [list(low), list(high)],
        "minima": surface.minima,
        "starts": [[round(float(v), 4) for v in start] for start in starts],
        "first": int(nearest),
        "map": explorer.pack_bytes([explorer.bands(surface)]),
        "ways": found,
    }


def _packed(found: Ways, surface: Surface) -> dict[str, Any]:
    """Arrays `[rates, starts, …, T + 1]`: x and y before the steps, so that they change slowly."""
    points = np.moveaxis(explorer.pack_points(found.points, surface.window), -1, -2)
    memories = [np.moveaxis(explorer.pack_numbers(m), -1, -2) for m in found.memory.values()]
    return {
        "memory": list(found.memory),
        "data": explorer.pack_bytes([points, explorer.pack_numbers(found.losses), *memories]),
    }


def record_training(
    task: dict[str, Any],
    rules: Sequence[tuple[str, float]],
    *,
    num_steps: int,
    seed: int,
    data_dir: str | None,
    report: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains a network with every rule, and counts how long the weights' steps are.

    Args:
      task: a task's config.
      rules: pairs (name, rate).
      num_steps: updates.
      seed: of starts and minibatches, the same for every rule.
      data_dir: folder of TFDS data sets.
      report: called after each rule.

    Returns:
      `edges`, decades of |step|; `parameters`; and `runs`: rule -> `rate`, minibatch `losses`
      and `counts`, a byte a bin: 255 times its share of the weights, over the largest of the run.
    """
    network = make_task(task, data_dir)
    edges = np.linspace(-7, 0, 43)
    runs, size = {}, 0
    for name, rate in rules:
        rule, theta = load_rule(name)
        at = UpdateRule(rule.init, lambda theta, rule=rule, rate=rate: at_rate(rule, theta, rate))
        params, losses = evaluation.trajectory(
            at, theta, network, jax.random.key(seed), num_steps=num_steps
        )
        flat = np.concatenate(
            [np.asarray(p, np.float64).reshape(num_steps + 1, -1) for p in jax.tree.leaves(params)],
            axis=1,
        )
        size = flat.shape[1]
        counts = step_counts(np.diff(flat, axis=0), edges)
        peak = counts.max()
        runs[name] = {
            "rate": rate,
            "peak": float(peak),
            "losses": explorer.pack_bytes([explorer.pack_numbers(losses)]),
            "counts": explorer.pack_bytes([np.round(255 * counts / peak).astype(np.uint8)]),
        }
        report()
    return {"edges": [float(edges[0]), float(edges[-1])], "parameters": size, "runs": runs}


def step_counts(steps: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Shares of weights by the length of their step.

    Args:
      steps: `[T, weights]`.
      edges: increasing decimal logarithms of |step|, `[bins + 1]`; what is shorter counts in the
        first bin, what is longer in the last; a step of exactly zero counts nowhere.

    Returns:
      `[T, bins]`.
    """
    with np.errstate(divide="ignore"):
        decades = np.log10(np.abs(steps))
    inner = np.clip(decades, edges[0], np.nextafter(edges[-1], -np.inf))
    inner = np.where(np.isfinite(decades), inner, np.nan)
    counts = np.stack([np.histogram(row[~np.isnan(row)], edges)[0] for row in inner])
    return counts / steps.shape[1]


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How rules are called and drawn."""
    return explorer.rule_styles({name: display_name(name) for name in names})
