"""A task from one's own Flax model, NNX or Linen, its loss function and arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from learned_opt.tasks import datasets
from learned_opt.tasks.checks import positive, static
from learned_opt.tasks.pure_flax import LossFn, PureLinen, PureNNX, make_nnx
from learned_opt.types import Key, Metrics, Params, Scalar

if TYPE_CHECKING:
    from flax import linen, nnx

    Model = nnx.Module | linen.Module | Callable[[nnx.Rngs], nnx.Module]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FlaxTask:
    """The mean loss of a Flax model on minibatches of arrays. Made by `from_flax`.

    Attributes:
      data: split -> a tree of arrays, examples along the leading axis.
      start: where every run starts; () where parameters are drawn.
      constants: what an NNX model holds besides parameters.
      model: the model, made pure.
      loss_fn: `loss_fn(model, batch)`.
      batch_size: examples in a minibatch.
      evaluation_batch: the most examples that `evaluate` passes to the model at once.
    """

    data: dict[str, Any]
    start: Params
    constants: Any
    model: PureNNX | PureLinen = static()
    loss_fn: LossFn = static()
    batch_size: int = static(default=128)
    evaluation_batch: int = static(default=500)

    def sample(self, key: Key) -> tuple[()]:
        """Returns `()`: there is one problem in this family."""
        del key
        return ()

    def init(self, key: Key, instance: tuple[()]) -> Params:
        """Draws the parameters, or returns those of the model instance."""
        del instance
        if self.start != ():
            return self.start
        example = jax.tree.map(lambda x: x[: self.batch_size], self.data["train"])
        return self.model.init(key, self.loss_fn, example)

    def loss(self, params: Params, instance: tuple[()], key: Key, split: str = "train") -> Scalar:
        """Returns the loss of a minibatch that `key` draws, with replacement.

        Dropout draws from `key` too; it is off on splits other than 'train'.
        """
        del instance
        key_batch, key_model = jax.random.split(key)
        examples = self._examples(split)
        index = jax.random.randint(key_batch, (self.batch_size,), 0, _count(examples))
        batch = jax.tree.map(lambda x: x[index], examples)
        return self._measure(params, batch, key_model if split == "train" else None)[0]

    def evaluate(self, params: Params, instance: tuple[()], split: str) -> Metrics:
        """Returns the mean loss and metrics over all examples of a split, dropout off.

        Returns:
          `{"loss": …}` and the metrics of `loss_fn`.

        Raises:
          ValueError: there is no such split.
        """
        del instance
        examples = self._examples(split)
        count = _count(examples)
        # k batches whose sizes differ by one at most: statistics of none are those of a few.
        size, longer = divmod(count, -(-count // self.evaluation_batch))
        cut = longer * (size + 1)
        parts = [self._totals(params, examples, cut, count, size)]
        if longer:
            parts.append(self._totals(params, examples, 0, cut, size + 1))
        return jax.tree.map(lambda *x: sum(x) / count, *parts)

    def _totals(self, params: Params, examples: Any, start: int, stop: int, size: int) -> Metrics:
        """Sums over the examples from `start` to `stop`, in batches of one size."""
        batches = jax.tree.map(lambda x: x[start:stop].reshape(-1, size, *x.shape[1:]), examples)
        means = jax.lax.map(lambda batch: self._metrics(params, batch), batches)
        return jax.tree.map(lambda x: size * x.sum(0), means)

    def _examples(self, split: str) -> Any:
        datasets.check_split(split, tuple(self.data))
        return self.data[split]

    def _metrics(self, params: Params, batch: Any) -> Metrics:
        loss, metrics = self._measure(params, batch, None)
        metrics = {**metrics, "loss": loss}
        for name, value in metrics.items():
            if jnp.shape(value) != ():
                raise TypeError(
                    f"loss_fn must return scalar metrics, but {name} has shape "
                    f"{list(jnp.shape(value))}; return its mean"
                )
        return {n: jnp.asarray(x, jnp.promote_types(x, jnp.float32)) for n, x in metrics.items()}

    def _measure(self, params: Params, batch: Any, key: Key | None) -> tuple[Scalar, Metrics]:
        found = self.loss_fn(self.model.bind(params, self.constants, key), batch)
        if not isinstance(found, tuple):
            return found, {}
        if len(found) != 2 or not isinstance(found[1], dict):
            raise TypeError(
                "loss_fn must return a scalar, or a pair of a scalar and a dict of metrics, got a "
                f"tuple of {', '.join(type(part).__name__ for part in found)}"
            )
        return found


def from_flax(
    model: Model,
    loss_fn: LossFn,
    data: Mapping[str, Any],
    *,
    batch_size: int = 128,
    evaluation_batch: int = 500,
) -> FlaxTask:
    """Makes a task from a Flax model, its loss function and data.

    Parameters alone are optimized and carried from step to step (`nnx.Param`, or the collection
    'params'). The rest is as follows, so that the loss is a function of parameters, data and key:

    - BatchNorm normalizes by the statistics of the batch at hand, in training *and* in `evaluate`,
      whose batches are large ones. There are no running averages.
    - Dropout draws from the key given to `loss`, and is off in `evaluate`.
    - Flags are set for the model: those that NNX's `train()` and `eval()` set, and the arguments
      `deterministic`, `use_running_average`, `train`, `training` and `is_training` of `__call__`
      where it has them. Where there is BatchNorm, `train` is true in `evaluate` too, with dropout
      switched off.

    On CPU, a convolution of XLA is many times slower inside of a compiled loop. Layers `nnx.Conv`
    use `learned_opt.networks.convolution.conv_general_dilated` instead; give it to `linen.Conv` as
    the argument `conv_general_dilated`.

    Args:
      model: an NNX class or function `rngs -> module`, whose parameters are drawn afresh for every
        run; an NNX module, from whose parameters every run starts; or a Linen module.
      loss_fn: `loss_fn(model, batch)`, where `model(*inputs)` gives the model's output and `batch`
        is a tree like those of `data`. It returns the mean loss of the batch, or that and a dict
        of metrics, for example `{'accuracy': …}`.
      data: 'train' and, as far as they are needed, 'valid' and 'test' -> a tree of arrays with the
        examples along the leading axis.
      batch_size: examples in a minibatch.
      evaluation_batch: the most examples that `evaluate` passes to the model at once.

    Returns:
      The task; `evaluate` on a split gives `loss` and the metrics, means over its examples.

    Raises:
      TypeError: not a Flax model.
      ValueError: data of wrong shapes, or a model with state that is carried from call to call
        (BatchNorm that uses running averages, too).

    Example:
      >>> import jax, optax
      >>> from flax import nnx
      >>> from learned_opt import tasks
      >>> def loss_fn(model, batch):
      ...     return optax.l2_loss(model(batch['x']), batch['y']).mean()
      >>> data = {'train': {'x': jax.numpy.ones((30, 4)), 'y': jax.numpy.ones((30, 1))}}
      >>> task = tasks.from_flax(
      ...     lambda rngs: nnx.Linear(4, 1, rngs=rngs), loss_fn, data, batch_size=10
      ... )
      >>> task.init(jax.random.key(0), ())['kernel'].shape
      (4, 1)
    """
    from flax import linen, nnx  # half a second, which `import learned_opt` need not take

    data = _check_data(data)
    batch_size = positive("batch_size", batch_size)
    if batch_size > _count(data["train"]):
        raise ValueError(
            f"batch_size {batch_size} is larger than the {_count(data['train'])} training examples"
        )
    start: Any = ()
    constants: Any = ()
    pure: PureNNX | PureLinen
    example = jax.tree.map(lambda x: x[:batch_size], data["train"])
    if isinstance(model, linen.Module):
        pure = PureLinen.of(model, loss_fn, example)
    elif isinstance(model, nnx.Module):
        pure, start, constants = PureNNX.of(model, None, loss_fn, example)
    elif callable(model) and not (isinstance(model, type) and issubclass(model, linen.Module)):
        pure, _, constants = PureNNX.of(make_nnx(model, nnx.Rngs(0)), model, loss_fn, example)
    else:
        raise TypeError(
            f"from_flax needs an NNX module, a function rngs -> NNX module, or a Linen module (an "
            f"instance of it), got {model!r}"
        )
    evaluation_batch = positive("evaluation_batch", evaluation_batch)
    return FlaxTask(data, start, constants, pure, loss_fn, batch_size, evaluation_batch)


def _count(examples: Any) -> int:
    return len(jax.tree.leaves(examples)[0])


def _check_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the data as arrays, or raises a `ValueError`."""
    if not isinstance(data, Mapping) or "train" not in data:
        raise ValueError("data must be a dict with an entry 'train': {'train': (x, y), …}")
    try:
        arrays = {split: jax.tree.map(jnp.asarray, examples) for split, examples in data.items()}
    except TypeError as error:
        raise ValueError("data must be trees of arrays of numbers") from error
    shapes = set()
    for split, examples in arrays.items():
        datasets.check_split(split)
        leaves = jax.tree.leaves(examples)
        if not leaves or any(x.ndim == 0 for x in leaves) or len({len(x) for x in leaves}) > 1:
            raise ValueError(
                f"{split}: data must be arrays with the same number of examples along the leading "
                f"axis, got shapes {[list(x.shape) for x in leaves]}"
            )
        if len(leaves[0]) == 0:
            raise ValueError(f"{split}: there are no examples")
        shapes.add((jax.tree.structure(examples), tuple((x.shape[1:], x.dtype) for x in leaves)))
    if len(shapes) > 1:
        raise ValueError("the data of all splits must have one structure, one shape and one dtype")
    return arrays
