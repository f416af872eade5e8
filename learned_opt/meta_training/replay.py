"""The first-order meta-gradient as a sequence problem: record gradients, then replay the rule.

Where gradients are inputs of the rule and are not differentiated, the meta-gradient of
Σ_t w_t f_t(params_t(θ)) equals that of Σ_t w_t ⟨g_t, params_t(θ)⟩ with the recorded gradients
g_t = ∇f_t(params_t). The roll-out then needs no derivative, nothing of the task is differentiated
twice, and for coordinatewise rules the coordinates are independent: they can be replayed block by
block, each block staying in cache, and even by a sample of them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.meta_training.problems import at_least_float32, flat_transform, inner_transform
from learned_opt.types import InnerState, Key, Params, Task, Theta, UpdateRule
from learned_opt.unroll import checked_loss, inner_step

Transform: TypeAlias = Callable[[Theta], optax.GradientTransformation]


class Recorded(NamedTuple):
    """A segment of T steps as the rule saw it.

    Attributes:
      inputs: g_0 … g_{T−1}, what the rule was fed, `[T, ...]` a leaf.
      pulls: w_1 g_1 … w_T g_T, which each pull at the parameters after one more update.
      params: the parameters before the first update.
      opt_state: the rule's state then.
      losses: f_0 … f_{T−1} `[T]`, for rules that look at the loss; None for coordinatewise ones.
    """

    inputs: Params
    pulls: Params
    params: Params
    opt_state: optax.OptState
    losses: jax.Array | None = None


def record(
    task: Task,
    tx: optax.GradientTransformation,
    inner: InnerState,
    key: Key,
    *,
    length: int,
    weights: jax.Array | None = None,
    split: str = "train",
    keep_losses: bool = False,
) -> tuple[Recorded, InnerState, jax.Array]:
    """Rolls a problem out over one segment.

    Args:
      task: the task.
      tx: the rule's transformation.
      inner: the problem at the start of the segment.
      key: step t draws its minibatch from `fold_in(key, t)`.
      length: T, the steps of the segment.
      weights: w_1 … w_T, what the losses after each update count; None for all 1.
      split: whose minibatches give the losses that pull; the rule is fed those of 'train' alone.
        With 'train' they are the same gradients, one step later; else each takes one of its own.
      keep_losses: whether the rule looks at the loss.

    Returns:
      The record, the problem at the segment's end, and the losses after each update `[T]`, in
      float32 at least.
    """
    loss_and_grad = jax.value_and_grad(checked_loss, argnums=1)

    def pull_at(inner, t):
        key_t = jax.random.fold_in(key, t)
        return loss_and_grad(task, inner.params, inner.instance, key_t, split)

    def step(inner, t):
        inner, seen = inner_step(tx, task, inner, jax.random.fold_in(key, t))
        return inner, (seen, None if split == "train" else pull_at(inner, t + 1))

    last, ((seen_losses, grads), pulled) = jax.lax.scan(step, inner, jnp.arange(length))
    if pulled is None:
        # The loss after the last update is still to be counted: one more gradient.
        loss, grad = pull_at(last, length)
        losses = jnp.concatenate([seen_losses[1:], loss[None]])
        pulls = jax.tree.map(lambda gs, g: jnp.concatenate([gs[1:], g[None]]), grads, grad)
    else:
        losses, pulls = pulled
    if weights is not None:
        pulls = jax.vmap(optax.tree.scale)(weights, pulls)
    kept = seen_losses if keep_losses else None
    recorded = Recorded(grads, pulls, inner.params, inner.opt_state, kept)
    return recorded, last, at_least_float32(losses)


def sample(
    rule: UpdateRule, theta: Theta, recorded: Recorded, key: Key, sizes: Any, fraction: float
) -> Recorded:
    """A share of the coordinates of a record of flat parameters, weighted by the inverse.

    `sizes` are those of `problems.FlatTask`.
    """
    if rule.parts:
        parts = [
            sample(part, theta[k], _of(recorded, k), jax.random.fold_in(key, n), sizes[k], fraction)
            for n, (k, part) in enumerate(rule.parts)
        ]
        labels = [label for label, _ in rule.parts]
        inputs, pulls, params, opt_state, _ = (
            dict(zip(labels, field, strict=True)) for field in zip(*parts, strict=True)
        )
        return Recorded(inputs, pulls, params, opt_state)
    kept, weight = _draw_coordinates(key, sizes, fraction)
    tx = flat_transform(rule)(theta)
    some = _per_coordinate(lambda x: x[..., kept], tx, recorded)
    return some._replace(pulls=some.pulls * weight)


def gradient(rule: UpdateRule, theta: Theta, recorded: Recorded, *, block_size: int = 0) -> Any:
    """The gradient with respect to θ of Σ_t ⟨pull_t, params_t(θ)⟩ for recorded gradients.

    Args:
      rule: the rule; of a coordinatewise one the record is of flat parameters.
      theta: θ.
      recorded: the record.
      block_size: coordinates of flat parameters that are replayed together; 0 for all.
    """
    if rule.parts and rule.coordinatewise:
        return {
            label: gradient(part, theta[label], _of(recorded, label), block_size=block_size)
            for label, part in rule.parts
        }
    transform = inner_transform(rule)
    if rule.coordinatewise and block_size and block_size < recorded.params.size:
        # A block is small enough to keep its matrix products for the way back.
        policy = jax.checkpoint_policies.dots_saveable
        one_block = functools.partial(_replay, transform, theta, policy=policy)
        return _blockwise(transform(theta), theta, recorded, block_size, one_block)
    return _replay(transform, theta, recorded)


def _of(recorded: Recorded, label: str) -> Recorded:
    """The record of one part."""
    inputs, pulls, params, opt_state, _ = recorded
    return Recorded(inputs[label], pulls[label], params[label], opt_state[label])


def _draw_coordinates(
    key: Key, sizes: Sequence[int], fraction: float, at_least: int = 256
) -> tuple[jax.Array, np.ndarray]:
    """Draws coordinates of the flat parameters, without replacement within each leaf.

    Of a leaf with n coordinates `max(fraction · n, at_least)` are kept, so that small leaves
    (biases, output layers), which matter more than their size, are kept whole.

    Returns:
      The indices and, for each, the inverse of its probability of being kept.
    """
    indices, weights, start = [], [], 0
    for n, size in enumerate(sizes):
        kept = min(size, max(math.ceil(fraction * size), at_least))
        order = jnp.arange(size)
        if kept < size:
            order = jax.random.permutation(jax.random.fold_in(key, n), size)[:kept]
        indices.append(start + order)
        weights.append(np.full(kept, size / max(kept, 1), np.float32))
        start += size
    return jnp.concatenate(indices), np.concatenate(weights)


def _replay(
    transform: Transform,
    theta: Theta,
    recorded: Recorded,
    *,
    policy: Callable[..., Any] | None = None,
) -> Theta:
    """The gradient with respect to θ of Σ_{t=1…T} ⟨pull_t, params_t(θ)⟩ for recorded gradients.

    `policy` says what of a step is kept for the way back, by default nothing.
    """

    def surrogate(theta):
        tx = optax.with_extra_args_support(transform(theta))

        @functools.partial(jax.checkpoint, policy=policy)
        def step(carry, seen_at_t):
            params, opt_state = carry
            g, pull, loss = seen_at_t
            seen = {} if loss is None else {"value": loss, "grad": g}
            updates, opt_state = tx.update(g, opt_state, params, **seen)
            params = optax.apply_updates(params, updates)
            wide = jax.tree.map(at_least_float32, (pull, params))
            return (params, opt_state), optax.tree.vdot(*wide)

        start = (recorded.params, recorded.opt_state)
        sequence = (recorded.inputs, recorded.pulls, recorded.losses)
        return jax.lax.scan(step, start, sequence)[1].sum()

    return jax.grad(surrogate)(theta)


def all_per_coordinate(rule: UpdateRule, theta: Theta, opt_state: optax.OptState) -> bool:
    """Whether a coordinatewise rule's state is shaped like the parameters: no step counts."""
    if rule.parts:
        return all(all_per_coordinate(part, theta[k], opt_state[k]) for k, part in rule.parts)
    marks = optax.tree.map_params(
        flat_transform(rule)(theta),
        lambda _: True,
        opt_state,
        transform_non_params=lambda _: False,
    )
    return all(jax.tree.leaves(marks))


def _per_coordinate(fn, tx, recorded: Recorded, shared=lambda x: x) -> Recorded:
    """Applies `fn` to all that has a last axis of coordinates, and `shared` to the rest."""
    return Recorded(
        inputs=fn(recorded.inputs),
        pulls=fn(recorded.pulls),
        params=fn(recorded.params),
        opt_state=optax.tree.map_params(tx, fn, recorded.opt_state, transform_non_params=shared),
    )


def _blockwise(tx, theta: Theta, recorded: Recorded, size: int, one_block) -> Theta:
    """Adds up `one_block` over blocks of `size` coordinates of the flat parameters.

    The last block is padded with copies of the last coordinate that nothing pulls at: they
    contribute zero, and are as differentiable as a real one (the square root in Adam is not at 0).
    """
    num_coordinates = recorded.params.size
    num_blocks = -(-num_coordinates // size)
    padding = num_blocks * size - num_coordinates
    recorded = _per_coordinate(
        lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)], mode="edge"), tx, recorded
    )
    real = jnp.arange(num_blocks * size) < num_coordinates
    recorded = recorded._replace(pulls=jnp.where(real, recorded.pulls, 0))

    def split(x: jax.Array) -> jax.Array:  # [..., P] -> [blocks, ..., size]
        return jnp.moveaxis(x.reshape(*x.shape[:-1], num_blocks, size), -2, 0)

    def share(x: jax.Array) -> jax.Array:  # step counts and the like: the same for every block
        return jnp.broadcast_to(x, (num_blocks, *jnp.shape(x)))

    def block(total, recorded):
        return jax.tree.map(jnp.add, total, one_block(recorded)), None

    zeros = jax.tree.map(jnp.zeros_like, theta)
    return jax.lax.scan(block, zeros, _per_coordinate(split, tx, recorded, share))[0]
