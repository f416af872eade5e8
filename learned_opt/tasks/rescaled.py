"""A task in other units: what makes a rule learn steps that do not depend on them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.tasks.checks import not_negative, static
from learned_opt.types import Key, Metrics, Params, Scalar, Task
from learned_opt.unroll import checked_loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rescaled:
    r"""Another task with its parameters in other units, drawn for each problem.

    .. math:: \tilde f(w) = f(\alpha w), \qquad \tilde w_0 = w_0 / \alpha, \qquad
              \log_{10} |\alpha| \sim U(-d, d)

    Gradients are α times as large and the way to go α times as short, so SGD goes the same way
    with a learning rate α² times as small, and Adam with one |α| times as small.

    With `signs`, α is negative for every second one: an odd rule, as every hand-designed one is,
    goes the same way. A network that sees minibatches where thousands of gradients share their sign
    learns to lean to one side otherwise, and the noise of that hides the rest of its meta-gradient.

    Attributes:
      task: the task.
      decades: d.
      per: what has an α of its own: the 'problem', each 'tensor' or each 'coordinate'.
      signs: whether the signs of α are random too.

    Raises:
      ValueError: an unknown `per`, `decades` that are negative or not finite, or `signs` that are
        no bool.

    Reference: Metz et al., *VeLO: training versatile learned optimizers by scaling up*, 2022,
    appendix on task augmentation; Lv et al., *Learning gradient descent*, 2017, section 4.1
    (random scaling).
    """

    task: Task
    decades: float = static(default=1.0)
    per: str = static(default="tensor")
    signs: bool = static(default=False)

    def __post_init__(self) -> None:
        """Checks the choices."""
        if self.per not in ("problem", "tensor", "coordinate"):
            raise ValueError(
                f"unknown per {self.per!r}: expected 'problem', 'tensor' or 'coordinate'"
            )
        not_negative(decades=self.decades)
        if not isinstance(self.signs, bool):
            raise ValueError(f"signs must be True or False, got {self.signs!r}")

    def sample(self, key: Key) -> dict[str, Any]:
        """Draws a problem of the task, and the α of its parameters."""
        key_task, key_scale = jax.random.split(key)
        instance = self.task.sample(key_task)
        params = jax.eval_shape(lambda: self.task.init(key, instance))
        leaves, treedef = jax.tree.flatten(params)
        draws = len(leaves) if self.per != "problem" else 1
        keys = jax.random.split(key_scale, draws)
        scales = [
            self._scale(keys[n % draws], leaf.shape if self.per == "coordinate" else ())
            for n, leaf in enumerate(leaves)
        ]
        return {"task": instance, "scales": jax.tree.unflatten(treedef, scales)}

    def _scale(self, key: Key, shape: tuple[int, ...]) -> jax.Array:
        scale = 10.0 ** jax.random.uniform(key, shape, jnp.float32, -self.decades, self.decades)
        return scale * jax.random.rademacher(key, shape, scale.dtype) if self.signs else scale

    def init(self, key: Key, instance: dict[str, Any]) -> Params:
        """The task's starting parameters, divided by α."""
        params = self.task.init(key, instance["task"])
        return jax.tree.map(lambda p, a: p / a.astype(p.dtype), params, instance["scales"])

    def loss(
        self, params: Params, instance: dict[str, Any], key: Key, split: str = "train"
    ) -> Scalar:
        """The task's loss at α times the parameters."""
        params = _scaled(params, instance)
        return checked_loss(self.task, params, instance["task"], key, split)

    def evaluate(self, params: Params, instance: dict[str, Any], split: str) -> Metrics:
        """The task's metrics at α times the parameters."""
        return self.task.evaluate(_scaled(params, instance), instance["task"], split)


def _scaled(params: Params, instance: dict[str, Any]) -> Params:
    return jax.tree.map(lambda p, a: p * a.astype(p.dtype), params, instance["scales"])
