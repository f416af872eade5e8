"""Flax models, NNX and Linen, as pure functions of their parameters."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from learned_opt.types import Key, Params

if TYPE_CHECKING:
    from flax import linen, nnx

LossFn = Callable[[Callable[..., Any], Any], Any]

# The arguments of a model's `__call__` that say whether this is training.
MODES = ("deterministic", "use_running_average", "train", "training", "is_training")


@dataclasses.dataclass(frozen=True)
class PureNNX:
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
    def of(
        cls, model: Any, make: Callable | None, loss_fn: LossFn, example: Any
    ) -> tuple[PureNNX, Params, Any]:
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
        parts = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
        if normalizes:
            pure._check_statistics(*parts, loss_fn, example)
        return pure, *parts

    def init(self, key: Key, loss_fn: LossFn, example: Any) -> Params:
        """Draws parameters."""
        from flax import nnx

        del loss_fn, example
        return nnx.to_pure_dict(nnx.state(make_nnx(self.make, nnx.Rngs(key)), nnx.Param))

    def bind(self, params: Params, constants: Any, key: Key | None) -> Callable[..., Any]:
        """The model with these parameters; with a key in training, without in evaluation."""
        return self._call(self._merge(params, constants, key), training=key is not None)

    def _call(self, model: Any, *, training: bool) -> Callable[..., Any]:
        flags = _flags(type(model), training, self.normalizes)
        return lambda *args, **kwargs: model(*args, **flags | kwargs)

    def _check_statistics(
        self, params: Params, constants: Any, loss_fn: LossFn, example: Any
    ) -> None:
        """Checks, without computing, that a step of training renews all statistics of batches."""
        from flax import nnx

        def statistics(model) -> dict[str, Any]:
            found = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
            return {".".join(map(str, path)): leaf.get_value() for path, leaf in found}

        def still(params: Params, constants: Any, example: Any) -> None:
            model = self._merge(params, constants, jax.random.key(0))
            before = statistics(model)
            loss_fn(self._call(model, training=True), example)
            after = statistics(model)
            names = [name for name, value in before.items() if after[name] is value]
            if names:
                raise ValueError(
                    f"a step of training leaves the statistics {', '.join(names)} as they are: "
                    "BatchNorm uses running averages there, of which a task has none. The argument "
                    f"of __call__ that says so must be one of {', '.join(MODES)}, which are set "
                    "for the model, or be given in loss_fn"
                )

        jax.eval_shape(still, params, constants, example)

    def _merge(self, params: Params, constants: Any, key: Key | None) -> nnx.Module:
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
        return model


@dataclasses.dataclass(frozen=True)
class PureLinen:
    """A Linen module as pure functions.

    Attributes:
      module: the module.
      identity: what it is told from others by: the module where it can be hashed, else an object.
      normalizes: whether there are statistics of batches.
    """

    module: linen.Module = dataclasses.field(compare=False)
    identity: Any
    normalizes: bool

    @classmethod
    def of(cls, module: linen.Module, loss_fn: LossFn, example: Any) -> PureLinen:
        """Checks a module and finds out what it holds."""
        from flax import errors

        try:
            hash(module)
            identity: Any = module
        except TypeError:  # fields that are lists, as those of nn.Sequential
            identity = object()
        pure = cls(module, identity, True)
        shapes = jax.eval_shape(
            lambda key: pure._variables(key, loss_fn, example), jax.random.key(0)
        )
        for name in shapes.keys() - {"params", "batch_stats", "intermediates"}:
            raise ValueError(_carried(name, "collection"))
        pure = cls(module, identity, "batch_stats" in shapes)
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
    values = dict.fromkeys(MODES, training or normalizes)
    values |= {"deterministic": not training, "use_running_average": False}
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


def make_nnx(make: Any, rngs: nnx.Rngs) -> nnx.Module:
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
