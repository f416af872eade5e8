"""Random quadratic functions: the synthetic family of the paper."""

import dataclasses

import jax
import jax.numpy as jnp

from learned_opt.tasks import datasets
from learned_opt.types import Key, Metrics, Scalar

_INIT_SCALES = {"uniform": 0.01, "gaussian": 1.0}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quadratic:
    """Functions f(θ) = ‖Wθ − y‖² with random W and y.

    Two families are in use. `"uniform"` is the one of the paper's published code, and of the scale
    of the paper's figure: W_ij, y_i ~ U[0, 1) and θ_0 ~ N(0, 0.01²). `"gaussian"` is the one of the
    paper's text: W_ij, y_i ~ N(0, 1), with θ_0 ~ N(0, 1).

    Attributes:
      num_dims: the number d of coordinates of θ, also the number of rows of W.
      family: `"uniform"` or `"gaussian"`.
      init_scale: the standard deviation of θ_0; None takes the family's.

    Raises:
      ValueError: `num_dims` is below one, the family is unknown, or the scale is negative.

    Example:
      >>> import jax
      >>> from learned_opt.tasks import Quadratic
      >>> task = Quadratic(num_dims=3)
      >>> key = jax.random.key(0)
      >>> instance = task.sample(key)
      >>> params = task.init(key, instance)
      >>> instance["W"].shape, params.shape, task.loss(params, instance, key).shape
      ((3, 3), (3,), ())

    References:
      Andrychowicz et al., Learning to learn by gradient descent by gradient descent, 2016,
      https://arxiv.org/abs/1606.04474
    """

    num_dims: int = dataclasses.field(default=10, metadata={"static": True})
    family: str = dataclasses.field(default="uniform", metadata={"static": True})
    init_scale: float | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        """Checks the choices."""
        if self.num_dims < 1:
            raise ValueError(f"num_dims must be at least 1, got {self.num_dims}")
        if self.family not in _INIT_SCALES:
            raise ValueError(f"unknown family {self.family!r}; known: {', '.join(_INIT_SCALES)}")
        if self.init_scale is not None and not self.init_scale >= 0:
            raise ValueError(f"init_scale must not be negative, got {self.init_scale}")

    def sample(self, key: Key) -> dict[str, jax.Array]:
        """Draws one function, `{"W": [d, d], "y": [d]}`."""
        draw = jax.random.uniform if self.family == "uniform" else jax.random.normal
        key_w, key_y = jax.random.split(key)
        return {
            "W": draw(key_w, (self.num_dims, self.num_dims)),
            "y": draw(key_y, (self.num_dims,)),
        }

    def init(self, key: Key, instance: dict[str, jax.Array]) -> jax.Array:
        """Draws θ_0, an array `[d]`."""
        del instance  # the start does not depend on the function
        scale = _INIT_SCALES[self.family] if self.init_scale is None else self.init_scale
        return scale * jax.random.normal(key, (self.num_dims,))

    def loss(
        self,
        params: jax.Array,
        instance: dict[str, jax.Array],
        key: Key,
        split: str = "train",
    ) -> Scalar:
        """Returns f(params), for every key and split: a function has no examples to draw."""
        del key
        datasets.check_split(split)
        return _value(params, instance)

    def evaluate(self, params: jax.Array, instance: dict[str, jax.Array], split: str) -> Metrics:
        """Returns `{"loss": f(params)}`, the same for every split."""
        datasets.check_split(split)
        return {"loss": _value(params, instance)}


def _value(params, instance):
    return jnp.sum((instance["W"] @ params - instance["y"]) ** 2)
