"""Two problems of `experiments.guard` that the library has no task of."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from learned_opt.tasks import FlaxTask, datasets, from_flax


class _ConvNet(nnx.Module):
    """Two 3×3 convolutions of stride 2, each with BatchNorm and ReLU, and a linear layer."""

    def __init__(self, rngs: nnx.Rngs):
        """Makes 8 and 16 channels, for images of 28×28."""
        self.conv_0 = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
        self.norm_0 = nnx.BatchNorm(8, rngs=rngs)
        self.conv_1 = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.norm_1 = nnx.BatchNorm(16, rngs=rngs)
        self.output = nnx.Linear(7 * 7 * 16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits."""
        x = jax.nn.relu(self.norm_0(self.conv_0(x)))
        x = jax.nn.relu(self.norm_1(self.conv_1(x)))
        return self.output(x.reshape(len(x), -1))


def conv_net(data_dir: str | None = None) -> FlaxTask:
    """Fashion-MNIST, a small conv net with BatchNorm, minibatches of 128."""
    train = datasets.load_dataset("fashion_mnist", data_dir).splits["train"]

    def loss_fn(model, batch):
        logits = model(batch["x"].astype(jnp.float32) / 255)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

    data = {"train": {"x": train.images, "y": train.labels}}
    return from_flax(lambda rngs: _ConvNet(rngs), loss_fn, data, batch_size=128)


class _Regression(nnx.Module):
    """An MLP with one hidden layer."""

    def __init__(self, rngs: nnx.Rngs):
        """Makes 32 hidden units."""
        self.hidden = nnx.Linear(10, 32, rngs=rngs)
        self.output = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, 10]` to `[batch]`."""
        return self.output(jax.nn.relu(self.hidden(x)))[..., 0]


def diabetes() -> FlaxTask:
    """Regression on scikit-learn's diabetes data, standardized; minibatches of 32."""
    from sklearn.datasets import load_diabetes

    def standardized(x):
        return ((x - x.mean(0)) / x.std(0)).astype("float32")

    x, y = map(standardized, load_diabetes(return_X_y=True))

    def loss_fn(model, batch):
        return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)

    data = {"train": {"x": x, "y": y}}
    return from_flax(lambda rngs: _Regression(rngs), loss_fn, data, batch_size=32)
