"""Multilayer perceptrons, as pure functions."""

import dataclasses
import math
from typing import TypeAlias

import jax
import jax.numpy as jnp

from learned_opt.types import Key

ACTIVATIONS = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
}

PerceptronParams: TypeAlias = dict[str, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Perceptron:
    """A multilayer perceptron: z = h_L W + b with h_l = σ(h_{l−1} W_l + b_l) and h_0 the input.

    Kernels start from N(0, 1/fan_in) and biases from zero, as in Flax; with a number for
    `init_scale` all of them start from N(0, init_scale²).

    Attributes:
      num_in: the number of inputs.
      num_out: the number of outputs.
      hidden_sizes: the widths of the hidden layers; `()` is a linear map.
      activation: σ, a name in `ACTIVATIONS`.
      init_scale: the standard deviation of the starting parameters, or None for LeCun's.

    Raises:
      ValueError: an unknown activation, or a scale that is negative or not finite.

    Example:
      >>> import jax
      >>> from learned_opt.networks import Perceptron
      >>> network = Perceptron(3, 2, hidden_sizes=(5,), activation="tanh")
      >>> params = network.init(jax.random.key(0))
      >>> network.apply(params, jax.numpy.ones((4, 3))).shape
      (4, 2)
    """

    num_in: int
    num_out: int
    hidden_sizes: tuple[int, ...] = (20,)
    activation: str = "sigmoid"
    init_scale: float | None = None

    def __post_init__(self) -> None:
        """Checks the choices."""
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"unknown activation {self.activation!r}; known: {known}")
        scale = self.init_scale
        if scale is not None and not (scale >= 0 and math.isfinite(scale)):
            raise ValueError(f"init_scale must be finite and not negative, got {scale}")

    def init(self, key: Key) -> PerceptronParams:
        """Draws parameters, `{"dense_0": {"kernel": [in, out], "bias": [out]}, …}`."""
        sizes = (self.num_in, *self.hidden_sizes, self.num_out)
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

    def apply(self, params: PerceptronParams, inputs: jax.Array) -> jax.Array:
        """Maps inputs `[batch, …]`, flattened, to `[batch, num_out]`."""
        activate = ACTIVATIONS[self.activation]
        hidden = inputs.reshape(len(inputs), -1)
        for i in range(len(self.hidden_sizes)):
            layer = params[f"dense_{i}"]
            hidden = activate(hidden @ layer["kernel"] + layer["bias"])
        layer = params[f"dense_{len(self.hidden_sizes)}"]
        return hidden @ layer["kernel"] + layer["bias"]
