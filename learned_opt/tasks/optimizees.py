"""Networks to optimize, as Flax NNX modules without any state but their parameters.

Images are `[batch, height, width, channels]`, characters `[batch, length]`.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx


class SmallCNN(nnx.Module):
    """Two 3×3 convolutions of stride 2 with ReLU, and a linear layer."""

    def __init__(self, image_shape: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        """Makes 16 and 32 channels."""
        height, width, channels = image_shape
        self.conv_0 = nnx.Conv(channels, 16, (3, 3), strides=2, rngs=rngs)
        self.conv_1 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        positions = math.ceil(math.ceil(height / 2) / 2) * math.ceil(math.ceil(width / 2) / 2)
        self.output = nnx.Linear(32 * positions, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        x = jax.nn.relu(self.conv_1(jax.nn.relu(self.conv_0(x))))
        return self.output(x.reshape(len(x), -1))


class AllCNNC(nnx.Module):
    """All-CNN-C: nine convolutions, two of them of stride 2, and the mean over positions.

    Without the paper's dropout and weight decay.

    Reference: Springenberg et al., *Striving for simplicity: the all convolutional net*, 2015,
    table 1.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        """Makes 96 and 192 channels."""
        layers = [(96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2)]
        layers += [(192, 3, 1), (192, 1, 1), (num_classes, 1, 1)]
        num_in = image_shape[-1]
        self.convs: nnx.Dict = nnx.Dict()
        for n, (num_out, size, stride) in enumerate(layers):
            self.convs[f"conv_{n}"] = nnx.Conv(
                num_in,
                num_out,
                (size, size),
                strides=stride,
                kernel_init=nnx.initializers.he_normal(),
                rngs=rngs,
            )
            num_in = num_out

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        for conv in self.convs.values():
            x = jax.nn.relu(conv(x))
        return x.mean(axis=(1, 2))


class BatchNorm(nnx.Module):
    """Batch normalization by the statistics of the batch at hand, at evaluation too."""

    def __init__(self, num_features: int):
        """Starts from scale 1 and bias 0."""
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes over all axes but the last."""
        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(axes), x.var(axes)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * self.scale[...] + self.bias[...]


class ResidualBlock(nnx.Module):
    """Two 3×3 convolutions around a shortcut, which is a projection where shapes differ."""

    def __init__(self, num_in: int, num_out: int, stride: int, *, rngs: nnx.Rngs):
        """Makes the block; `stride` is that of its first convolution."""

        def conv(channels: int, size: int, stride: int) -> nnx.Conv:
            return nnx.Conv(
                channels,
                num_out,
                (size, size),
                strides=stride,
                use_bias=False,
                kernel_init=nnx.initializers.he_normal(),
                rngs=rngs,
            )

        self.conv_0, self.norm_0 = conv(num_in, 3, stride), BatchNorm(num_out)
        self.conv_1, self.norm_1 = conv(num_out, 3, 1), BatchNorm(num_out)
        self.projected = stride > 1 or num_in != num_out
        if self.projected:
            self.projection, self.projection_norm = conv(num_in, 1, stride), BatchNorm(num_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, num_in]` to `[batch, …, …, num_out]`."""
        y = jax.nn.relu(self.norm_0(self.conv_0(x)))
        y = self.norm_1(self.conv_1(y))
        return jax.nn.relu(y + (self.projection_norm(self.projection(x)) if self.projected else x))


class ResNet20(nnx.Module):
    """ResNet-20 for small images: three stages of three residual blocks, 16, 32 and 64 channels.

    Reference: He et al., *Deep residual learning for image recognition*, 2016, section 4.2; with
    projections where shapes differ, and batch statistics at evaluation too.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        """Makes the 20 layers."""
        self.stem = nnx.Conv(
            image_shape[-1],
            16,
            (3, 3),
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.norm, num_in = BatchNorm(16), 16
        self.blocks: nnx.Dict = nnx.Dict()
        for stage, num_out in enumerate((16, 32, 64)):
            for n in range(3):
                stride = 2 if stage and not n else 1
                block = ResidualBlock(num_in, num_out, stride, rngs=rngs)
                self.blocks[f"block_{stage}_{n}"] = block
                num_in = num_out
        self.output = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        x = jax.nn.relu(self.norm(self.stem(x)))
        for block in self.blocks.values():
            x = block(x)
        return self.output(x.mean(axis=(1, 2)))


class LSTMLayer(nnx.Module):
    """One LSTM layer over whole sequences, from a zero state.

    (i, f, g, o) = W x + U h + b;  c' = σ(f) c + σ(i) tanh(g);  h' = σ(o) tanh(c').
    """

    def __init__(self, num_in: int, hidden_size: int, *, rngs: nnx.Rngs):
        """Draws W and U from N(0, 1/fan_in) and sets b to 0, but to 1 for the forget gate."""
        shapes = (num_in, 4 * hidden_size), (hidden_size, 4 * hidden_size)
        self.kernel, self.recurrent = (
            nnx.Param(jax.random.normal(rngs.params(), shape) / math.sqrt(shape[0]))
            for shape in shapes
        )
        self.bias = nnx.Param(jnp.zeros(4 * hidden_size).at[hidden_size : 2 * hidden_size].set(1.0))

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


class CharacterLSTM(nnx.Module):
    """Stacked LSTM layers over one-hot characters, and a linear output."""

    def __init__(self, vocab_size: int, hidden_size: int, num_layers: int, *, rngs: nnx.Rngs):
        """Makes the layers."""
        self.vocab_size = vocab_size
        sizes = [vocab_size, *[hidden_size] * num_layers]
        self.layers = nnx.Dict(
            {f"layer_{n}": LSTMLayer(sizes[n], hidden_size, rngs=rngs) for n in range(num_layers)}
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
            0.02 * jax.random.normal(rngs.params(), (vocab_size, hidden_size))
        )
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (length, hidden_size)))
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


IMAGE_NETWORKS: dict[str, Callable[..., nnx.Module]] = {
    "small_cnn": SmallCNN,
    "all_cnn_c": AllCNNC,
    "resnet_20": ResNet20,
}
