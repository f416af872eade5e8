"""Networks as pure functions, and Flax NNX modules made into them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import jax

from learned_opt.types import Key, Params, Theta

if TYPE_CHECKING:
    from flax import nnx


class Network(Protocol):
    """What a task optimizes: two pure functions, in a hashable value that a task holds as static.

    Two networks that are equal have the same functions, so that programs are compiled once.
    """

    def init(self, key: Key) -> Params:
        """Draws starting parameters."""

    def apply(self, params: Params, inputs: jax.Array) -> jax.Array:
        """Maps a batch of inputs to outputs."""


@dataclasses.dataclass(frozen=True)
class FlaxNetwork:
    """An NNX module as a `Network`: `make(*sizes, rngs=rngs)` builds it.

    Attributes:
      make: the module's class, or a function that returns a module whose state is `nnx.Param`
        alone.
      sizes: what it is called with, hashable.
    """

    make: Callable[..., Any]
    sizes: tuple[Any, ...]

    def init(self, key: Key) -> Params:
        """Draws starting parameters, a nested dict."""
        return _functions(self)[0](key)

    def apply(self, params: Params, inputs: jax.Array) -> jax.Array:
        """Calls the module."""
        return _functions(self)[1](params, inputs)


@functools.lru_cache
def _functions(network: FlaxNetwork):
    return functional(lambda rngs: network.make(*network.sizes, rngs=rngs))


def functional(
    make_module: Callable[[nnx.Rngs], nnx.Module],
) -> tuple[Callable[[Key], Theta], Callable[..., Any]]:
    """Makes an NNX module pure: `init(key) -> theta` and `apply(theta, *args) -> output`.

    The module is split once, abstractly, and merged with θ while tracing, so it costs nothing at
    run time. θ is the module's `nnx.Param` state as a plain nested dict of arrays.

    Args:
      make_module: builds the module from `nnx.Rngs`. It must hold no state but `nnx.Param`.

    Returns:
      The pair `(init, apply)`. `apply` calls the module: `module(*args)`.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> init, apply = functional(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
      >>> theta = init(jax.random.key(0))
      >>> apply(theta, jax.numpy.ones((1, 2))).shape
      (1, 3)
    """
    from flax import nnx  # half a second, which `import learned_opt` need not take

    graphdef, _ = nnx.split(nnx.eval_shape(lambda: make_module(nnx.Rngs(0))), nnx.Param)

    def init(key: Key) -> Theta:
        return nnx.to_pure_dict(nnx.state(make_module(nnx.Rngs(key)), nnx.Param))

    def apply(theta: Theta, *args: Any, **kwargs: Any) -> Any:
        return nnx.merge(graphdef, nnx.State(theta))(*args, **kwargs)

    return init, apply
