"""Convolutions that stay fast inside of compiled loops, on CPU too.

XLA's convolutions on CPU are six to fifteen times slower inside of a `scan` than outside of it;
matrix products are not.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


def convolve(
    images: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: str = "SAME",
) -> jax.Array:
    """Convolves images with a kernel, as `jax.lax.conv_general_dilated` does.

    y[b, u, v, o] = Σ_{i,j,c} x̄[b, u s₀ + i, v s₁ + j, c] K[i, j, c, o], with x̄ the padded images.

    On CPU the shifted and strided slices of x̄ are put side by side, [b, u, v, (i, j, c)], and
    multiplied with K in one matrix product; elsewhere it is XLA's own convolution. The choice is
    made when the program is lowered, so nothing of it is left at run time.

    Args:
      images: `[batch, height, width, channels]`.
      kernel: `[height, width, channels, channels out]`.
      strides: along height and width.
      padding: `"SAME"` or `"VALID"`.

    Returns:
      `[batch, …, …, channels out]`.

    Raises:
      ValueError: the kernel is larger than the images, and they are not padded.

    Example:
      >>> import jax.numpy as jnp
      >>> images, kernel = jnp.ones((2, 7, 6, 3)), jnp.ones((3, 3, 3, 5))
      >>> convolve(images, kernel, strides=(2, 2)).shape
      (2, 4, 3, 5)
    """
    size = kernel.shape[:2]
    pads = lax.padtype_to_pads(images.shape[1:3], size, strides, padding)
    if any(n + sum(pad) < k for n, k, pad in zip(images.shape[1:3], size, pads, strict=True)):
        raise ValueError(
            f"a kernel of {size[0]} × {size[1]} needs images that are no smaller, got "
            f"{images.shape[1]} × {images.shape[2]}: pad them (padding='SAME')"
        )

    def patches(images, kernel):
        padded = jnp.pad(images, [(0, 0), *pads, (0, 0)])
        last = [  # of the positions that the kernel's first entry visits
            (n - k) // stride * stride
            for n, k, stride in zip(padded.shape[1:3], size, strides, strict=True)
        ]
        shifted = [
            padded[:, i : i + last[0] + 1 : strides[0], j : j + last[1] + 1 : strides[1]]
            for i in range(size[0])
            for j in range(size[1])
        ]
        return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])

    def native(images, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(images, kernel, strides, pads, dimension_numbers=dimensions)

    return lax.platform_dependent(images, kernel, cpu=patches, default=native)


def conv_general_dilated(
    images: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for Flax's own layers, through `convolve` where that fits.

    `nnx.Conv(…, conv_general_dilated=conv_general_dilated)`, and the same for `linen.Conv`, are
    then as fast inside of a compiled loop on CPU as outside. Convolutions that are not of images
    `[batch, height, width, channels]`, or are dilated or grouped, or have other options set, are
    those of JAX.

    Args: as in JAX, which calls the first two `lhs` and `rhs`.

    Returns:
      As in JAX.
    """
    fits = (
        kernel.ndim == 4
        and feature_group_count == 1
        and {*lhs_dilation, *rhs_dilation} == {1}
        and dimension_numbers
        == lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        and all(value is None for value in options.values())
    )
    if not fits:
        return lax.conv_general_dilated(
            images,
            kernel,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            **options,
        )
    if not isinstance(padding, str):
        images, padding = jnp.pad(images, [(0, 0), *padding, (0, 0)]), "VALID"
    rows, columns = window_strides
    return convolve(images, kernel, strides=(rows, columns), padding=padding)


_LECUN = nnx.initializers.lecun_normal()


class Conv(nnx.Module):
    """A convolution with a square kernel and SAME padding; parameters are those of `nnx.Conv`."""

    def __init__(
        self,
        num_in: int,
        num_out: int,
        size: int,
        *,
        stride: int = 1,
        use_bias: bool = True,
        kernel_init: nnx.Initializer = _LECUN,
        rngs: nnx.Rngs,
    ):
        """Draws the kernel `[size, size, num_in, num_out]`; the bias `[num_out]` starts from 0."""
        shape = (size, size, num_in, num_out)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(num_out, jnp.float32)) if use_bias else None
        if use_bias:
            rngs.params()  # `nnx.Conv` draws one for its bias: later layers start the same
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, num_in]` to `[batch, …, …, num_out]`."""
        y = convolve(x, self.kernel[...], strides=(self.stride, self.stride))
        return y if self.bias is None else y + self.bias[...]
