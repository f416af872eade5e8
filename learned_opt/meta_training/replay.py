"""The first-order meta-gradient as a sequence problem: record gradients, then replay the rule.

Where gradients are inputs of the rule and are not differentiated, the meta-gradient of
Σ_t w_t f_t(params_t(θ)) equals that of Σ_t w_t ⟨g_t, params_t(θ)⟩ with the recorded gradients
g_t = ∇f_t(params_t). The roll-out then needs no derivative, nothing of the task is differentiated
twice, and for coordinatewise rules the coordinates are independent: they can be replayed block by
block, each block staying in cache, and even by a sample of them.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.types import InnerState, Key, Params, Theta, UpdateRule
from learned_opt.unroll import inner_step


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
    estimator: Any,
    task: Any,
    tx: optax.GradientTransformation,
    inner: InnerState,
    key: Key,
    weights: jax.Array | None = None,
) -> tuple[Recorded, InnerState, jax.Array]:
    """Rolls a problem out over one segment.

    Args:
      estimator: a `TruncatedBPTT`, for `unroll_length` and `replay_fraction`.
      task: the task, of flat parameters if the rule is coordinatewise.
      tx: the rule's transformation.
      inner: the problem at the start of the segment.
      key: step t draws its minibatch from `fold_in(key, t)`.
      weights: w_1 … w_T, what the losses after each update count; None for all 1.

    Returns:
      The record, the problem at the segment's end, and the losses after each update `[T]`.
    """
    length = estimator.unroll_length

    def step(inner, t):
        return inner_step(tx, task, inner, jax.random.fold_in(key, t))

    last, (losses, grads) = jax.lax.scan(step, inner, jnp.arange(length))
    # The loss after the last update is still to be counted: one more gradient.
    loss, grad = jax.value_and_grad(task.loss)(
        last.params, last.instance, jax.random.fold_in(key, length)
    )
    pulls = jax.tree.map(lambda gs, g: jnp.concatenate([gs[1:], g[None]]), grads, grad)
    if weights is not None:
        pulls = jax.vmap(optax.tree.scale)(weights, pulls)
    seen = None if estimator.rule.coordinatewise else losses
    recorded = Recorded(grads, pulls, inner.params, inner.opt_state, seen)
    if estimator.replay_fraction < 1:
        key_draw = jax.random.fold_in(key, length + 1)
        kept, weight = _draw_coordinates(key_draw, task.sizes, estimator.replay_fraction)
        recorded = _per_coordinate(lambda x: x[..., kept], tx, recorded)
        recorded = recorded._replace(pulls=recorded.pulls * weight)
    return recorded, last, jnp.concatenate([losses[1:], loss[None]])


def gradient(
    estimator: Any, tx: optax.GradientTransformation, theta: Theta, recorded: Recorded
) -> Theta:
    """The meta-gradient of a recorded segment, in blocks if the rule is coordinatewise."""
    one_block = functools.partial(_replay, estimator.rule, theta)
    size = estimator.block_size
    if estimator.rule.coordinatewise and 0 < size < recorded.params.size:
        return _blockwise(tx, theta, recorded, size, one_block)
    return one_block(recorded)


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


def _replay(rule: UpdateRule, theta: Theta, recorded: Recorded) -> Theta:
    """The gradient with respect to θ of Σ_{t=1…T} ⟨pull_t, params_t(θ)⟩ for recorded gradients."""

    def surrogate(theta):
        tx = optax.with_extra_args_support(rule.transform(theta))

        @jax.checkpoint
        def step(carry, seen_at_t):
            params, opt_state = carry
            g, pull, loss = seen_at_t
            seen = {} if loss is None else {"value": loss, "grad": g}
            updates, opt_state = tx.update(g, opt_state, params, **seen)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), optax.tree.vdot(pull, params)

        start = (recorded.params, recorded.opt_state)
        sequence = (recorded.inputs, recorded.pulls, recorded.losses)
        return jax.lax.scan(step, start, sequence)[1].sum()

    return jax.grad(surrogate)(theta)


def all_per_coordinate(tx: optax.GradientTransformation, opt_state: optax.OptState) -> bool:
    """Whether an optimizer's state is shaped like the parameters throughout: no step counts."""
    marks = optax.tree.map_params(
        tx, lambda _: True, opt_state, transform_non_params=lambda _: False
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
