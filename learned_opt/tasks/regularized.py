"""Tasks whose training loss is not that of the examples alone: penalties and noise on weights."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from learned_opt.tasks.checks import not_negative, static
from learned_opt.tasks.wrapped import Wrapped
from learned_opt.types import Instance, Key, Params, Scalar
from learned_opt.unroll import checked_loss

_SALT = 0x4E0


@dataclasses.dataclass(frozen=True)
class _Regularized(Wrapped):
    @property
    def minibatch(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """The task's own minibatches, where it has any."""
        return self.task.minibatch


def weights(params: Params) -> list[jax.Array]:
    """The arrays of two axes and more: kernels and embeddings, not biases and scales."""
    return [x for x in jax.tree.leaves(params) if jnp.ndim(x) >= 2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithPenalty(_Regularized):
    r"""A task's training loss plus a penalty on its weights.

    .. math:: \tilde f(w) = f(w) + \frac{\lambda_2}{2} \sum_i w_i^2 + \lambda_1 \sum_i |w_i|

    over the arrays of two axes and more; biases and the scales of normalization are left alone. The
    gradient of the first term is λ₂ w. SGD then shrinks weights by 1 − η λ₂ a step, which is
    decoupled weight decay with λ = λ₂. Adam divides that gradient by √v̂ with the rest: weights
    with large gradients are shrunk less, and weight decay (`adamw`) is another thing. The second
    term is that of the lasso; weights come close to zero and are not set to it.

    Attributes:
      task: the task. Losses of splits other than 'train', and `evaluate`, are its own.
      l2: λ₂.
      l1: λ₁.

    Raises:
      ValueError: a weight that is negative or not finite.

    Reference: Krogh and Hertz, *A simple weight decay can improve generalization*, 1991;
    Loshchilov and Hutter, *Decoupled weight decay regularization*, 2019, section 2.

    Example:
      >>> import jax
      >>> from learned_opt.tasks import WithPenalty, image_classifier
      >>> task = WithPenalty(image_classifier("digits"), l2=1e-3)
      >>> params = task.init(jax.random.key(0), ())
      >>> float(task.loss(params, (), jax.random.key(1))) > 2
      True
    """

    l2: float = static(default=0.0)
    l1: float = static(default=0.0)

    def __post_init__(self) -> None:
        """Checks the weights."""
        not_negative(l2=self.l2, l1=self.l1)

    def loss(self, params: Params, instance: Instance, key: Key, split: str = "train") -> Scalar:
        """The task's loss, with the penalty on 'train'."""
        loss = checked_loss(self.task, params, instance, key, split)
        return loss + self._penalty(params).astype(loss.dtype) if split == "train" else loss

    def batch_loss(
        self, params: Params, inputs: jax.Array, targets: jax.Array, key: Key | None = None
    ) -> Scalar:
        """The loss of a minibatch, with the penalty."""
        loss = self.task.batch_loss(params, inputs, targets, key)
        return loss + self._penalty(params).astype(loss.dtype)

    def _penalty(self, params: Params) -> jax.Array:
        found = jnp.float32(0)
        for w in weights(params):
            if self.l2:
                found += self.l2 / 2 * jnp.square(w).sum()
            if self.l1:
                found += self.l1 * jnp.abs(w).sum()
        return found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithWeightNoise(_Regularized):
    r"""A task whose training gradients are taken at weights that Gaussian noise is added to.

    .. math:: \tilde f(w; k) = f(w + \sigma \varepsilon_k; k), \quad \varepsilon_k \sim N(0, I)

    over the arrays of two axes and more, drawn afresh for every minibatch. To second order its mean
    is f + σ²/2 · tr ∇²f over those weights: it keeps away from sharp minima.

    Attributes:
      task: the task. Losses of splits other than 'train', and `evaluate`, are its own.
      std: σ.

    Raises:
      ValueError: a σ that is negative or not finite.

    Reference: An, *The effects of adding noise during backpropagation training on a generalization
    performance*, 1996; Graves, *Practical variational inference for neural networks*, 2011.
    """

    std: float = static(default=0.01)

    def __post_init__(self) -> None:
        """Checks σ."""
        not_negative(std=self.std)

    def loss(self, params: Params, instance: Instance, key: Key, split: str = "train") -> Scalar:
        """The task's loss, at noisy weights on 'train'."""
        if split == "train":
            params = self._noisy(params, key)
        return checked_loss(self.task, params, instance, key, split)

    def batch_loss(
        self, params: Params, inputs: jax.Array, targets: jax.Array, key: Key | None = None
    ) -> Scalar:
        """The loss of a minibatch, at noisy weights where there is a key."""
        params = params if key is None else self._noisy(params, key)
        return self.task.batch_loss(params, inputs, targets, key)

    def _noisy(self, params: Params, key: Key) -> Params:
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(key, _SALT), len(leaves))
        noisy = [
            w + self.std * jax.random.normal(k, w.shape, w.dtype) if jnp.ndim(w) >= 2 else w
            for k, w in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, noisy)
