"""Tasks with noisier gradients, so that a rule meets every kind of noise while it is trained."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt.tasks.augmented import Supervised, abstract_minibatch
from learned_opt.tasks.checks import not_negative, static
from learned_opt.types import Instance, Key, Metrics, Params, Scalar
from learned_opt.unroll import checked_loss

_SALT = 0x6E0


@jax.custom_vjp
def _pass(w: jax.Array, std: jax.Array, bits: jax.Array) -> jax.Array:
    """Passes w on; noise is added to the gradient on its way back."""
    del std, bits
    return w


def _forward(w, std, bits):
    return w, (std, bits)


def _backward(kept, grad):
    std, bits = kept
    noise = jax.random.normal(jax.random.wrap_key_data(bits), grad.shape, jnp.float32)
    size = jnp.sqrt(jnp.mean(jnp.square(grad.astype(jnp.float32))))
    return grad + (std * size * noise).astype(grad.dtype), jnp.zeros_like(std), None


_pass.defvjp(_forward, _backward)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithGradientNoise:
    r"""A task whose training gradients have Gaussian noise of their own size added.

    .. math:: \tilde g = g + s\, \sigma\, \mathrm{RMS}(g)\, \varepsilon, \quad
              \varepsilon \sim N(0, I), \quad \log_{10} s \sim U(-d, 0)

    tensor by tensor, drawn afresh for every minibatch; s is drawn for each problem. Losses are the
    task's own, and so is the mean of the gradients.

    Attributes:
      task: the task.
      std: σ, the most noise, in units of a tensor's root mean square gradient.
      decades: d; 0 for the same noise in every problem.

    Raises:
      ValueError: a number that is negative or not finite.

    Reference: Neelakantan et al., *Adding gradient noise improves learning for very deep networks*,
    2015, section 3 (there of a size of its own, decaying).
    """

    task: Any
    std: float = static(default=1.0)
    decades: float = static(default=2.0)

    def __post_init__(self) -> None:
        """Checks the numbers."""
        not_negative(std=self.std, decades=self.decades)

    def sample(self, key: Key) -> dict[str, Any]:
        """Draws a problem of the task, and its noise σ s."""
        key_task, key_std = jax.random.split(key)
        power = jax.random.uniform(key_std, (), jnp.float32, -self.decades, 0)
        return {"task": self.task.sample(key_task), "std": self.std * 10.0**power}

    def init(self, key: Key, instance: Instance) -> Params:
        """Draws the task's starting parameters."""
        return self.task.init(key, instance["task"])

    def loss(self, params: Params, instance: Instance, key: Key, split: str = "train") -> Scalar:
        """The task's loss; the gradient of that of 'train' is noisy."""
        if split == "train":
            leaves, treedef = jax.tree.flatten(params)
            keys = jax.random.split(jax.random.fold_in(key, _SALT), len(leaves))
            noisy = [
                _pass(w, instance["std"], jax.random.key_data(k))
                for w, k in zip(leaves, keys, strict=True)
            ]
            params = jax.tree.unflatten(treedef, noisy)
        return checked_loss(self.task, params, instance["task"], key, split)

    def evaluate(self, params: Params, instance: Instance, split: str) -> Metrics:
        """The task's own metrics."""
        return self.task.evaluate(params, instance["task"], split)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithBatchSizes:
    """A task whose problems have training minibatches of B, B/2, B/4, … examples, each as often.

    Attributes:
      task: an image classifier or a regression, with minibatches of B examples.
      halvings: how often B is halved at most, while at least one example is left.

    Raises:
      TypeError: a task that has no minibatches.
      ValueError: halvings that B does not allow.
    """

    task: Any
    halvings: int = static(default=3)

    def __post_init__(self) -> None:
        """Checks that the minibatches can be halved; not while a PyTree of anything is rebuilt."""
        minibatch = abstract_minibatch(self)
        if minibatch is None:
            return
        inputs, _ = minibatch
        if self.halvings < 0 or len(inputs) % 2**self.halvings:
            raise ValueError(f"minibatches of {len(inputs)} cannot be halved {self.halvings} times")

    def sample(self, key: Key) -> dict[str, Any]:
        """Draws a problem of the task, and how often its minibatches are halved."""
        key_task, key_size = jax.random.split(key)
        halved = jax.random.randint(key_size, (), 0, self.halvings + 1)
        return {"task": self.task.sample(key_task), "halved": halved}

    def init(self, key: Key, instance: Instance) -> Params:
        """Draws the task's starting parameters."""
        return self.task.init(key, instance["task"])

    def loss(self, params: Params, instance: Instance, key: Key, split: str = "train") -> Scalar:
        """The mean loss of the first examples of the task's minibatch, as many as were drawn."""
        if split != "train":
            return checked_loss(self.task, params, instance["task"], key, split)
        task: Supervised = self.task
        inputs, targets = task.minibatch(key, split)
        # each example as often as the others: the mean over them, in the shape of all
        rows = jnp.arange(len(inputs)) % (len(inputs) >> instance["halved"])
        return task.batch_loss(params, inputs[rows], targets[rows], key)

    def evaluate(self, params: Params, instance: Instance, split: str) -> Metrics:
        """The task's own metrics."""
        return self.task.evaluate(params, instance["task"], split)
