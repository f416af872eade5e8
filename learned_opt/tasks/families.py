"""Families of small problems to learn an optimizer from: each draw differs in more than its data.

They are cheap on purpose: a rule that is to work everywhere needs many kinds of problems more than
large ones.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt.networks.perceptron import ACTIVATIONS
from learned_opt.tasks import datasets
from learned_opt.tasks.checks import positive, static
from learned_opt.types import Key, Metrics, Params, Scalar

_ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "elu")
_GAINS = (0.5, 2.0)  # the range of what starting kernels are multiplied by
_SMALLEST = 512  # examples in the smallest training set
_DIMS = 8  # inputs of a random function
_POINTS = 512  # its examples in a split
_NOISE = 0.1  # the standard deviation of the noise on its values, which have about 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerceptronFamily:
    r"""Multilayer perceptrons of one shape, with all else drawn for each problem.

    An instance draws the source of the images (one data set of several), how many of its first
    examples are trained on (half of the time all, else log-uniformly from 512 on), the activation
    (ReLU, tanh, sigmoid, GELU or ELU) and the gain of the starting kernels, log-uniformly in
    [.5, 2] times :math:`1 / \sqrt{\text{fan-in}}`. With `objective='labels'` the loss is the mean
    cross-entropy, with 'inputs' the mean squared error of an autoencoder, and with 'function' that
    of a regression on a random function of 8 inputs, itself a perceptron, with noise; its 512
    training points are drawn with the instance, and images are then left out.

    Make one with `perceptron_family`.

    Attributes:
      inputs: split -> float32 `[sources, n, d]`.
      labels: split -> int32 `[sources, n]`.
      hidden_sizes: widths of the hidden layers.
      num_out: outputs.
      objective: 'labels', 'inputs' or 'function'.
      layer_norm: whether each hidden layer is normalized before its activation.
      batch_size: examples in a minibatch.
    """

    inputs: dict[str, jax.Array]
    labels: dict[str, jax.Array]
    hidden_sizes: tuple[int, ...] = static()
    num_out: int = static()
    objective: str = static(default="labels")
    layer_norm: bool = static(default=False)
    batch_size: int = static(default=32)

    def sample(self, key: Key) -> dict[str, jax.Array]:
        """Draws a problem."""
        keys = jax.random.split(key, 5)
        activation = jax.random.randint(keys[0], (), 0, len(_ACTIVATIONS))
        low, high = (math.log(gain) for gain in _GAINS)
        gain = jnp.exp(jax.random.uniform(keys[1], (), jnp.float32, low, high))
        instance = {"activation": activation, "gain": gain}
        if self.objective == "function":
            return instance | _random_function(keys[2])
        sources, count, _ = self.inputs["train"].shape
        instance["source"] = jax.random.randint(keys[3], (), 0, sources)
        span = math.log(count / min(_SMALLEST, count))
        share = jnp.maximum(jax.random.uniform(keys[4], (), jnp.float32, -1, 1), 0)
        size = count * jnp.exp(-span * share)
        return instance | {"size": size.astype(jnp.int32)}

    def init(self, key: Key, instance: dict[str, jax.Array]) -> Params:
        """Draws parameters: `{"dense_0": {"kernel", "bias"}, "norm_0": {"scale", "bias"}, …}`."""
        num_in = _DIMS if self.objective == "function" else self.inputs["train"].shape[-1]
        sizes = (num_in, *self.hidden_sizes, self.num_out)
        params = {}
        for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            kernel = jax.random.normal(jax.random.fold_in(key, i), (fan_in, fan_out))
            kernel *= instance["gain"] / math.sqrt(fan_in)
            params[f"dense_{i}"] = {"kernel": kernel, "bias": jnp.zeros(fan_out)}
            if self.layer_norm and i < len(self.hidden_sizes):
                params[f"norm_{i}"] = {"scale": jnp.ones(fan_out), "bias": jnp.zeros(fan_out)}
        return params

    def loss(
        self, params: Params, instance: dict[str, jax.Array], key: Key, split: str = "train"
    ) -> Scalar:
        """The mean loss of a minibatch of a split, drawn by `key`."""
        return self._losses(params, instance, *self._examples(instance, split, key)).mean()

    def evaluate(self, params: Params, instance: dict[str, jax.Array], split: str) -> Metrics:
        """The mean loss over a whole split, of 'train' the part that is trained on.

        Raises:
          ValueError: an unknown split.
        """
        inputs, targets = self._examples(instance, split, None)
        losses = self._losses(params, instance, inputs, targets)
        if split == "train" and "size" in instance:
            trained = jnp.arange(len(losses)) < instance["size"]
            return {"loss": jnp.sum(jnp.where(trained, losses, 0)) / instance["size"]}
        return {"loss": losses.mean()}

    def _examples(self, instance, split: str, key: Key | None):
        """Inputs and targets of a minibatch, or of the whole split without a key."""
        datasets.check_split(split)
        if self.objective == "function":
            inputs, targets = instance[f"{split}_inputs"], instance[f"{split}_targets"]
            if key is not None:
                rows = jax.random.randint(key, (self.batch_size,), 0, len(inputs))
                inputs, targets = inputs[rows], targets[rows]
            return inputs, targets
        inputs, labels = self.inputs[split], self.labels[split]
        if key is None:
            inputs, labels = inputs[instance["source"]], labels[instance["source"]]
        else:
            size = instance["size"] if split == "train" else inputs.shape[1]
            rows = jax.random.randint(key, (self.batch_size,), 0, size)
            inputs = inputs[instance["source"], rows]
            labels = labels[instance["source"], rows]
        return inputs, inputs if self.objective == "inputs" else labels

    def _losses(self, params, instance, inputs, targets) -> jax.Array:
        hidden = inputs
        for i in range(len(self.hidden_sizes)):
            layer = params[f"dense_{i}"]
            hidden = hidden @ layer["kernel"] + layer["bias"]
            if self.layer_norm:
                norm = params[f"norm_{i}"]
                hidden = jax.nn.standardize(hidden) * norm["scale"] + norm["bias"]
            hidden = jax.lax.switch(
                instance["activation"], [ACTIVATIONS[name] for name in _ACTIVATIONS], hidden
            )
        layer = params[f"dense_{len(self.hidden_sizes)}"]
        outputs = hidden @ layer["kernel"] + layer["bias"]
        if self.objective == "labels":
            return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        return jnp.mean((outputs - targets) ** 2, axis=-1)


def _random_function(key: Key) -> dict[str, jax.Array]:
    """Points and values of a random perceptron, with noise, of every split."""
    keys = jax.random.split(key, 4)
    inputs = jax.random.normal(keys[0], (len(datasets.SPLITS), _POINTS, _DIMS))
    first = jax.random.normal(keys[1], (_DIMS, 32)) * 2 / math.sqrt(_DIMS)
    second = jax.random.normal(keys[2], (32, 1)) / math.sqrt(16)
    values = jnp.tanh(inputs @ first) @ second
    values += _NOISE * jax.random.normal(keys[3], values.shape)
    points: dict[str, jax.Array] = {}
    for split, x, y in zip(datasets.SPLITS, inputs, values, strict=True):
        points |= {f"{split}_inputs": x, f"{split}_targets": y}
    return points


def perceptron_family(
    sources: Sequence[str] = ("digits",),
    *,
    hidden_sizes: Sequence[int] = (32,),
    objective: str = "labels",
    layer_norm: bool = False,
    side: int = 8,
    batch_size: int = 32,
    examples: int = 16_384,
    data_dir: str | None = None,
) -> PerceptronFamily:
    """Makes a `PerceptronFamily` on small grey versions of image data sets.

    Args:
      sources: data sets by name; see `image_classifier`. Of 'digits' there are 1,077 examples.
      hidden_sizes: widths of the hidden layers.
      objective: 'labels', 'inputs' or 'function'; the last takes no images.
      layer_norm: whether hidden layers are normalized.
      side: pixels of a side that images are averaged down to.
      batch_size: examples in a minibatch.
      examples: the most training examples of a source; all sources give as many as the smallest.
      data_dir: as for `image_classifier`.

    Raises:
      ValueError: an unknown choice, no sources, or minibatches larger than their training sets.
      FileNotFoundError: a data set is missing.
    """
    if objective not in ("labels", "inputs", "function"):
        raise ValueError(
            f"unknown objective {objective!r}: expected 'labels', 'inputs' or 'function'"
        )
    sizes = tuple(positive("hidden_sizes", size) for size in hidden_sizes)
    settings: dict[str, Any] = {
        "objective": objective,
        "layer_norm": layer_norm,
        "batch_size": positive("batch_size", batch_size),
    }
    if objective == "function":
        return PerceptronFamily({}, {}, sizes, 1, **settings)
    if not sources:
        raise ValueError("sources must name at least one data set")
    loaded = [
        datasets.averaged_down(datasets.load_dataset(name, data_dir), side).splits
        for name in sources
    ]
    inputs, labels = {}, {}
    for split in datasets.SPLITS:
        count = min(examples, *(len(data[split].labels) for data in loaded))
        flat = [data[split].images[:count].reshape(count, -1) for data in loaded]
        inputs[split] = jnp.stack(flat)
        labels[split] = jnp.stack([jnp.asarray(data[split].labels[:count]) for data in loaded])
    if batch_size > inputs["train"].shape[1]:
        raise ValueError(
            f"batch_size {batch_size} is larger than the {inputs['train'].shape[1]} training "
            "examples of a source"
        )
    num_out = side * side if objective == "inputs" else 10
    return PerceptronFamily(inputs, labels, sizes, num_out, **settings)
