"""Optimizers on one content after another of a style transfer task, kept as they finish."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.lbfgs import gradients_taken
from learned_opt import evaluation
from learned_opt.tasks import StyleTransfer
from learned_opt.tasks.style_transfer import as_picture
from learned_opt.types import InnerState, Theta, UpdateRule
from learned_opt.unroll import fast_transform, inner_step


class Runs(NamedTuple):
    """What a rule did, one run a content.

    Attributes:
      losses: `[contents, num_steps + 1]`, after 0 … num_steps updates.
      gradients: int32 `[contents, num_steps + 1]`, gradients taken until then.
      pictures: uint8 `[shown, marks, height, width, 3]`, of some contents in their order.
    """

    losses: np.ndarray
    gradients: np.ndarray
    pictures: np.ndarray

    def at_gradients(self, number: int) -> np.ndarray:
        """The losses of the last update that had taken no more than so many gradients."""
        rows = np.arange(len(self.losses))
        return self.losses[rows, (self.gradients <= number).sum(axis=1) - 1]


def run_contents(
    rule: UpdateRule,
    theta: Theta,
    task: StyleTransfer,
    *,
    num_contents: int,
    num_steps: int,
    marks: tuple[int, ...],
    shown: tuple[int, ...],
    file: Path,
    identity: str,
    mesh: jax.sharding.Mesh | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Runs:
    """Runs a rule on the first contents of a task; content n has style n modulo their number.

    Args:
      rule: the update rule.
      theta: its θ.
      task: the task.
      num_contents: the contents.
      num_steps: updates.
      marks: numbers of updates after which pictures are kept.
      shown: the numbers of the contents whose pictures are kept.
      file: an .npz file for what is finished; where it is there, the runs go on from it.
      identity: tells θs apart; a file of another one is started afresh.
      mesh: the devices to spread the contents over, or None.
      progress: called with the number of contents done.
    """
    done = _load(file, identity)
    chunk = mesh.size if mesh else 1
    placed = evaluation.place((theta, task), mesh)
    while (start := 0 if done is None else len(done.losses)) < num_contents:
        numbers = np.arange(start, start + chunk)
        lanes = evaluation.place(jnp.asarray(numbers), mesh, lanes=True)
        losses, gradients, kept = jax.device_get(
            _run_chunk(rule, *placed, lanes, num_steps=num_steps, marks=marks, mesh=mesh)
        )
        # The last chunk may go over the end, so that there is one program.
        new = numbers < num_contents
        pictures = as_picture(kept[new & np.isin(numbers, shown)])
        fresh = Runs(losses[new], gradients[new], pictures)
        done = fresh if done is None else Runs(*map(_joined, done, fresh))
        _save(file, identity, done)
        progress(len(done.losses))
    assert done is not None
    return done


@functools.partial(jax.jit, static_argnames=("rule", "num_steps", "marks", "mesh"))
def _run_chunk(rule, theta, task, numbers, *, num_steps, marks, mesh):
    def one(number, theta, task):
        tx, key = fast_transform(rule, theta), jax.random.key(0)  # nothing is drawn with it
        instance = task.instance(number % len(task.contents), number % len(task.styles))
        params = task.init(key, instance)

        def step(carry, t):
            state, kept = carry
            state, (loss, _) = inner_step(tx, task, state, key)
            here = (jnp.asarray(marks) == t + 1)[:, None, None, None]
            return (state, jnp.where(here, state.params, kept)), (
                loss,
                gradients_taken(state.opt_state),
            )

        start = InnerState(instance, params, tx.init(params))
        kept = jnp.broadcast_to(params, (len(marks), *params.shape))
        (last, kept), (losses, taken) = jax.lax.scan(step, (start, kept), jnp.arange(num_steps))
        end = task.loss(last.params, instance, key)
        gradients = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(taken)])
        return jnp.append(losses, end), gradients, kept

    return evaluation.spread(one, numbers, (theta, task), mesh, alone=True)


def _joined(a: Any, b: Any) -> np.ndarray:
    return np.concatenate([a, b])


def _save(file: Path, identity: str, runs: Runs) -> None:
    temporary = file.with_name(f"{file.stem}.partial.npz")
    np.savez(temporary, identity=identity, **runs._asdict())
    os.replace(temporary, file)


def _load(file: Path, identity: str) -> Runs | None:
    try:
        with np.load(file) as kept:
            if str(kept["identity"]) != identity:
                return None
            return Runs(**{name: kept[name] for name in Runs._fields})
    except (OSError, ValueError, KeyError):
        return None
