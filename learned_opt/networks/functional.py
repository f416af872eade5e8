"""Flax NNX modules as pure functions of a plain dict θ."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from learned_opt.types import Key, Theta

if TYPE_CHECKING:
    from flax import nnx


def functional(
    make_module: Callable[[nnx.Rngs], nnx.Module],
) -> tuple[Callable[[Key], Theta], Callable[..., Any]]:
    """Makes an NNX module pure: `init(key) -> theta` and `apply(theta, *args) -> output`.

    The module is split once, abstractly, and merged with θ while tracing, so it costs nothing at
    run time. θ is the module's `nnx.Param`s as a plain nested dict of arrays.

    Args:
      make_module: builds the module from `nnx.Rngs`. It must hold no state but `nnx.Param`s.

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
