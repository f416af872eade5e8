"""The network of the coordinatewise LSTM optimizer: arrays `[features, ...]`, any trailing axes.

Features come first, so that a layer is one matrix product over all coordinates at once and the
trailing axes, with their sharding, stay as they are.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx


class LSTMCell(nnx.Module):
    """One LSTM layer over feature-major inputs `[features, ...]`.

    (i, f, g, o) = W [x; h] + b;  c' = σ(f) c + σ(i) tanh(g);  h' = σ(o) tanh(c').
    """

    def __init__(self, in_features: int, hidden_size: int, *, rngs: nnx.Rngs):
        """Draws W from N(0, 1/fan_in) and sets b to 0, but to 1 for the forget gate."""
        fan_in = in_features + hidden_size
        shape = (4 * hidden_size, fan_in)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) / math.sqrt(fan_in))
        self.bias = nnx.Param(jnp.zeros(4 * hidden_size).at[hidden_size : 2 * hidden_size].set(1.0))

    def __call__(self, x: jax.Array, h: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps x `[in_features, ...]`, h and c `[hidden_size, ...]` to the next h and c."""
        gates = _affine(self.kernel[...], self.bias[...], jnp.concatenate([x, h]))
        i, f, g, o = jnp.split(gates, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c


class LSTMNetwork(nnx.Module):
    """Stacked LSTM cells and a linear output of one number a coordinate."""

    def __init__(self, in_features: int, hidden_sizes: Sequence[int], *, rngs: nnx.Rngs):
        """Draws the cells; the output layer starts at zero, so that no parameter moves at first."""
        sizes = (in_features, *hidden_sizes)
        self.cells = nnx.Dict(
            {
                f"layer_{n}": LSTMCell(sizes[n], size, rngs=rngs)
                for n, size in enumerate(hidden_sizes)
            }
        )
        self.output = nnx.Dict(
            kernel=nnx.Param(jnp.zeros((1, sizes[-1]))), bias=nnx.Param(jnp.zeros(1))
        )

    def __call__(self, x, hidden, cell):
        """Maps x `[in_features, ...]` and each layer's h, c to the output `[...]` and new h, c."""
        new_hidden, new_cell = [], []
        for layer, h, c in zip(self.cells.values(), hidden, cell, strict=True):
            x, c = layer(x, h, c)
            new_hidden.append(x)
            new_cell.append(c)
        output = _affine(self.output.kernel[...], self.output.bias[...], x)[0]
        return output, tuple(new_hidden), tuple(new_cell)


def _affine(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """Kernel `[m, n]` · x `[n, ...]` + bias `[m]`, contracting the leading axis of x."""
    return jnp.tensordot(kernel, x, axes=1) + bias.reshape((-1,) + (1,) * (x.ndim - 1))
