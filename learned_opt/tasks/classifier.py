"""A multilayer perceptron on images: the optimizee of the paper's MNIST experiments."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from learned_opt.tasks import datasets
from learned_opt.tasks.checks import check_batch, check_splits, positive, static
from learned_opt.types import Key, Metrics, Scalar

_ACTIVATIONS = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
}
_EVALUATION_BATCH = 2000  # examples in memory at once while a whole split is evaluated

MLPParams: TypeAlias = dict[str, dict[str, jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageClassifier:
    """Mean cross-entropy of a multilayer perceptron over a minibatch of labelled images.

    f(θ) = −1/B Σ_b log softmax(z(x_b))[y_b], where h_0 = x / max_pixel, h_l = σ(h_{l−1} W_l + b_l)
    for each hidden layer, and z = h_L W + b. The B examples are drawn with replacement from the
    training split by the key given to `loss`.

    Kernels start from N(0, 1/fan_in) and biases from zero, as in Flax; with a number for
    `init_scale` all of them start from N(0, init_scale²). (The paper does not say; its published
    code uses 0.01, which opens with a plateau.) Pixels are scaled to [0, 1] but not centred.

    Make one with `image_classifier` (a data set by name) or `ImageClassifier.from_arrays` (your own
    data); both check what they are given. The data are leaves of this PyTree, so give the task to
    jitted functions as an argument.

    Attributes:
      images: split -> array `[n, pixels]`, uint8 or floating point.
      labels: split -> int32 array `[n]`.
      num_classes: the number of classes.
      hidden_sizes: the widths of the hidden layers; `()` is softmax regression.
      activation: σ, one of `"sigmoid"`, `"tanh"`, `"relu"`, `"gelu"`.
      batch_size: the number B of examples in a minibatch.
      init_scale: the standard deviation of the starting parameters, or None for LeCun's.
      max_pixel: what images are divided by.

    References:
      Andrychowicz et al., Learning to learn by gradient descent by gradient descent, 2016,
      https://arxiv.org/abs/1606.04474
    """

    images: dict[str, jax.Array]
    labels: dict[str, jax.Array]
    num_classes: int = static()
    hidden_sizes: tuple[int, ...] = static(default=(20,))
    activation: str = static(default="sigmoid")
    batch_size: int = static(default=128)
    init_scale: float | None = static(default=None)
    max_pixel: float = static(default=255.0)

    @classmethod
    def from_arrays(
        cls,
        splits: Mapping[str, tuple[Any, Any]],
        *,
        num_classes: int,
        hidden_sizes: Sequence[int] = (20,),
        activation: str = "sigmoid",
        batch_size: int = 128,
        init_scale: float | None = None,
        max_pixel: float | None = None,
    ) -> "ImageClassifier":
        """Makes a task from arrays.

        Args:
          splits: `{"train": (images, labels), …}` and, where there are any, also `"valid"` and
            `"test"`. Images are uint8 or floating point `[n, …]`, labels integers `[n]` from 0 to
            num_classes − 1.
          num_classes: the number of classes.
          hidden_sizes: the widths of the hidden layers; `()` is softmax regression.
          activation: `"sigmoid"`, `"tanh"`, `"relu"` or `"gelu"`.
          batch_size: the number of examples in a minibatch.
          init_scale: the standard deviation of the starting parameters, or None for LeCun's.
          max_pixel: what images are divided by; by default 255 for uint8 and 1 for floating point.

        Returns:
          The task, with its data on the default device.

        Raises:
          ValueError: a choice is unknown or out of range, or the arrays do not fit together, are
            empty, or hold NaN or infinite values.

        Example:
          >>> import jax, numpy as np
          >>> from learned_opt.tasks import ImageClassifier
          >>> images, labels = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 3
          >>> task = ImageClassifier.from_arrays(
          ...     {"train": (images, labels)}, num_classes=3, hidden_sizes=(5,), batch_size=2
          ... )
          >>> params = task.init(jax.random.key(0), ())
          >>> params["dense_0"]["kernel"].shape, params["dense_1"]["kernel"].shape
          ((16, 5), (5, 3))
        """
        num_classes = positive("num_classes", num_classes)
        hidden_sizes = tuple(positive("hidden_sizes", size) for size in hidden_sizes)
        if activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ValueError(f"unknown activation {activation!r}; known: {known}")
        if init_scale is not None and not (init_scale >= 0 and math.isfinite(init_scale)):
            raise ValueError(f"init_scale must be finite and not negative, got {init_scale}")
        arrays = check_splits(splits, num_classes)
        batch_size, max_pixel = check_batch(arrays, batch_size, max_pixel)
        return cls(
            images={
                split: jnp.asarray(images.reshape(len(images), -1))
                for split, (images, _) in arrays.items()
            },
            labels={split: jnp.asarray(labels) for split, (_, labels) in arrays.items()},
            num_classes=num_classes,
            hidden_sizes=hidden_sizes,
            activation=activation,
            batch_size=batch_size,
            init_scale=None if init_scale is None else float(init_scale),
            max_pixel=max_pixel,
        )

    def sample(self, key: Key) -> tuple[()]:
        """Returns `()`: there is one problem in this family."""
        del key
        return ()

    def init(self, key: Key, instance: tuple[()]) -> MLPParams:
        """Draws parameters, `{"dense_0": {"kernel": [in, out], "bias": [out]}, …}`."""
        del instance
        sizes = (self.images["train"].shape[1], *self.hidden_sizes, self.num_classes)
        params = {}
        for i, (num_in, num_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            key_kernel, key_bias = jax.random.split(jax.random.fold_in(key, i))
            scale = 1 / math.sqrt(num_in) if self.init_scale is None else self.init_scale
            bias_scale = 0.0 if self.init_scale is None else self.init_scale
            params[f"dense_{i}"] = {
                "kernel": scale * jax.random.normal(key_kernel, (num_in, num_out)),
                "bias": bias_scale * jax.random.normal(key_bias, (num_out,)),
            }
        return params

    def loss(self, params: MLPParams, instance: tuple[()], key: Key) -> Scalar:
        """Returns the mean cross-entropy, in nats, of a training minibatch drawn by `key`."""
        del instance
        images, labels = self.images["train"], self.labels["train"]
        rows = jax.random.randint(key, (self.batch_size,), 0, len(labels))
        logits = self._logits(params, images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def evaluate(self, params: MLPParams, instance: tuple[()], split: str) -> Metrics:
        """Returns the mean cross-entropy and the accuracy over a whole split.

        Args:
          params: parameters, as from `init`.
          instance: `()`.
          split: `"train"`, `"valid"` or `"test"`.

        Returns:
          `{"loss": in nats, "accuracy": from 0 to 1}`.

        Raises:
          ValueError: the task has no such split.
        """
        del instance
        datasets.check_split(split, tuple(self.images))

        def measure(example):
            image, label = example
            logits = self._logits(params, image)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return {"loss": loss, "accuracy": (jnp.argmax(logits) == label).astype(loss.dtype)}

        examples = (self.images[split], self.labels[split])
        metrics = jax.lax.map(measure, examples, batch_size=_EVALUATION_BATCH)
        return jax.tree.map(jnp.mean, metrics)

    def _logits(self, params: MLPParams, images: jax.Array) -> jax.Array:
        """Maps images `[..., pixels]` to logits `[..., num_classes]`."""
        activate = _ACTIVATIONS[self.activation]
        hidden = images.astype(params["dense_0"]["kernel"].dtype) / self.max_pixel
        for i in range(len(self.hidden_sizes)):
            layer = params[f"dense_{i}"]
            hidden = activate(hidden @ layer["kernel"] + layer["bias"])
        layer = params[f"dense_{len(self.hidden_sizes)}"]
        return hidden @ layer["kernel"] + layer["bias"]


def image_classifier(
    dataset: str = "digits",
    *,
    hidden_sizes: Sequence[int] = (20,),
    activation: str = "sigmoid",
    batch_size: int = 128,
    init_scale: float | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    valid_size: int | None = None,
) -> ImageClassifier:
    """Makes an `ImageClassifier` on a data set given by name.

    Args:
      dataset: `"digits"`, `"mnist"`, `"fashion_mnist"` or `"cifar10"`.
      hidden_sizes: the widths of the hidden layers; `()` is softmax regression.
      activation: `"sigmoid"`, `"tanh"`, `"relu"` or `"gelu"`.
      batch_size: the number of examples in a minibatch.
      init_scale: the standard deviation of the starting parameters, or None for LeCun's.
      data_dir: the folder of TFDS data sets; by default `TFDS_DATA_DIR`.
      valid_size: the number of examples cut from the training data for validation; by default
        5,000, and 360 of digits.

    Returns:
      The task, with its data on the default device.

    Raises:
      FileNotFoundError: the data set is missing and cannot be prepared here.
      ValueError: a choice is unknown or out of range, or the data set is damaged.

    Example:
      >>> import jax
      >>> from learned_opt.tasks import image_classifier
      >>> task = image_classifier("digits", hidden_sizes=(20,), activation="relu")
      >>> key = jax.random.key(0)
      >>> params = task.init(key, task.sample(key))
      >>> sorted(task.evaluate(params, (), "valid"))
      ['accuracy', 'loss']
    """
    data = datasets.load_dataset(dataset, data_dir, valid_size=valid_size)
    return ImageClassifier.from_arrays(
        data.splits,
        num_classes=data.num_classes,
        hidden_sizes=hidden_sizes,
        activation=activation,
        batch_size=batch_size,
        init_scale=init_scale,
        max_pixel=data.max_pixel,
    )
