"""A task with a convex term added to its loss, which needs care with step sizes of its own."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.tasks.checks import not_negative, positive, static
from learned_opt.types import Instance, Key, Metrics, Params, Scalar, Task
from learned_opt.unroll import checked_loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithConvexTerm:
    r"""A task's loss plus a convex term in parameters of its own.

    .. math:: f(w) + \mathrm{mean}_i \min((s_i x_i - a_i)^2, 10), \quad a_i \sim U(-1, 1), \quad
              s_i = e^{U(-r, r)}

    with x = z / s at the start, z ~ U(−1, 1): one of the two ways in which RNNprop is kept from
    learning one network by heart; the other one is random scaling. Parameters are
    `{'task': …, 'convex': [num_dims]}`.

    Attributes:
      task: the task.
      num_dims: dimensions of the convex term.
      log_range: r; 0 for no scaling.

    Raises:
      ValueError: no dimension, or an r that is negative or not finite.

    Reference: Lv, Jiang and Li, *Learning gradient descent: better generalization and longer
    horizons*, 2017, section 4.
    """

    task: Task
    num_dims: int = static(default=20)
    log_range: float = static(default=1.0)

    def __post_init__(self):
        """Checks the choices."""
        positive("num_dims", self.num_dims)
        not_negative(log_range=self.log_range)

    def sample(self, key: Key) -> Instance:
        """Draws the task's problem, the minimum a and the scales s."""
        key_task, key_a, key_s = jax.random.split(key, 3)
        shape, r = (self.num_dims,), self.log_range
        return {
            "task": self.task.sample(key_task),
            "minimum": jax.random.uniform(key_a, shape, minval=-1, maxval=1),
            "scale": jnp.exp(jax.random.uniform(key_s, shape, minval=-r, maxval=r)),
        }

    def init(self, key: Key, instance: Instance) -> Params:
        """Draws the task's starting parameters, and those of the convex term."""
        key_task, key_x = jax.random.split(key)
        z = jax.random.uniform(key_x, (self.num_dims,), minval=-1, maxval=1)
        return {
            "task": self.task.init(key_task, instance["task"]),
            "convex": z / instance["scale"],
        }

    def loss(self, params: Params, instance: Instance, key: Key, split: str = "train") -> Scalar:
        """The sum of the two."""
        loss = checked_loss(self.task, params["task"], instance["task"], key, split)
        return loss + self._term(params, instance).astype(loss.dtype)

    def evaluate(self, params: Params, instance: Instance, split: str) -> Metrics:
        """The task's metrics, with the term added to `loss`."""
        metrics: dict[str, Any] = self.task.evaluate(params["task"], instance["task"], split)
        if "loss" in metrics:
            metrics = metrics | {"loss": metrics["loss"] + self._term(params, instance)}
        return metrics

    def _term(self, params: Params, instance: Instance) -> jax.Array:
        distance = instance["scale"] * params["convex"] - instance["minimum"]
        return jnp.mean(jnp.minimum(distance**2, 10))
