"""What coordinatewise recurrent rules share: a state for each coordinate, and one step of all."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.types import Params, Theta


def check_sizes(hidden_sizes: Sequence[int], output_scale: float) -> tuple[int, ...]:
    """Checks the units of the layers and the factor on the output.

    Raises:
      ValueError: no layer, one without a unit, or a factor that is not positive and finite.
    """
    sizes = tuple(hidden_sizes)
    if not sizes or any(size < 1 for size in sizes):
        raise ValueError(f"hidden_sizes must be positive integers, got {sizes}")
    if not 0 < output_scale < float("inf"):
        raise ValueError(f"output_scale must be a positive finite number, got {output_scale}")
    return sizes


def zeros(params: Params, sizes: Sequence[int], dtype: Any, axis: int) -> tuple[Params, ...]:
    """A tree for each layer, shaped like the parameters with an axis of that layer's size."""

    def layer(size: int) -> Params:
        def like(p):  # derived from p, which gives it p's sharding
            return jnp.repeat(jnp.expand_dims(jnp.zeros_like(p, dtype), axis), size, axis=axis)

        return jax.tree.map(like, params)

    return tuple(layer(size) for size in sizes)


def step(
    apply: Callable[..., Any],
    theta: Theta,
    features: Callable[..., jax.Array],
    gradients: Params,
    memories: Sequence[Params],
    hidden: tuple[Params, ...],
    cell: tuple[Params, ...],
    axis: int,
) -> tuple[Params, tuple[Params, ...], tuple[Params, ...]]:
    """One step of an `lstm_network.LSTMNetwork` for every coordinate.

    Args:
      apply: the network, as `networks.functional` gives it.
      theta: its parameters. The arithmetic is done in their dtype.
      features: `features(g [...], *memories) -> [..., inputs]`; zero is put in its place where a
        coordinate has never had a gradient.
      gradients: the gradients, at least in θ's dtype.
      memories: more trees like them, for `features`.
      hidden: for each layer, a tree like them with features on `axis`.
      cell: the same for the cells.
      axis: where features are, −1 or 0.

    Returns:
      The network's outputs, a tree like the gradients, and the next `hidden` and `cell`.
    """
    dtype = jnp.result_type(*jax.tree.leaves(theta))
    leaves: list[Any] = jax.tree.leaves(gradients)
    treedef: Any = jax.tree.structure(gradients)
    by_leaf = [zip(*map(jax.tree.leaves, trees), strict=True) for trees in (hidden, cell)]
    more = [jax.tree.leaves(tree) for tree in memories]
    outputs, new_hidden, new_cell = [], [], []
    for n, (g, h, c) in enumerate(zip(leaves, *by_leaf, strict=True)):
        seen = (g != 0) | (c[0] != 0).any(axis)
        x = features(g, *(tree[n] for tree in more)).astype(dtype)
        x = jnp.where(jnp.expand_dims(seen, axis), x, 0)
        out, h, c = apply(theta, x, h, c, seen.astype(dtype), axis)
        outputs.append(out)
        new_hidden.append(h)
        new_cell.append(c)

    def by_layer(found: list) -> tuple[Params, ...]:
        return tuple(treedef.unflatten([x[k] for x in found]) for k in range(len(hidden)))

    return treedef.unflatten(outputs), by_layer(new_hidden), by_layer(new_cell)


def wide(gradients: Params, theta: Theta) -> Params:
    """Gradients as arrays of θ's dtype at least."""
    dtype = jnp.result_type(*jax.tree.leaves(theta))
    return jax.tree.map(
        lambda g: jnp.asarray(g, jnp.promote_types(jnp.result_type(g), dtype)), gradients
    )


def as_updates(outputs: Params, scale: float, like: Params) -> Params:
    """Outputs times a factor, in the dtypes of `like`."""
    return jax.tree.map(lambda u, g: (scale * u).astype(jnp.result_type(g)), outputs, like)
