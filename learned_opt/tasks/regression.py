"""Regression: a perceptron on arrays of numbers, and autoencoders, whose targets are the inputs."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.networks import Network, Perceptron
from learned_opt.tasks import datasets
from learned_opt.tasks.checks import positive, static
from learned_opt.types import Key, Metrics, Params, Scalar

_EVALUATION_BATCH = 1000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Regression:
    """Mean squared error of a network over a minibatch of examples.

    f(θ) = 1/(B K) Σ_b ‖z(x_b / scale; θ) − y_b‖², y_b of K numbers; of an autoencoder y_b is
    x_b / scale. The B examples are drawn with replacement by the key given to `loss`.

    Make one with `Regression.from_arrays` (your own data), `regression` or `autoencoder`.

    Attributes:
      inputs: split -> array `[n, num_in]`, uint8 or floating point.
      targets: split -> array `[n, num_out]`; None for an autoencoder.
      network: a `learned_opt.networks.Network` from `[batch, num_in]` to `[batch, num_out]`.
      batch_size: the number B of examples in a minibatch.
      scale: what inputs are divided by.
    """

    inputs: dict[str, jax.Array]
    targets: dict[str, jax.Array] | None
    network: Network = static()
    batch_size: int = static(default=128)
    scale: float = static(default=1.0)

    @classmethod
    def from_arrays(
        cls,
        splits: Mapping[str, Any],
        *,
        hidden_sizes: Sequence[int] = (32,),
        activation: str = "relu",
        batch_size: int = 128,
        scale: float = 1.0,
    ) -> "Regression":
        """Makes a task from arrays.

        Args:
          splits: `{"train": (inputs, targets), …}` and, where there are any, also `"valid"` and
            `"test"`; arrays `[n, …]` with examples along the first axis, the other axes are
            flattened. For an autoencoder `{"train": inputs, …}`.
          hidden_sizes: the widths of the hidden layers.
          activation: see `learned_opt.networks.Perceptron`.
          batch_size: the number of examples in a minibatch.
          scale: what inputs are divided by, 255 for images of bytes.

        Raises:
          ValueError: arrays that do not fit together, or a choice out of range.

        Example:
          >>> import numpy as np
          >>> from learned_opt.tasks import Regression
          >>> task = Regression.from_arrays(
          ...     {"train": (np.ones((6, 4)), np.ones((6, 1)))}, hidden_sizes=(3,), batch_size=2
          ... )
          >>> task.network.num_in, task.network.num_out
          (4, 1)
        """
        if "train" not in splits:
            raise ValueError("splits must have an entry 'train'")
        pairs = [isinstance(part, tuple) for part in splits.values()]
        if any(pairs) != all(pairs):
            raise ValueError("either all splits are pairs (inputs, targets) or none is")
        inputs, targets = {}, {}
        for split, part in splits.items():
            datasets.check_split(split)
            x, y = part if all(pairs) else (part, part)
            inputs[split], targets[split] = _rows(split, x), _rows(split, y)
            if len(inputs[split]) != len(targets[split]):
                raise ValueError(f"{split}: there must be as many targets as inputs")
        widths = {(inputs[s].shape[1], targets[s].shape[1]) for s in splits}
        if len(widths) > 1:
            raise ValueError("the examples of all splits must have one shape")
        batch_size = positive("batch_size", batch_size)
        if batch_size > len(inputs["train"]):
            raise ValueError(
                f"batch_size {batch_size} is larger than the {len(inputs['train'])} training "
                "examples"
            )
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        sizes = tuple(positive("hidden_sizes", size) for size in hidden_sizes)
        return cls(
            {split: jnp.asarray(x) for split, x in inputs.items()},
            {split: jnp.asarray(y) for split, y in targets.items()} if all(pairs) else None,
            Perceptron(*widths.pop(), sizes, activation),
            batch_size,
            float(scale),
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
        """Returns the mean squared error of a minibatch of a split, drawn by `key`.

        Raises:
          ValueError: the task has no such split.
        """
        del instance
        datasets.check_split(split, tuple(self.inputs))
        return self._errors(params, split, self._draw(key, split)).mean()

    def minibatch(self, key: Key, split: str = "train") -> tuple[jax.Array, jax.Array]:
        """The minibatch that `loss` draws: inputs in the network's units, and targets."""
        datasets.check_split(split, tuple(self.inputs))
        return self._examples(split, self._draw(key, split), jnp.float32)

    def batch_loss(
        self, params: Params, inputs: jax.Array, targets: jax.Array, key: Key | None = None
    ) -> Scalar:
        """The mean squared error of a minibatch as `minibatch` gives it; `key` is not used."""
        del key
        dtype = jax.tree.leaves(params)[0].dtype
        found = self.network.apply(params, inputs.astype(dtype))
        return jnp.square(found - targets.astype(dtype)).mean()

    def evaluate(self, params: Params, instance: tuple[()], split: str) -> Metrics:
        """Returns the mean squared error over a whole split, `{"loss": …}`.

        Raises:
          ValueError: the task has no such split.
        """
        del instance
        datasets.check_split(split, tuple(self.inputs))
        count = len(self.inputs[split])
        errors = jax.lax.map(
            lambda row: self._errors(params, split, row[None])[0],
            jnp.arange(count),
            batch_size=min(count, _EVALUATION_BATCH),
        )
        return {"loss": errors.mean()}

    def _errors(self, params: Params, split: str, rows: jax.Array) -> jax.Array:
        """The mean squared error of each example."""
        inputs, wanted = self._examples(split, rows, jax.tree.leaves(params)[0].dtype)
        return jnp.square(self.network.apply(params, inputs) - wanted).mean(axis=1)

    def _draw(self, key: Key, split: str) -> jax.Array:
        return jax.random.randint(key, (self.batch_size,), 0, len(self.inputs[split]))

    def _examples(self, split: str, rows: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
        inputs = self.inputs[split][rows].astype(dtype) / self.scale
        return inputs, inputs if self.targets is None else self.targets[split][rows].astype(dtype)


def _rows(split: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{split}: arrays must be [n, …] and not empty, got {array.shape}")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{split}: arrays must be uint8 or floating point, got {array.dtype}")
    if array.dtype != np.uint8:
        if not np.isfinite(array).all():
            raise ValueError(f"{split}: arrays hold NaN or infinite values")
        array = array.astype(np.float32)
    return array.reshape(len(array), -1)


def regression(
    dataset: str = "diabetes",
    *,
    hidden_sizes: Sequence[int] = (32,),
    activation: str = "relu",
    batch_size: int = 32,
) -> Regression:
    """Makes a `Regression` on a table that scikit-learn ships with.

    A fixed permutation divides the rows, 60 % / 20 % / 20 %; columns and targets are standardized
    with the mean and standard deviation of the training rows.

    Args:
      dataset: 'diabetes', 442 rows of 10 columns.
      hidden_sizes: see `Regression.from_arrays`.
      activation: see `Regression.from_arrays`.
      batch_size: see `Regression.from_arrays`.

    Raises:
      ValueError: an unknown data set, or a choice out of range.
    """
    if dataset != "diabetes":
        raise ValueError(f"unknown data set {dataset!r}; known: diabetes")
    from sklearn.datasets import load_diabetes

    inputs, targets = load_diabetes(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(targets))
    table = np.concatenate([inputs, targets[:, None]], axis=1)[order]
    count = len(table) * 6 // 10
    table = (table - table[:count].mean(0)) / table[:count].std(0)
    parts = np.split(table, [count, len(table) * 8 // 10])
    return Regression.from_arrays(
        {s: (p[:, :-1], p[:, -1:]) for s, p in zip(datasets.SPLITS, parts, strict=True)},
        hidden_sizes=hidden_sizes,
        activation=activation,
        batch_size=batch_size,
    )


def autoencoder(
    dataset: str = "digits",
    *,
    hidden_sizes: Sequence[int] = (128, 16, 128),
    activation: str = "relu",
    batch_size: int = 128,
    data_dir: str | os.PathLike[str] | None = None,
) -> Regression:
    """Makes a `Regression` whose targets are its inputs, images of a data set given by name.

    Args:
      dataset: 'digits', 'mnist', 'fashion_mnist' or 'cifar10'.
      hidden_sizes: the widths of the hidden layers, the narrowest one the code.
      activation: see `Regression.from_arrays`.
      batch_size: see `Regression.from_arrays`.
      data_dir: the folder of TFDS data sets; by default `TFDS_DATA_DIR`.

    Raises:
      FileNotFoundError: the data set is missing and cannot be prepared here.
      ValueError: a choice is unknown or out of range.
    """
    data = datasets.load_dataset(dataset, data_dir)
    return Regression.from_arrays(
        {split: part.images for split, part in data.splits.items()},
        hidden_sizes=hidden_sizes,
        activation=activation,
        batch_size=batch_size,
        scale=data.max_pixel,
    )
