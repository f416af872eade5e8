"""What a learned rule sees of a gradient: features on a new axis, the last one or the first."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp


def preprocessor(
    name: Literal["log_sign"] | None,
) -> tuple[int, Callable[[jax.Array, int], jax.Array]]:
    """Returns the number of features and the function `(g [...], axis) -> [..., features]`.

    Raises:
      ValueError: `name` is neither 'log_sign' nor None.
    """
    if name is None:
        return 1, jnp.expand_dims
    if name == "log_sign":
        return 2, log_sign
    raise ValueError(f"unknown preprocess {name!r}: expected 'log_sign' or None")


def log_sign(g: jax.Array, axis: int = -1, p: float = 10.0) -> jax.Array:
    """The gradient's magnitude on a log scale, and its sign.

    (log|g| / p, sign g) where |g| ≥ e^−p, and (−1, e^p g) elsewhere: both features stay within
    about [−1, 1] for gradients over many orders of magnitude. Finite with finite derivatives
    everywhere, zero included.

    Args:
      g: gradients `[...]`.
      axis: where the features go, −1 or 0.
      p: how small a magnitude is still told apart, e^−p.

    Returns:
      Features `[..., 2]`, or `[2, ...]`.

    Reference: Andrychowicz et al. (2016), appendix A.
    """
    magnitude = jnp.abs(g)
    large = magnitude >= math.exp(-p)
    log = jnp.log(jnp.where(large, magnitude, 1.0)) / p
    sign = jnp.where(large, jnp.sign(g), math.exp(p) * g)
    return jnp.stack([jnp.where(large, log, -1.0), sign], axis=axis)
