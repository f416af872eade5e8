"""Classification: any network on any labelled arrays."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt.networks import FlaxNetwork, Network, Perceptron
from learned_opt.tasks import datasets
from learned_opt.tasks.checks import (
    check_batch,
    check_network,
    check_splits,
    positive,
    static,
)
from learned_opt.types import Key, Metrics, Params, Scalar

NETWORKS = (
    "mlp", "small_cnn", "tiny_cnn", "normed_cnn", "pooled_cnn", "paper_cnn", "narrow_paper_cnn",
    "all_cnn_c", "resnet_20",
)  # fmt: skip
_EVALUATION_BATCH = 1000  # examples in memory, and in one batch norm, while a split is evaluated


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Classifier:
    """Mean cross-entropy of a network over a minibatch of labelled images.

    f(θ) = −1/B Σ_b log softmax(z(x_b / max_pixel; θ))[y_b]. The B examples are drawn with
    replacement from a split by the key given to `loss`. Pixels are scaled but not centred.

    Make one with `image_classifier` (a data set by name) or `Classifier.from_arrays` (your own
    data); both check what they are given. The data are leaves of this PyTree, so give the task to
    jitted functions as an argument.

    Attributes:
      images: split -> array `[n, …]`, uint8 or floating point.
      labels: split -> int32 array `[n]`.
      num_classes: the number of classes.
      network: a `learned_opt.networks.Network` from images to logits `[batch, num_classes]`.
      batch_size: the number B of examples in a minibatch.
      max_pixel: what images are divided by.
    """

    images: dict[str, jax.Array]
    labels: dict[str, jax.Array]
    num_classes: int = static()
    network: Network = static()
    batch_size: int = static(default=128)
    max_pixel: float = static(default=255.0)

    @classmethod
    def from_arrays(
        cls,
        splits: Mapping[str, tuple[Any, Any]],
        *,
        num_classes: int,
        network: str | Callable[..., Any] = "mlp",
        hidden_sizes: Sequence[int] | None = None,
        activation: str | None = None,
        init_scale: float | None = None,
        dropout: float | None = None,
        batch_norm: bool | None = None,
        batch_size: int = 128,
        max_pixel: float | None = None,
    ) -> "Classifier":
        """Makes a task from arrays.

        Args:
          splits: `{"train": (images, labels), …}` and, where there are any, also `"valid"` and
            `"test"`. Images are uint8 or floating point `[n, …]`, labels integers `[n]` from 0 to
            num_classes − 1.
          num_classes: the number of classes.
          network: `"mlp"` (a multilayer perceptron, the optimizee of the paper's MNIST
            experiments); for images `[n, height, width, channels]` also `"small_cnn"` (two strided
            convolutions), `"normed_cnn"` (the same with batch normalization), `"tiny_cnn"` (that
            one narrower), `"pooled_cnn"` (two on the mean over 2×2 pixels), `"paper_cnn"` (that
            of the paper's CIFAR experiments), `"narrow_paper_cnn"` (with 8 channels), `"all_cnn_c"`
            (Springenberg et al., 2015) or `"resnet_20"` (He et al., 2016); or your own: a function
            `make(image_shape, num_classes, rngs)` that returns a Flax NNX module from images
            `[batch, …]` to logits, with no state but parameters.
          hidden_sizes: of `"mlp"`, the widths of the hidden layers, by default `(20,)`; `()` is
            softmax regression.
          activation: of `"mlp"`, `"sigmoid"` (the default), `"tanh"`, `"relu"`, `"gelu"`, `"elu"`
            or `"silu"`.
          init_scale: of `"mlp"`, the standard deviation of all starting parameters; by default
            kernels start from N(0, 1/fan_in) and biases from zero. (The paper does not say; its
            published code uses 0.01, which opens with a plateau.)
          dropout: of `"mlp"`, the share of hidden units that a training minibatch goes without.
          batch_norm: of `"mlp"`, whether hidden layers are normalized by the batch at hand.
          batch_size: the number of examples in a minibatch.
          max_pixel: what images are divided by; by default 255 for uint8 and 1 for floating point.

        Returns:
          The task, with its data on the default device.

        Raises:
          ValueError: a choice is unknown, out of range or not one of that network; the arrays do
            not fit together, are empty, or hold NaN or infinite values; or the network does not
            give logits `[batch, num_classes]`.

        Example:
          >>> import jax, numpy as np
          >>> from learned_opt.tasks import Classifier
          >>> images, labels = np.zeros((6, 4, 4, 1), np.uint8), np.arange(6) % 3
          >>> splits = {"train": (images, labels)}
          >>> task = Classifier.from_arrays(
          ...     splits, num_classes=3, hidden_sizes=(5,), batch_size=2
          ... )
          >>> params = task.init(jax.random.key(0), ())
          >>> params["dense_0"]["kernel"].shape, params["dense_1"]["kernel"].shape
          ((16, 5), (5, 3))
          >>> task = Classifier.from_arrays(
          ...     splits, num_classes=3, network="small_cnn", batch_size=2
          ... )
          >>> task.init(jax.random.key(0), ())["conv_0"]["kernel"].shape
          (3, 3, 1, 16)

        References:
          Andrychowicz et al., Learning to learn by gradient descent by gradient descent, 2016,
          https://arxiv.org/abs/1606.04474
        """
        num_classes = positive("num_classes", num_classes)
        arrays = check_splits(splits, num_classes)
        batch_size, max_pixel = check_batch(arrays, batch_size, max_pixel)
        settings = {
            "hidden_sizes": hidden_sizes,
            "activation": activation,
            "init_scale": init_scale,
            "dropout": dropout,
            "batch_norm": batch_norm,
        }
        images = arrays["train"][0]
        made = _network(network, images.shape[1:], num_classes, settings)
        example = jax.ShapeDtypeStruct((2, *images.shape[1:]), jnp.float32)
        check_network(made, example, (2, num_classes))
        return cls(
            images={split: jnp.asarray(images) for split, (images, _) in arrays.items()},
            labels={split: jnp.asarray(labels) for split, (_, labels) in arrays.items()},
            num_classes=num_classes,
            network=made,
            batch_size=batch_size,
            max_pixel=max_pixel,
        )

    def sample(self, key: Key) -> tuple[()]:
        """Returns `()`: there is one problem in this family."""
        del key
        return ()

    def init(self, key: Key, instance: tuple[()]) -> Params:
        """Draws the network's starting parameters, a nested dict."""
        del instance
        return self.network.init(key)

    def loss(self, params: Params, instance: tuple[()], key: Key, split: str = "train") -> Scalar:
        """Returns the mean cross-entropy, in nats, of a minibatch of a split, drawn by `key`.

        Raises:
          ValueError: the task has no such split.
        """
        del instance
        datasets.check_split(split, tuple(self.images))
        images, labels = self._draw(key, split)
        logits = self._logits(params, images, key if split == "train" else None)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def minibatch(self, key: Key, split: str = "train") -> tuple[jax.Array, jax.Array]:
        """The minibatch that `loss` draws: images in the network's units, and one-hot labels."""
        datasets.check_split(split, tuple(self.images))
        images, labels = self._draw(key, split)
        return images.astype(jnp.float32) / self.max_pixel, jax.nn.one_hot(labels, self.num_classes)

    def batch_loss(
        self, params: Params, inputs: jax.Array, targets: jax.Array, key: Key | None = None
    ) -> Scalar:
        """The mean of −Σ_k y_k log softmax(z)_k over a minibatch as `minibatch` gives it.

        Args:
          params: parameters, as from `init`.
          inputs: images in the network's units, `[batch, …]`.
          targets: shares of the classes, `[batch, num_classes]`.
          key: draws dropout, where the network has any; None for none.
        """
        dtype = jax.tree.leaves(params)[0].dtype
        logits = self._apply(params, inputs.astype(dtype), key)
        return optax.softmax_cross_entropy(logits, targets.astype(logits.dtype)).mean()

    def evaluate(self, params: Params, instance: tuple[()], split: str) -> Metrics:
        """Returns the mean cross-entropy and the accuracy over a whole split.

        Batch normalization, where the network has any, uses the statistics of 1,000 examples.

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

        def measure(batch):
            images, labels = batch
            logits = self._logits(params, images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            hits = jnp.argmax(logits, axis=-1) == labels
            return {"loss": losses, "accuracy": hits.astype(losses.dtype)}

        examples = (self.images[split], self.labels[split])
        return jax.tree.map(jnp.mean, _in_batches(measure, examples, _EVALUATION_BATCH))

    def _draw(self, key: Key, split: str) -> tuple[jax.Array, jax.Array]:
        images, labels = self.images[split], self.labels[split]
        rows = jax.random.randint(key, (self.batch_size,), 0, len(labels))
        return images[rows], labels[rows]

    def _logits(self, params: Params, images: jax.Array, key: Key | None = None) -> jax.Array:
        dtype = jax.tree.leaves(params)[0].dtype
        return self._apply(params, images.astype(dtype) / self.max_pixel, key)

    def _apply(self, params: Params, inputs: jax.Array, key: Key | None) -> jax.Array:
        if getattr(self.network, "dropout", 0) and key is not None:
            return self.network.apply(params, inputs, key)  # type: ignore[call-arg]
        return self.network.apply(params, inputs)


def _network(network, image_shape, num_classes, settings: dict[str, Any]) -> Network:
    """The network of a name or of the user's function, for these images."""
    given = {name: value for name, value in settings.items() if value is not None}
    if network == "mlp":
        sizes = given.pop("hidden_sizes", (20,))
        sizes = tuple(positive("hidden_sizes", size) for size in sizes)
        return Perceptron(math.prod(image_shape), num_classes, sizes, **given)
    if given:
        raise ValueError(f"{', '.join(given)} belong to network 'mlp', not to {network!r}")
    if not callable(network):
        if network not in NETWORKS:
            raise ValueError(
                f"unknown network {network!r}; known: {', '.join(NETWORKS)}, or a function "
                "make(image_shape, num_classes, rngs) that returns a Flax NNX module"
            )
        if len(image_shape) != 3:
            raise ValueError(
                f"images for {network!r} must be [n, height, width, channels], got [n, "
                f"{', '.join(map(str, image_shape))}]"
            )
        from learned_opt.networks.images import IMAGE_NETWORKS  # Flax takes half a second to import

        network = IMAGE_NETWORKS[network]
    return FlaxNetwork(network, (tuple(image_shape), num_classes))


def _in_batches(measure, examples, size: int):
    """Maps `measure` over batches of examples, and over those that are left; joins the results."""
    count = len(examples[0]) // size * size
    whole = jax.tree.map(lambda x: x[:count].reshape(-1, size, *x.shape[1:]), examples)
    parts = [jax.tree.map(jnp.concatenate, jax.lax.map(measure, whole))] if count else []
    if count < len(examples[0]):
        parts.append(measure(jax.tree.map(lambda x: x[count:], examples)))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def image_classifier(
    dataset: str = "digits",
    *,
    network: str | Callable[..., Any] = "mlp",
    hidden_sizes: Sequence[int] | None = None,
    activation: str | None = None,
    init_scale: float | None = None,
    dropout: float | None = None,
    batch_norm: bool | None = None,
    batch_size: int = 128,
    data_dir: str | os.PathLike[str] | None = None,
    valid_size: int | None = None,
    labels: Sequence[int] | None = None,
    side: int | None = None,
    color: bool = False,
) -> Classifier:
    """Makes a `Classifier` on a data set given by name.

    Args:
      dataset: `"digits"`, `"mnist"`, `"fashion_mnist"` or `"cifar10"`.
      network: `"mlp"`, `"small_cnn"`, `"tiny_cnn"`, `"normed_cnn"`, `"pooled_cnn"`, `"paper_cnn"`,
        `"narrow_paper_cnn"`, `"all_cnn_c"`, `"resnet_20"` or your own, see
        `Classifier.from_arrays`.
      hidden_sizes: of `"mlp"`, the widths of the hidden layers, by default `(20,)`; `()` is softmax
        regression.
      activation: of `"mlp"`, `"sigmoid"` (the default), `"tanh"`, `"relu"`, `"gelu"`, `"elu"` or
        `"silu"`.
      init_scale: of `"mlp"`, the standard deviation of the starting parameters; LeCun's by default.
      dropout: of `"mlp"`, the share of hidden units that a training minibatch goes without.
      batch_norm: of `"mlp"`, whether hidden layers are normalized by the batch at hand.
      batch_size: the number of examples in a minibatch.
      data_dir: the folder of TFDS data sets; by default `TFDS_DATA_DIR`.
      valid_size: the number of examples cut from the training data for validation; by default
        5,000, and 360 of digits.
      labels: the labels whose examples are kept, in every split, renumbered in this order; by
        default all.
      side: pixels of a side that images are averaged down to, by default in grey; without it they
        stay as they are.
      color: whether images that are averaged down keep their colors.

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
    if labels is not None:
        data = datasets.with_labels(data, labels)
    if color and side is None:
        raise ValueError("color belongs to side: images that are not averaged down keep theirs")
    if side is not None:
        data = datasets.averaged_down(data, side, color=color)
    return Classifier.from_arrays(
        data.splits,
        num_classes=data.num_classes,
        network=network,
        hidden_sizes=hidden_sizes,
        activation=activation,
        init_scale=init_scale,
        dropout=dropout,
        batch_norm=batch_norm,
        batch_size=batch_size,
        max_pixel=data.max_pixel,
    )
