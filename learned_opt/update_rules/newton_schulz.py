"""Orthogonalization of matrices, for the rules that take such steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, auto_axes

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024)


def orthogonalize(x: jax.Array) -> jax.Array:
    r"""Moves the singular values of matrices near to one, by five Newton–Schulz steps.

    .. math:: X_0 = X / \lVert X \rVert_F, \quad A = X X^T, \quad
              X \leftarrow a X + (b A + c A^2) X, \quad (a, b, c) = (3.4445, -4.7750, 2.0315)

    from the side of the smaller axis. It leaves them between about .7 and 1.2. Where squares leave
    the range of floating point, a power of two takes X back first: from singular values far above 1
    the steps diverge, as they do where a norm comes out too small.

    Args:
      x: matrices `[…, in, out]`.

    Reference: Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    x = _of_unit_norm(x)
    for _ in range(5):
        transposed = jnp.swapaxes(x, -1, -2)
        gram = transposed @ x if tall else x @ transposed
        polynomial = b * gram + c * (gram @ gram)
        x = a * x + (x @ polynomial if tall else polynomial @ x)
    return x


def _of_unit_norm(x: jax.Array) -> jax.Array:
    """Matrices over their Frobenius norms, zeros as they are; one sum over devices."""
    info = jnp.finfo(x.dtype)
    half = 5 * info.maxexp // 8  # of the exponents within which squares are well in range
    up, down = 25 * info.maxexp // 32, 9 * info.maxexp // 16
    scales = jnp.asarray([1.0, 2.0**up, 2.0**-down], x.dtype).reshape(3, *[1] * x.ndim)
    squares = jnp.sum(jnp.square(scales * x), axis=(-2, -1), keepdims=True)
    pick = jnp.where(squares[0] < 2.0**-half, 1, jnp.where(squares[0] > 2.0**half, 2, 0))
    square, scale = (
        jnp.select([pick == n for n in range(3)], list(jnp.broadcast_to(values, squares.shape)))
        for values in (squares, scales)
    )
    return x * scale * jax.lax.rsqrt(square + info.tiny)


def in_auto_mode(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """fn(x), where axes of x are explicitly sharded with products left to the compiler."""
    sharding = jax.typeof(x).sharding
    if any(kind == AxisType.Explicit for kind in sharding.mesh.axis_types):
        return auto_axes(fn, out_sharding=sharding)(x)
    return fn(x)
