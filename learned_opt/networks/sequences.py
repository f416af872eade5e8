"""Networks on sequences, as Flax NNX modules without any state but their parameters.

Characters are `[batch, length]`, whole numbers.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx


class LSTMLayer(nnx.Module):
    """One LSTM layer over whole sequences, from a zero state.

    (i, f, g, o) = W x + U h + b;  c' = σ(f) c + σ(i) tanh(g);  h' = σ(o) tanh(c').
    """

    def __init__(self, num_in: int, hidden_size: int, *, rngs: nnx.Rngs):
        """Draws W and U from N(0, 1/fan_in) and sets b to 0, but to 1 for the forget gate."""
        shapes = (num_in, 4 * hidden_size), (hidden_size, 4 * hidden_size)
        self.kernel, self.recurrent = (
            nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) / math.sqrt(shape[0]))
            for shape in shapes
        )
        bias = jnp.zeros(4 * hidden_size, jnp.float32)
        self.bias = nnx.Param(bias.at[hidden_size : 2 * hidden_size].set(1.0))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, num_in]` to `[batch, length, hidden_size]`."""
        inputs = jnp.swapaxes(x @ self.kernel[...] + self.bias[...], 0, 1)  # one product for all
        recurrent = self.recurrent[...]

        def step(state, gates):
            h, c = state
            i, f, g, o = jnp.split(gates + h @ recurrent, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros_like(inputs[0, :, : recurrent.shape[0]])
        return jnp.swapaxes(jax.lax.scan(step, (zeros, zeros), inputs)[1], 0, 1)


class GRULayer(nnx.Module):
    """One GRU layer over whole sequences, from a zero state.

    (r, z) = σ(W x + U h + b), n = tanh(Wₙ x + bₙ + r Uₙ h), h' = (1 − z) n + z h: Cho et al.,
    *Learning phrase representations using RNN encoder–decoder*, 2014, with the reset gate after the
    product, as in cuDNN.
    """

    def __init__(self, num_in: int, hidden_size: int, *, rngs: nnx.Rngs):
        """Draws all W and U from N(0, 1/fan_in) and sets b to 0."""
        shapes = (num_in, 3 * hidden_size), (hidden_size, 3 * hidden_size)
        self.kernel, self.recurrent = (
            nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) / math.sqrt(shape[0]))
            for shape in shapes
        )
        self.bias = nnx.Param(jnp.zeros(3 * hidden_size, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, num_in]` to `[batch, length, hidden_size]`."""
        inputs = jnp.swapaxes(x @ self.kernel[...] + self.bias[...], 0, 1)  # one product for all
        recurrent = self.recurrent[...]

        def step(h, gates):
            given = jnp.split(gates, 3, axis=-1)
            own = jnp.split(h @ recurrent, 3, axis=-1)
            r, z = (jax.nn.sigmoid(a + b) for a, b in zip(given[:2], own[:2], strict=True))
            h = (1 - z) * jnp.tanh(given[2] + r * own[2]) + z * h
            return h, h

        zeros = jnp.zeros_like(inputs[0, :, : recurrent.shape[0]])
        return jnp.swapaxes(jax.lax.scan(step, zeros, inputs)[1], 0, 1)


class CharacterRNN(nnx.Module):
    """Stacked recurrent layers over one-hot characters, and a linear output."""

    def __init__(
        self,
        layer: type[LSTMLayer] | type[GRULayer],
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        rngs: nnx.Rngs,
    ):
        """Makes the layers."""
        self.vocab_size = vocab_size
        sizes = [vocab_size, *[hidden_size] * num_layers]
        self.layers = nnx.Dict(
            {f"layer_{n}": layer(sizes[n], hidden_size, rngs=rngs) for n in range(num_layers)}
        )
        self.output = nnx.Linear(hidden_size, vocab_size, rngs=rngs)

    def __call__(self, characters: jax.Array) -> jax.Array:
        """Maps characters to the logits of the next ones, `[batch, length, vocab_size]`."""
        x = jax.nn.one_hot(characters, self.vocab_size, dtype=self.output.kernel[...].dtype)
        for layer in self.layers.values():
            x = layer(x)
        return self.output(x)


class TransformerBlock(nnx.Module):
    """Causal self-attention and a GELU layer four times as wide, each after a layer norm."""

    def __init__(self, hidden_size: int, num_heads: int, *, rngs: nnx.Rngs):
        """Makes the block."""
        self.num_heads = num_heads
        self.attention_norm = nnx.LayerNorm(hidden_size, rngs=rngs)
        self.qkv = nnx.Linear(hidden_size, 3 * hidden_size, rngs=rngs)
        self.mix = nnx.Linear(hidden_size, hidden_size, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(hidden_size, rngs=rngs)
        self.mlp_in = nnx.Linear(hidden_size, 4 * hidden_size, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * hidden_size, hidden_size, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, length, hidden_size]` to the same shape."""
        batch, length, hidden_size = x.shape
        heads = (batch, length, self.num_heads, hidden_size // self.num_heads)
        q, k, v = (
            part.reshape(heads) for part in jnp.split(self.qkv(self.attention_norm(x)), 3, axis=-1)
        )
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(attended.reshape(x.shape))
        return x + self.mlp_out(jax.nn.gelu(self.mlp_in(self.mlp_norm(x))))


class CharacterTransformer(nnx.Module):
    """A pre-norm transformer with learned positions over characters."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        length: int,
        *,
        rngs: nnx.Rngs,
    ):
        """Makes the blocks, a head for every 32 features."""
        if hidden_size % 32:
            raise ValueError(f"hidden_size of a transformer must divide by 32, got {hidden_size}")
        self.embedding = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (vocab_size, hidden_size), jnp.float32)
        )
        self.positions = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (length, hidden_size), jnp.float32)
        )
        self.blocks = nnx.Dict(
            {
                f"block_{n}": TransformerBlock(hidden_size, hidden_size // 32, rngs=rngs)
                for n in range(num_layers)
            }
        )
        self.norm = nnx.LayerNorm(hidden_size, rngs=rngs)
        self.output = nnx.Linear(hidden_size, vocab_size, rngs=rngs)

    def __call__(self, characters: jax.Array) -> jax.Array:
        """Maps characters to the logits of the next ones, `[batch, length, vocab_size]`."""
        x = self.embedding[...][characters] + self.positions[: characters.shape[1]]
        for block in self.blocks.values():
            x = block(x)
        return self.output(self.norm(x))
