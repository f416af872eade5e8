"""Networks on images, as Flax NNX modules without any state but their parameters.

Images are `[batch, height, width, channels]`.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from learned_opt.networks.convolution import Conv


class BatchNorm(nnx.Module):
    """Batch normalization by the statistics of the batch at hand, at evaluation too."""

    def __init__(self, num_features: int):
        """Starts from scale 1 and bias 0."""
        self.scale = nnx.Param(jnp.ones(num_features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(num_features, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes over all axes but the last."""
        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(axes), x.var(axes)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * self.scale[...] + self.bias[...]


class SmallCNN(nnx.Module):
    """Two 3×3 convolutions of stride 2 with ReLU, and a linear layer."""

    def __init__(self, image_shape: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        """Makes 16 and 32 channels."""
        height, width, channels = image_shape
        self.conv_0 = Conv(channels, 16, 3, stride=2, rngs=rngs)
        self.conv_1 = Conv(16, 32, 3, stride=2, rngs=rngs)
        positions = math.ceil(math.ceil(height / 2) / 2) * math.ceil(math.ceil(width / 2) / 2)
        self.output = nnx.Linear(32 * positions, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        x = jax.nn.relu(self.conv_1(jax.nn.relu(self.conv_0(x))))
        return self.output(x.reshape(len(x), -1))


class TinyCNN(nnx.Module):
    """Two 3×3 convolutions of stride 2 with batch norm and ReLU, their mean, and a linear layer."""

    def __init__(self, image_shape: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        """Makes 8 and 16 channels."""
        self.conv_0 = Conv(image_shape[-1], 8, 3, stride=2, rngs=rngs)
        self.norm_0 = BatchNorm(8)
        self.conv_1 = Conv(8, 16, 3, stride=2, rngs=rngs)
        self.norm_1 = BatchNorm(16)
        self.output = nnx.Linear(16, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        x = jax.nn.relu(self.norm_0(self.conv_0(x)))
        x = jax.nn.relu(self.norm_1(self.conv_1(x)))
        return self.output(x.mean(axis=(1, 2)))


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum over 2×2 pixels of `[batch, height, width, channels]`; odd last ones are dropped.

    A reshape and a maximum: the gradient of XLA's own pooling is slow in compiled loops on CPU.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


class PaperCNN(nnx.Module):
    """The network of the paper's CIFAR experiments.

    Three 5×5 convolutions, each with batch normalization, ReLU and 2×2 max-pooling, then a layer of
    32 units with batch normalization and ReLU, and the output.

    Reference: Andrychowicz et al., *Learning to learn by gradient descent by gradient descent*,
    2016, section 3.3.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        *,
        num_channels: int = 16,
        rngs: nnx.Rngs,
    ):
        """Makes `num_channels` channels in every convolution."""
        height, width, num_in = image_shape
        if min(height, width) < 8:
            raise ValueError(
                "paper_cnn pools three times: images need 8×8 pixels at least, got "
                f"{height}×{width}"
            )
        self.convs: nnx.Dict = nnx.Dict()
        self.norms: nnx.Dict = nnx.Dict()
        for n in range(3):
            self.convs[f"conv_{n}"] = Conv(num_in, num_channels, 5, use_bias=False, rngs=rngs)
            self.norms[f"norm_{n}"] = BatchNorm(num_channels)
            num_in = num_channels
        positions = (height // 8) * (width // 8)
        self.hidden = nnx.Linear(num_channels * positions, 32, use_bias=False, rngs=rngs)
        self.hidden_norm = BatchNorm(32)
        self.output = nnx.Linear(32, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        for conv, norm in zip(self.convs.values(), self.norms.values(), strict=True):
            x = max_pool(jax.nn.relu(norm(conv(x))))
        x = jax.nn.relu(self.hidden_norm(self.hidden(x.reshape(len(x), -1))))
        return self.output(x)


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
            self.convs[f"conv_{n}"] = Conv(
                num_in,
                num_out,
                size,
                stride=stride,
                kernel_init=nnx.initializers.he_normal(),
                rngs=rngs,
            )
            num_in = num_out

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        for conv in self.convs.values():
            x = jax.nn.relu(conv(x))
        return x.mean(axis=(1, 2))


class NormedCNN(nnx.Module):
    """Two 3×3 convolutions of stride 2 with batch normalization and ReLU, and a linear layer."""

    def __init__(self, image_shape: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        """Makes 16 and 32 channels."""
        height, width, channels = image_shape
        self.conv_0 = Conv(channels, 16, 3, stride=2, use_bias=False, rngs=rngs)
        self.conv_1 = Conv(16, 32, 3, stride=2, use_bias=False, rngs=rngs)
        self.norm_0, self.norm_1 = BatchNorm(16), BatchNorm(32)
        positions = math.ceil(height / 4) * math.ceil(width / 4)
        self.output = nnx.Linear(32 * positions, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        x = jax.nn.relu(self.norm_0(self.conv_0(x)))
        x = jax.nn.relu(self.norm_1(self.conv_1(x)))
        return self.output(x.reshape(len(x), -1))


class PooledCNN(nnx.Module):
    """The mean over 2×2 pixels, two 3×3 convolutions of stride 2 with ReLU, and a linear layer.

    For images of an even height and width; CIFAR-10 becomes 16×16 and takes a quarter of the time.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, *, rngs: nnx.Rngs):
        """Makes 24 and 48 channels."""
        height, width, channels = image_shape
        if height % 2 or width % 2:
            raise ValueError(f"pooled_cnn needs an even height and width, got {height}×{width}")
        self.conv_0 = Conv(channels, 24, 3, stride=2, rngs=rngs)
        self.conv_1 = Conv(24, 48, 3, stride=2, rngs=rngs)
        self.output = nnx.Linear(
            48 * math.ceil(height / 8) * math.ceil(width / 8), num_classes, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits `[batch, num_classes]`."""
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        x = jax.nn.relu(self.conv_1(jax.nn.relu(self.conv_0(x))))
        return self.output(x.reshape(batch, -1))


class ResidualBlock(nnx.Module):
    """Two 3×3 convolutions around a shortcut, which is a projection where shapes differ."""

    def __init__(self, num_in: int, num_out: int, stride: int, *, rngs: nnx.Rngs):
        """Makes the block; `stride` is that of its first convolution."""

        def conv(channels: int, size: int, stride: int) -> Conv:
            return Conv(
                channels,
                num_out,
                size,
                stride=stride,
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
        self.stem = Conv(
            image_shape[-1],
            16,
            3,
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


IMAGE_NETWORKS: dict[str, Callable[..., nnx.Module]] = {
    "paper_cnn": PaperCNN,
    "narrow_paper_cnn": functools.partial(PaperCNN, num_channels=8),
    "small_cnn": SmallCNN,
    "normed_cnn": NormedCNN,
    "pooled_cnn": PooledCNN,
    "tiny_cnn": TinyCNN,
    "all_cnn_c": AllCNNC,
    "resnet_20": ResNet20,
}
