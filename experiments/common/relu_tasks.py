"""The task with RNNprop's two tricks: random scales of coordinates, and a convex term."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt.tasks import WithConvexTerm, image_classifier
from learned_opt.tasks.checks import static
from learned_opt.types import Instance, Key, Metrics, Params, Scalar, Task
from learned_opt.unroll import checked_loss


def with_tricks(
    dataset: str = "digits",
    *,
    log_range: float = 3.0,
    convex_log_range: float = 1.0,
    data_dir: str | None = None,
    **settings: Any,
) -> WithConvexTerm:
    """An image classifier with every coordinate scaled by e^U(−3, 3), plus a convex term."""
    task = image_classifier(dataset, data_dir=data_dir, **settings)
    return WithConvexTerm(Rescaled(task, log_range), log_range=convex_log_range)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rescaled:
    """f(s w) started at w_0 / s, with log s ~ U(−r, r) for each coordinate."""

    task: Task
    log_range: float = static()

    def sample(self, key: Key) -> Instance:
        """Draws the problem, and the key of its scales."""
        key_task, key_scale = jax.random.split(key)
        return self.task.sample(key_task), jax.random.key_data(key_scale)

    def init(self, key: Key, instance: Instance) -> Params:
        """Draws the task's start, divided by the scales."""
        params = self.task.init(key, instance[0])
        return jax.tree.map(jnp.divide, params, self._scales(params, instance))

    def loss(self, params: Params, instance: Instance, key: Key, split: str = "train") -> Scalar:
        """The task's loss at the scaled parameters."""
        return checked_loss(self.task, self._scaled(params, instance), instance[0], key, split)

    def evaluate(self, params: Params, instance: Instance, split: str) -> Metrics:
        """The task's metrics at the scaled parameters."""
        return self.task.evaluate(self._scaled(params, instance), instance[0], split)

    def _scaled(self, params: Params, instance: Instance) -> Params:
        return jax.tree.map(jnp.multiply, params, self._scales(params, instance))

    def _scales(self, params: Params, instance: Instance) -> Params:
        logs = optax.tree.random_like(
            jax.random.wrap_key_data(instance[1]), params, jax.random.uniform
        )
        return jax.tree.map(lambda u: jnp.exp(self.log_range * (2 * u - 1)), logs)
