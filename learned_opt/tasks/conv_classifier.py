"""Convolutional networks on images."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt.networks.functional import functional
from learned_opt.tasks import datasets
from learned_opt.tasks.checks import check_batch, check_splits, positive, static
from learned_opt.types import Key, Metrics, Params, Scalar

NETWORKS = ("small_cnn", "all_cnn_c", "resnet_20")
_EVALUATION_BATCH = 1000


@functools.lru_cache
def _network(name: str, image_shape: tuple[int, ...], num_classes: int):
    """`init(key) -> params` and `apply(params, images) -> logits`."""
    from learned_opt.networks.images import IMAGE_NETWORKS  # Flax takes half a second to import

    make = IMAGE_NETWORKS[name]
    return functional(lambda rngs: make(image_shape, num_classes, rngs=rngs))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvClassifier:
    """Mean cross-entropy of a convolutional network over a minibatch of labelled images.

    f(θ) = −1/B Σ_b log softmax(z(x_b / max_pixel))[y_b], the B examples drawn with replacement from
    the training split by the key given to `loss`.

    Make one with `conv_classifier` (a data set by name) or `ConvClassifier.from_arrays`.

    Attributes:
      images: split -> array `[n, height, width, channels]`, uint8 or floating point.
      labels: split -> int32 array `[n]`.
      num_classes: the number of classes.
      network: 'small_cnn' (two strided convolutions), 'all_cnn_c' (Springenberg et al., 2015) or
        'resnet_20' (He et al., 2016).
      batch_size: the number B of examples in a minibatch.
      max_pixel: what images are divided by.
    """

    images: dict[str, jax.Array]
    labels: dict[str, jax.Array]
    num_classes: int = static()
    network: str = static(default="small_cnn")
    batch_size: int = static(default=128)
    max_pixel: float = static(default=255.0)

    @classmethod
    def from_arrays(
        cls,
        splits: Mapping[str, tuple[Any, Any]],
        *,
        num_classes: int,
        network: str = "small_cnn",
        batch_size: int = 128,
        max_pixel: float | None = None,
    ) -> "ConvClassifier":
        """Makes a task from arrays.

        Args:
          splits: `{"train": (images, labels), …}` and, where there are any, also `"valid"` and
            `"test"`. Images are uint8 or floating point `[n, height, width, channels]`, labels
            integers `[n]` from 0 to num_classes − 1.
          num_classes: the number of classes.
          network: the network's name.
          batch_size: the number of examples in a minibatch.
          max_pixel: what images are divided by; by default 255 for uint8 and 1 for floating point.

        Raises:
          ValueError: a choice is unknown or out of range, or the arrays do not fit together, are
            empty, or hold NaN or infinite values.

        Example:
          >>> import jax, numpy as np
          >>> from learned_opt.tasks import ConvClassifier
          >>> images, labels = np.zeros((6, 8, 8, 1), np.uint8), np.arange(6) % 3
          >>> task = ConvClassifier.from_arrays(
          ...     {"train": (images, labels)}, num_classes=3, batch_size=2
          ... )
          >>> params = task.init(jax.random.key(0), ())
          >>> params["conv_0"]["kernel"].shape
          (3, 3, 1, 16)
        """
        num_classes = positive("num_classes", num_classes)
        if network not in NETWORKS:
            raise ValueError(f"unknown network {network!r}; known: {', '.join(NETWORKS)}")
        arrays = check_splits(splits, num_classes)
        if arrays["train"][0].ndim != 4:
            raise ValueError(
                f"images must be [n, height, width, channels], got shape {arrays['train'][0].shape}"
            )
        batch_size, max_pixel = check_batch(arrays, batch_size, max_pixel)
        return cls(
            images={split: jnp.asarray(images) for split, (images, _) in arrays.items()},
            labels={split: jnp.asarray(labels) for split, (_, labels) in arrays.items()},
            num_classes=num_classes,
            network=network,
            batch_size=batch_size,
            max_pixel=max_pixel,
        )

    def sample(self, key: Key) -> tuple[()]:
        """Returns `()`: there is one problem in this family."""
        del key
        return ()

    def init(self, key: Key, instance: tuple[()]) -> Params:
        """Draws the network's parameters, a nested dict."""
        del instance
        return self._functions()[0](key)

    def loss(self, params: Params, instance: tuple[()], key: Key) -> Scalar:
        """Returns the mean cross-entropy, in nats, of a training minibatch drawn by `key`."""
        del instance
        images, labels = self.images["train"], self.labels["train"]
        rows = jax.random.randint(key, (self.batch_size,), 0, len(labels))
        logits = self._logits(params, images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def evaluate(self, params: Params, instance: tuple[()], split: str) -> Metrics:
        """Returns the mean cross-entropy (nats) and the accuracy over a whole split.

        Batch normalization, where the network has any, uses the statistics of 1,000 examples.

        Raises:
          ValueError: the task has no such split.
        """
        del instance
        datasets.check_split(split, tuple(self.images))

        def measure(batch):
            images, labels = batch
            logits = self._logits(params, images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            hits = jnp.argmax(logits, axis=-1) == labels
            return {"loss": losses, "accuracy": hits.astype(losses.dtype)}

        examples = (self.images[split], self.labels[split])
        return jax.tree.map(jnp.mean, _in_batches(measure, examples, _EVALUATION_BATCH))

    def _functions(self):
        return _network(self.network, self.images["train"].shape[1:], self.num_classes)

    def _logits(self, params: Params, images: jax.Array) -> jax.Array:
        dtype = jax.tree.leaves(params)[0].dtype
        return self._functions()[1](params, images.astype(dtype) / self.max_pixel)


def _in_batches(measure, examples, size: int):
    """Maps `measure` over batches of examples, and over those that are left; joins the results."""
    count = len(examples[0]) // size * size
    whole = jax.tree.map(lambda x: x[:count].reshape(-1, size, *x.shape[1:]), examples)
    parts = [jax.tree.map(jnp.concatenate, jax.lax.map(measure, whole))] if count else []
    if count < len(examples[0]):
        parts.append(measure(jax.tree.map(lambda x: x[count:], examples)))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def conv_classifier(
    dataset: str = "digits",
    *,
    network: str = "small_cnn",
    batch_size: int = 128,
    data_dir: str | os.PathLike[str] | None = None,
    valid_size: int | None = None,
) -> ConvClassifier:
    """Makes a `ConvClassifier` on a data set given by name.

    Args:
      dataset: `"digits"`, `"mnist"`, `"fashion_mnist"` or `"cifar10"`.
      network: 'small_cnn', 'all_cnn_c' or 'resnet_20'.
      batch_size: the number of examples in a minibatch.
      data_dir: the folder of TFDS data sets; by default `TFDS_DATA_DIR`.
      valid_size: the number of examples cut from the training data for validation; by default
        5,000, and 360 of digits.

    Raises:
      FileNotFoundError: the data set is missing and cannot be prepared here.
      ValueError: a choice is unknown or out of range, or the data set is damaged.
    """
    data = datasets.load_dataset(dataset, data_dir, valid_size=valid_size)
    return ConvClassifier.from_arrays(
        data.splits,
        num_classes=data.num_classes,
        network=network,
        batch_size=batch_size,
        max_pixel=data.max_pixel,
    )
