"""A task from one's own Flax model, NNX or Linen, its loss function and arrays."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from learned_opt.tasks import datasets
from learned_opt.tasks.checks import positive, static
from learned_opt.types import Key, Metrics, Params, Scalar

if TYPE_CHECKING:
    from flax import linen, nnx

    Model = nnx.Module | linen.Module | Callable[[nnx.Rngs], nnx.Module]

LossFn = Callable[[Callable[..., Any], Any], Any]


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
    model: _NNX | _Linen = static()
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
      TypeError: not a Flax model, or a Linen module with fields that cannot be hashed.
      ValueError: data of wrong shapes, or a model with state that is carried from call to call
        (a Linen BatchNorm that was told to use running averages, too).

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
    pure: _NNX | _Linen
    if isinstance(model, linen.Module):
        example = jax.tree.map(lambda x: x[:batch_size], data["train"])
        pure = _Linen.of(model, loss_fn, example)
    elif isinstance(model, nnx.Module):
        pure, start, constants = _NNX.of(model, None)
    elif callable(model) and not (isinstance(model, type) and issubclass(model, linen.Module)):
        pure, _, constants = _NNX.of(_make(model, nnx.Rngs(0)), model)
    else:
        raise TypeError(
            f"from_flax needs an NNX module, a function rngs -> NNX module, or a Linen module (an "
            f"instance of it), got {model!r}"
        )
    evaluation_batch = positive("evaluation_batch", evaluation_batch)
    return FlaxTask(data, start, constants, pure, loss_fn, batch_size, evaluation_batch)


@dataclasses.dataclass(frozen=True)
class _NNX:
    """An NNX model as pure functions.

    Attributes:
      graphdef: its structure.
      make: draws a new one; None for an instance.
      streams: path and shape of the key of every random stream.
      normalizes: whether there are statistics of batches.
    """

    graphdef: Any
    make: Callable[..., nnx.Module] | None
    streams: tuple[tuple[tuple, tuple[int, ...]], ...]
    normalizes: bool

    @classmethod
    def of(cls, model: Any, make: Callable | None) -> tuple[_NNX, Params, Any]:
        """Splits a model: its pure form, its parameters, and all else that it holds."""
        from flax import nnx

        if not isinstance(model, nnx.Module):
            raise TypeError(f"the model's function must return an NNX module, got {model!r}")
        graphdef, *states = nnx.split(model, nnx.Param, nnx.RngKey, ...)
        params, keys, rest = states
        allowed = (nnx.BatchStat, nnx.RngCount)
        for path, leaf in nnx.to_flat_state(rest):
            if isinstance(leaf, nnx.Variable) and not isinstance(leaf, allowed):
                raise ValueError(_carried(".".join(map(str, path)), type(leaf).__name__))
        normalizes = any(isinstance(x, nnx.BatchStat) for _, x in nnx.to_flat_state(rest))
        streams = tuple((path, jnp.shape(key[...])) for path, key in nnx.to_flat_state(keys))
        pure = cls(graphdef, make, streams, normalizes)
        return pure, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def init(self, key: Key, loss_fn: LossFn, example: Any) -> Params:
        """Draws parameters."""
        from flax import nnx

        del loss_fn, example
        return nnx.to_pure_dict(nnx.state(_make(self.make, nnx.Rngs(key)), nnx.Param))

    def bind(self, params: Params, constants: Any, key: Key | None) -> Callable[..., Any]:
        """The model with these parameters; with a key in training, without in evaluation."""
        from flax import nnx, traverse_util

        from learned_opt.networks.convolution import conv_general_dilated

        native = jax.lax.conv_general_dilated

        source = jax.random.key(0) if key is None else key
        keys = {
            path: jax.random.split(jax.random.fold_in(source, n), shape)
            for n, (path, shape) in enumerate(self.streams)
        }
        states = (params, traverse_util.unflatten_dict(keys), constants)
        model = nnx.merge(self.graphdef, *map(nnx.State, states))
        for _, layer in nnx.iter_modules(model):
            if isinstance(layer, nnx.Conv) and layer.conv_general_dilated is native:
                layer.conv_general_dilated = conv_general_dilated
        model.set_attributes(
            deterministic=key is None, use_running_average=False, raise_if_not_found=False
        )
        if key is None:  # even where arguments of __call__ say that this is training
            model.set_attributes(nnx.Dropout, rate=0.0, raise_if_not_found=False)
            model.set_attributes(dropout_rate=0.0, raise_if_not_found=False)
        flags = _flags(type(model), key is not None, self.normalizes)
        return lambda *args, **kwargs: model(*args, **flags | kwargs)


@dataclasses.dataclass(frozen=True)
class _Linen:
    """A Linen module as pure functions.

    Attributes:
      module: the module.
      normalizes: whether there are statistics of batches.
    """

    module: linen.Module
    normalizes: bool

    @classmethod
    def of(cls, module: linen.Module, loss_fn: LossFn, example: Any) -> _Linen:
        """Checks a module and finds out what it holds."""
        from flax import errors

        try:
            hash(module)
        except TypeError:
            raise TypeError(
                f"the fields of {type(module).__name__} must be hashable: tuples, not lists"
            ) from None
        pure = cls(module, True)
        shapes = jax.eval_shape(
            lambda key: pure._variables(key, loss_fn, example), jax.random.key(0)
        )
        for name in shapes.keys() - {"params", "batch_stats", "intermediates"}:
            raise ValueError(_carried(name, "collection"))
        pure = cls(module, "batch_stats" in shapes)
        try:
            for key in (jax.random.key(0), None):
                jax.eval_shape(
                    lambda params, key=key: loss_fn(pure.bind(params, (), key), example),
                    shapes.get("params", {}),
                )
        except errors.InvalidRngError as error:
            raise ValueError(
                f"{str(error).partition(' (http')[0]}: beside nn.Dropout, random numbers are off "
                "in evaluation only by an argument `deterministic` of __call__ (BatchNorm follows "
                "`train`), and the only state is that of BatchNorm"
            ) from error
        return pure

    def init(self, key: Key, loss_fn: LossFn, example: Any) -> Params:
        """Draws parameters, for the inputs with which `loss_fn` calls the model."""
        return self._variables(key, loss_fn, example).get("params", {})

    def bind(self, params: Params, constants: Any, key: Key | None) -> Callable[..., Any]:
        """The model with these parameters; with a key in training, without in evaluation."""
        from flax import linen

        del constants
        flags = _flags(type(self.module), key is not None, self.normalizes)
        calls: list[None] = []  # every call of the model in one loss has its own dropout

        def call(*args: Any, **kwargs: Any) -> Any:
            rngs = None if key is None else _rngs(jax.random.fold_in(key, len(calls)))
            calls.append(None)
            with linen.intercept_methods(_of_the_batch if key is not None else _without_dropout):
                out, _ = self.module.apply(
                    {"params": params}, *args, rngs=rngs, mutable=["batch_stats"], **flags | kwargs
                )
            return out

        return call

    def _variables(self, key: Key, loss_fn: LossFn, example: Any) -> dict[str, Any]:
        flags = _flags(type(self.module), True, self.normalizes)
        found: dict[str, Any] = {}

        def call(*args: Any, **kwargs: Any) -> Any:
            if not found:
                rngs = {"params": key} | _rngs(jax.random.fold_in(key, 0))
                out, variables = self.module.init_with_output(rngs, *args, **flags | kwargs)
                found.update(variables)
                return out
            return self.module.apply(
                found, *args, rngs=_rngs(key), mutable=["batch_stats"], **flags | kwargs
            )[0]

        loss_fn(call, example)
        if not found:
            raise ValueError("loss_fn(model, batch) must call its model")
        return found


def _flags(model: type, training: bool, normalizes: bool) -> dict[str, bool]:
    """The arguments of `__call__` that say whether this is training."""
    values = {
        "deterministic": not training,
        "use_running_average": False,
        "train": training or normalizes,
        "training": training or normalizes,
        "is_training": training or normalizes,
    }
    taken = inspect.signature(model.__call__).parameters
    return {name: value for name, value in values.items() if name in taken}


def _rngs(key: Key) -> dict[str, Key]:
    return {"dropout": key}


def _of_the_batch(call, args, kwargs, context):
    """Refuses BatchNorm with running averages, which would never move."""
    from flax import linen

    if isinstance(context.module, linen.BatchNorm) and context.method_name == "__call__":
        flag = args[1] if len(args) > 1 else kwargs.get("use_running_average")
        if context.module.use_running_average if flag is None else flag:
            raise ValueError(
                f"BatchNorm {context.module.name!r} uses running averages, of which a task has "
                "none: make the model for training (fields such as train=True, or an argument "
                "`train` of __call__, which is set for it)"
            )
    return call(*args, **kwargs)


def _without_dropout(call, args, kwargs, context):
    from flax import linen

    if isinstance(context.module, linen.Dropout) and context.method_name == "__call__":
        return args[0] if args else kwargs["inputs"]
    return _of_the_batch(call, args, kwargs, context)


def _make(make: Any, rngs: nnx.Rngs) -> nnx.Module:
    """Calls `make(rngs)`, or `make(rngs=rngs)` where that is how classes take them."""
    if isinstance(make, type | functools.partial):
        return make(rngs=rngs)
    parameter = inspect.signature(make).parameters.get("rngs")
    keyword = parameter is not None and parameter.kind is parameter.KEYWORD_ONLY
    return make(rngs=rngs) if keyword else make(rngs)


def _carried(name: str, kind: str) -> str:
    return (
        f"the model has {name} ({kind}), state that is carried from call to call; a task optimizes "
        "a function of its parameters: parameters, BatchNorm and dropout are all it may have"
    )


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
