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

_SALT = 0xD20  # dropout's key is that of the minibatch folded with this

PerceptronParams: TypeAlias = dict[str, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Perceptron:
    """A multilayer perceptron: z = h_L W + b with h_l = σ(h_{l−1} W_l + b_l) and h_0 the input.

    With `batch_norm`, h_l = σ(s_l · norm(h_{l−1} W_l) + b_l), where norm subtracts the batch's mean
    and divides by its standard deviation, √(variance + 1e-5), unit by unit, in training and in
    evaluation alike: there are no running statistics (Ioffe and Szegedy, 2015). With `dropout` r,
    in training each hidden unit is zero with probability r, and else divided by 1 − r (Srivastava
    et al., 2014).

    Kernels start from N(0, 1/fan_in) and biases from zero, as in Flax; with a number for
    `init_scale` all of them start from N(0, init_scale²).

    Attributes:
      num_in: the number of inputs.
      num_out: the number of outputs.
      hidden_sizes: the widths of the hidden layers; `()` is a linear map.
      activation: σ, a name in `ACTIVATIONS`.
      init_scale: the standard deviation of the starting parameters, or None for LeCun's.
      dropout: r, in [0, 1).
      batch_norm: whether hidden layers are normalized.

    Raises:
      ValueError: an unknown activation, a scale that is negative or not finite, or a dropout
        outside of [0, 1).

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
    dropout: float = 0.0
    batch_norm: bool = False

    def __post_init__(self) -> None:
        """Checks the choices."""
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"unknown activation {self.activation!r}; known: {known}")
        scale = self.init_scale
        if scale is not None and not (scale >= 0 and math.isfinite(scale)):
            raise ValueError(f"init_scale must be finite and not negative, got {scale}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def init(self, key: Key) -> PerceptronParams:
        """Draws parameters, `{"dense_0": {"kernel": [in, out], "bias": [out]}, …}`.

        With `batch_norm` hidden layers have a `"scale"` too, ones at the start.
        """
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
            if self.batch_norm and i < len(self.hidden_sizes):
                params[f"dense_{i}"]["scale"] = jnp.ones(num_out)
        return params

    def apply(
        self, params: PerceptronParams, inputs: jax.Array, key: Key | None = None
    ) -> jax.Array:
        """Maps inputs `[batch, …]`, flattened, to `[batch, num_out]`; `key` draws dropout."""
        activate = ACTIVATIONS[self.activation]
        hidden = inputs.reshape(len(inputs), -1)
        for i in range(len(self.hidden_sizes)):
            layer = params[f"dense_{i}"]
            hidden = hidden @ layer["kernel"]
            if self.batch_norm:
                mean, variance = hidden.mean(0), hidden.var(0)
                hidden = layer["scale"] * (hidden - mean) * jax.lax.rsqrt(variance + 1e-5)
            hidden = activate(hidden + layer["bias"])
            if self.dropout and key is not None:
                own = jax.random.fold_in(jax.random.fold_in(key, _SALT), i)
                kept = jax.random.bernoulli(own, 1 - self.dropout, hidden.shape)
                hidden = jnp.where(kept, hidden / (1 - self.dropout), 0)
        layer = params[f"dense_{len(self.hidden_sizes)}"]
        return hidden @ layer["kernel"] + layer["bias"]
