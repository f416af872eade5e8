"""Norms, checks and choices of whole trees: reductions to scalars, and nothing else is shared."""

from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.types import Params, Scalar


def select(condition: Scalar, a: Any, b: Any) -> Any:
    """The tree `a` where the condition holds, else `b`; nothing of the other leaks."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def with_counts_of(now: Any, before: Any) -> Any:
    """The state `before`, but with its integers, which count steps, as they are `now`."""

    def leaf(x, y):
        return x if jnp.issubdtype(jnp.result_type(x), jnp.signedinteger) else y

    return jax.tree.map(leaf, now, before)


def square_norm(tree: Params) -> Scalar:
    """The square of the norm, in float32 at least."""

    def square(x):
        dtype = jnp.promote_types(jnp.finfo(jnp.result_type(x)).dtype, jnp.float32)
        parts = (jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else (x,)
        return sum(jnp.sum(jnp.square(jnp.asarray(part, dtype))) for part in parts)

    return sum(map(square, jax.tree.leaves(tree)), jnp.zeros((), jnp.float32))


def within_limit(grads: Params) -> Scalar:
    """Whether the gradient is finite, and not so large that sums of its squares overflow."""
    square = square_norm(grads)
    return square <= float(jnp.finfo(square.dtype).max) ** 0.8


def reaches(params: Params, updates: Params, target: Params) -> Scalar:
    """Whether params + updates is the target but for rounding."""
    reached = jax.tree.map(lambda p, u: jnp.asarray(p + u, jnp.result_type(p)), params, updates)
    off = square_norm(jax.tree.map(jnp.subtract, reached, target))
    return off <= 1e-4 * square_norm(target)


def finite_sum(param: Any, update: jax.Array) -> jax.Array:
    """The update where the sum is finite, else zero."""
    reached = jnp.asarray(param + update, jnp.result_type(param))
    return jnp.where(jnp.isfinite(reached), update, jnp.zeros_like(update))
