"""Norms, checks and choices of whole trees: reductions to scalars, and nothing else is shared."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.types import Params, Scalar


def select(condition: Scalar, a: Any, b: Any) -> Any:
    """The tree `a` where the condition holds, else `b`; nothing of the other leaks."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _wide(x: Any) -> jax.Array:
    """In float32 at least, and real: the larger part of a complex number."""
    if jnp.iscomplexobj(x):
        x = jnp.maximum(jnp.abs(jnp.real(x)), jnp.abs(jnp.imag(x)))
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def within_limit(grads: Params) -> Scalar:
    """Whether no gradient is NaN, infinite or so large that sums of its squares overflow."""

    def within(g):
        g = _wide(g)
        return jnp.all(jnp.abs(g) <= float(jnp.finfo(g.dtype).max) ** 0.4)

    return functools.reduce(jnp.logical_and, map(within, jax.tree.leaves(grads)), jnp.array(True))


def all_finite(tree: Params) -> Scalar:
    """Whether no element is NaN or infinite."""
    flags = (jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree))
    return functools.reduce(jnp.logical_and, flags, jnp.array(True))


def _square_norm(tree: Params) -> Scalar:
    """In float32; infinite where it is too large for that."""

    def square(x):
        parts = (jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else (x,)
        return sum(jnp.sum(jnp.square(jnp.asarray(part, jnp.float32))) for part in parts)

    return sum(map(square, jax.tree.leaves(tree)), jnp.zeros((), jnp.float32))


def within_ratio(proposed: Params, safe: Params, max_ratio: float) -> Scalar:
    """Whether one update is at most so many times as long as the other, unless that is zero."""
    norm, safe_norm = jnp.sqrt(_square_norm(proposed)), jnp.sqrt(_square_norm(safe))
    return (safe_norm == 0) | (norm <= max_ratio * safe_norm)


def reaches(params: Params, updates: Params, target: Params) -> Scalar:
    """Whether params + updates is the target but for rounding."""
    reached = jax.tree.map(lambda p, u: jnp.asarray(p + u, jnp.result_type(p)), params, updates)
    off = _square_norm(jax.tree.map(jnp.subtract, reached, target))
    return off <= 1e-4 * _square_norm(target)


def finite_sum(param: Any, update: jax.Array) -> jax.Array:
    """The update where the sum is finite, else zero."""
    reached = jnp.asarray(param + update, jnp.result_type(param))
    return jnp.where(jnp.isfinite(reached), update, jnp.zeros_like(update))
