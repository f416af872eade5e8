"""The same training on several samples of the data: every lane has examples of its own.

Error bars over starts and minibatches alone say nothing about other training and test examples;
those of lanes that draw their examples too do, as far as samples of one data set can.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.studies.spaces import check_seed
from learned_opt.tasks import Classifier
from learned_opt.tasks.checks import positive
from learned_opt.types import Key, Task, Theta, UpdateRule
from learned_opt.unroll import fast_transform, init_inner, inner_step


class Curves(NamedTuple):
    """Learning curves of every θ on every sample.

    Attributes:
      steps: updates done at each check, from 0 to `num_steps`, int `[checks + 1]`.
      heldout: split -> metric -> `[thetas, samples, checks + 1]`; NaN once the loss on that split
        was not finite.
    """

    steps: np.ndarray
    heldout: dict[str, dict[str, np.ndarray]]


def resample(
    task: Classifier,
    sizes: Mapping[str, int],
    num_samples: int,
    *,
    seed: int = 0,
    train_sizes: Sequence[int] = (),
) -> Classifier:
    """Draws new splits from all examples of a task, several times.

    A sample is a random permutation of all examples, cut into splits; no example is in two splits.
    With `train_sizes` each sample comes with several training sets, the first so many of its
    training examples; they are repeated to fill the same shape, which changes nothing for
    minibatches drawn with replacement.

    Args:
      task: the task, whose splits are thrown together.
      sizes: split -> examples of it.
      num_samples: samples.
      seed: of the permutations.
      train_sizes: sizes of training sets that divide `sizes['train']`; by default it alone.

    Returns:
      The tasks, stacked: leaves `[samples, n, …]`; of several training sizes, all samples of the
      first one come first.

    Raises:
      ValueError: more examples than there are, a training size that does not divide, or minibatches
        larger than the smallest training set.
    """
    check_seed(seed)
    num_samples = positive("num_samples", num_samples)
    images = np.concatenate([np.asarray(task.images[s]) for s in task.images])
    labels = np.concatenate([np.asarray(task.labels[s]) for s in task.images])
    total = sum(positive(f"sizes[{split!r}]", size) for split, size in sizes.items())
    if total > len(labels):
        raise ValueError(f"sizes ask for {total} examples, but there are {len(labels)}")
    for size in train_sizes or (sizes["train"],):
        if sizes["train"] % positive("train_sizes", size):
            raise ValueError(f"train size {size} must divide sizes['train'] ({sizes['train']})")
        if task.batch_size > size:
            raise ValueError(f"batch_size {task.batch_size} is larger than a train size of {size}")
    rng = np.random.default_rng(seed)
    ends = np.cumsum(list(sizes.values()))[:-1]
    cuts = [np.split(rng.permutation(len(labels))[:total], ends) for _ in range(num_samples)]
    rows = {
        split: np.stack(found) for split, found in zip(sizes, zip(*cuts, strict=True), strict=True)
    }
    repeats = len(train_sizes) or 1
    for split in rows:
        parts = [rows[split]] * repeats
        if split == "train" and train_sizes:
            parts = [np.tile(rows[split][:, :n], (1, sizes[split] // n)) for n in train_sizes]
        rows[split] = np.concatenate(parts)
    return dataclasses.replace(
        task,
        images={split: jnp.asarray(images[r]) for split, r in rows.items()},
        labels={split: jnp.asarray(labels[r]) for split, r in rows.items()},
    )


def as_it_is(task: Task) -> Task:
    """The task itself."""
    return task


def run_samples(
    rule: UpdateRule,
    thetas: Theta,
    tasks: Task,
    key: Key,
    *,
    num_steps: int,
    checks: int,
    splits: Sequence[str] = ("train", "valid", "test"),
    num_keys: int | None = None,
    change: Callable[[Task], Task] = as_it_is,
) -> Curves:
    """Runs a rule with every θ on every sample, one after another in one compiled program.

    Sample n draws its start and minibatches from `fold_in(key, n)`, whatever the rule and θ.

    Args:
      rule: the update rule.
      thetas: θs, stacked: leaves `[thetas, …]`.
      tasks: tasks, stacked: leaves `[samples, …]`, as from `resample`.
      key: where starts and minibatches come from.
      num_steps: updates.
      checks: how often all splits are measured, evenly spaced; divides them. And at the start.
      splits: what is measured.
      num_keys: keys in all, after which they repeat: the number of permutations, where samples
        come with several training sets. By default as many as samples.
      change: makes another task of each, such as a regularized one; static, so keep it.

    Raises:
      ValueError: `checks` that do not divide `num_steps`.
    """
    if num_steps % positive("checks", checks):
        raise ValueError(f"checks ({checks}) must divide num_steps ({num_steps})")
    count = len(jax.tree.leaves(tasks)[0])
    index = jnp.arange(count) % (num_keys or count)
    heldout = _run(
        rule,
        thetas,
        tasks,
        jax.vmap(jax.random.fold_in, (None, 0))(key, index),
        settings=(num_steps // checks, checks, tuple(splits)),
        change=change,
    )
    heldout = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(heldout))
    for metrics in heldout.values():
        lost = ~np.isfinite(metrics["loss"])
        for values in metrics.values():
            values[lost] = np.nan
    return Curves(np.arange(checks + 1) * (num_steps // checks), heldout)


@functools.partial(jax.jit, static_argnames=("rule", "settings", "change"))
def _run(rule, thetas, tasks, keys, *, settings, change):
    segment_steps, checks, splits = settings

    def one(theta, task, key):
        task = change(task)
        tx = fast_transform(rule, theta)
        key_start, key_run = jax.random.split(key)

        def step(inner, t):
            return inner_step(tx, task, inner, jax.random.fold_in(key_run, t))[0], None

        def go(inner, n):
            steps = (n - 1) * segment_steps + jnp.arange(segment_steps)
            return jax.lax.scan(step, inner, steps)[0]

        def segment(inner, n):
            inner = jax.lax.cond(n > 0, go, lambda inner, n: inner, inner, n)  # first the start
            return inner, {s: task.evaluate(inner.params, inner.instance, s) for s in splits}

        return jax.lax.scan(segment, init_inner(tx, task, key_start), jnp.arange(checks + 1))[1]

    def over_samples(theta):
        return jax.lax.map(lambda lane: one(theta, *lane), (tasks, keys))

    return jax.lax.map(over_samples, thetas)
