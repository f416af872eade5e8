"""The network of the coordinatewise LSTM optimizer: arrays `[..., features]`, any leading axes.

Features come last, so that the leading axes, with their sharding and their names, are those of the
parameter. A coordinate that is not yet *seen* (its gradient has always been zero) has inputs and a
state of zero and meets no bias: then every product, gate and output below is exactly zero.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx


class LSTMCell(nnx.Module):
    """One LSTM layer over inputs `[..., features]`.

    (i, f, g, o) = W [x; h] + b · seen;  c' = σ(f) c + σ(i) tanh(g);  h' = σ(o) tanh(c').
    """

    def __init__(self, in_features: int, hidden_size: int, *, rngs: nnx.Rngs):
        """Draws W from N(0, 1/fan_in) and sets b to 0, but to 1 for the forget gate."""
        fan_in = in_features + hidden_size
        shape = (4 * hidden_size, fan_in)
        normal = jax.random.normal(rngs.params(), shape, jnp.float32)
        bias = jnp.zeros(4 * hidden_size, jnp.float32)
        self.kernel = nnx.Param(normal / math.sqrt(fan_in))
        self.bias = nnx.Param(bias.at[hidden_size : 2 * hidden_size].set(1.0))

    def __call__(
        self, x: jax.Array, h: jax.Array, c: jax.Array, seen: jax.Array, axis: int
    ) -> tuple[jax.Array, jax.Array]:
        """Maps x `[..., in]`, h and c `[..., hidden_size]`, seen `[..., 1]` to the next h and c."""
        gates = _affine(self.kernel[...], self.bias[...], x, h, seen, axis=axis)
        i, f, g, o = jnp.split(gates, 4, axis=axis)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c


class LSTMNetwork(nnx.Module):
    """Stacked LSTM cells and a linear output of one number a coordinate.

    With `input_size` there is a linear layer with ELU in front of them.
    """

    def __init__(
        self,
        in_features: int,
        hidden_sizes: Sequence[int],
        *,
        input_size: int | None = None,
        rngs: nnx.Rngs,
    ):
        """Draws the cells; the output layer starts at zero, so that no parameter moves at first."""
        self.has_input_layer = input_size is not None
        if input_size is not None:
            normal = jax.random.normal(rngs.params(), (input_size, in_features), jnp.float32)
            self.input = nnx.Dict(
                kernel=nnx.Param(normal / math.sqrt(in_features)),
                bias=nnx.Param(jnp.zeros(input_size, jnp.float32)),
            )
            in_features = input_size
        sizes = (in_features, *hidden_sizes)
        self.cells = nnx.Dict(
            {
                f"layer_{n}": LSTMCell(sizes[n], size, rngs=rngs)
                for n, size in enumerate(hidden_sizes)
            }
        )
        self.output = nnx.Dict(
            kernel=nnx.Param(jnp.zeros((1, sizes[-1]), jnp.float32)),
            bias=nnx.Param(jnp.zeros(1, jnp.float32)),
        )

    def __call__(self, x, hidden, cell, seen, axis):
        """Maps x `[..., in]`, each layer's h, c and seen `[...]` to the output `[...]`, new h, c.

        Features are on `axis`, the last one (−1), or on the first (0), as meta-training has them.
        `seen` is 1 where the coordinate has had a gradient and 0 elsewhere; x must be 0 there.
        """
        seen = jnp.expand_dims(seen, axis)
        if self.has_input_layer:
            kernel, bias = self.input.kernel[...], self.input.bias[...]
            x = jax.nn.elu(_affine(kernel, bias, x, seen, axis=axis))
        new_hidden, new_cell = [], []
        for layer, h, c in zip(self.cells.values(), hidden, cell, strict=True):
            x, c = layer(x, h, c, seen, axis)
            new_hidden.append(x)
            new_cell.append(c)
        output = _affine(self.output.kernel[...], self.output.bias[...], x, seen, axis=axis)
        return output.squeeze(axis), tuple(new_hidden), tuple(new_cell)


def _affine(kernel: jax.Array, bias: jax.Array, *inputs: jax.Array, axis: int) -> jax.Array:
    """Kernel `[m, n]` · inputs + bias `[m]` · the last input, as one product: `[..., m]`.

    Args:
      kernel: W.
      bias: b.
      *inputs: arrays `[..., n_k]` with Σ n_k = n + 1, joined along their last axis.
      axis: −1, or 0 where features come first.
    """
    kernel = jnp.concatenate([kernel, bias[:, None]], axis=1)
    x = jnp.concatenate(inputs, axis=axis)
    return jnp.tensordot(kernel, x, axes=1) if axis == 0 else jnp.tensordot(x, kernel, axes=(-1, 1))
