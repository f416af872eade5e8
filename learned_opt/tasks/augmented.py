"""A task that learns from changed minibatches: noise, mixtures, other pictures, softer labels."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from learned_opt.tasks.checks import static
from learned_opt.tasks.wrapped import Wrapped
from learned_opt.types import Instance, Key, Params, Scalar, Task
from learned_opt.unroll import checked_loss

_SALT = 0xA06  # the key of the augmentation is that of the minibatch folded with this


class Supervised(Protocol):
    """What a task of examples offers beside `Task`, so that its minibatches can be changed."""

    def minibatch(self, key: Key, split: str = "train") -> tuple[jax.Array, jax.Array]:
        """The inputs and the targets of a minibatch, in the network's units; classes one-hot."""

    def batch_loss(
        self, params: Params, inputs: jax.Array, targets: jax.Array, key: Key | None = None
    ) -> Scalar:
        """The loss of a minibatch; `key` draws dropout, None for none."""


def abstract_minibatch(
    wrapper: Any,
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct] | None:
    """A minibatch of a wrapper's task, shapes alone; None while a PyTree of no task is rebuilt.

    Raises:
      TypeError: the task has no minibatches that could be changed.
    """
    if not isinstance(wrapper.task, Task):
        return None
    if not hasattr(wrapper.task, "minibatch"):
        raise TypeError(
            f"{type(wrapper.task).__name__} has no minibatches that could be changed: give "
            f"{type(wrapper).__name__} an image classifier or a regression, and wrap the result"
        )
    return jax.eval_shape(wrapper.task.minibatch, jax.random.key(0))


def _num_transforms(task: Any) -> int:
    """How many transforms a task has by itself: those around it draw from other keys."""
    count = 0
    while task is not None:
        count += len(getattr(task, "transforms", ()))
        task = getattr(task, "task", None)
    return count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Augmented(Wrapped):
    r"""Another task that learns from changed minibatches.

    .. math:: \tilde f(w; k) = f(w;\; t_n(\ldots t_1(x_k, y_k) \ldots))

    with (x_k, y_k) the minibatch that the task itself draws by the key k. Losses of other splits
    than 'train', and `evaluate`, are the task's own.

    Attributes:
      task: an image classifier or a regression, or such a task regularized.
      transforms: one after another, see `learned_opt.tasks.augmentations`; `()` for none.

    Raises:
      TypeError: a task that has no minibatches to change, or a transform that is no function.
      ValueError: a transform of pictures for a task whose inputs are none, one of classes for a
        regression, or one that mixes targets for targets that are integers.

    Example:
      >>> import jax
      >>> from learned_opt.tasks import Augmented, image_classifier
      >>> from learned_opt.tasks.augmentations import LabelSmoothing, Shift
      >>> task = Augmented(image_classifier("digits"), (Shift(1), LabelSmoothing(0.1)))
      >>> inputs, targets = task.minibatch(jax.random.key(0))
      >>> inputs.shape, round(float(targets[0].max()), 2)
      ((128, 8, 8, 1), 0.91)
    """

    transforms: tuple[Callable[..., Any], ...] = static(default=())

    def __post_init__(self) -> None:
        """Checks that the transforms suit the task; not while a PyTree of anything is rebuilt."""
        minibatch = abstract_minibatch(self)
        if minibatch is None:
            return
        inputs, targets = minibatch
        for transform in self.transforms:
            if not callable(transform):
                raise TypeError(f"a transform must be a function, got {transform!r}")
            name = type(transform).__name__
            if getattr(transform, "pictures_only", False) and len(inputs.shape) != 4:
                raise ValueError(
                    f"{name} needs pictures [batch, height, width, channels], but the inputs of "
                    f"the task are {list(inputs.shape)}"
                )
            if getattr(transform, "classes_only", False) and not hasattr(self.task, "num_classes"):
                raise ValueError(f"{name} needs classes, but the task is a regression")
            mixes = getattr(transform, "mixes_targets", False)
            if mixes and not jnp.issubdtype(targets.dtype, jnp.floating):
                raise ValueError(
                    f"{name} mixes targets, but those of the task are {targets.dtype}: let its "
                    "minibatch give classes as one-hot rows, or numbers, in floating point"
                )

    def minibatch(self, key: Key, split: str = "train") -> tuple[jax.Array, jax.Array]:
        """The task's minibatch; that of 'train' is changed."""
        inputs, targets = self.task.minibatch(key, split)
        if split == "train":
            for n, transform in enumerate(self.transforms, _num_transforms(self.task)):
                own = jax.random.fold_in(jax.random.fold_in(key, _SALT), n)
                inputs, targets = transform(own, inputs, targets)
        return inputs, targets

    def batch_loss(
        self, params: Params, inputs: jax.Array, targets: jax.Array, key: Key | None = None
    ) -> Scalar:
        """The task's loss of a minibatch."""
        return self.task.batch_loss(params, inputs, targets, key)

    def loss(self, params: Params, instance: Instance, key: Key, split: str = "train") -> Scalar:
        """The loss of a minibatch, changed where it is one of 'train'."""
        if split != "train" or not self.transforms:
            return checked_loss(self.task, params, instance, key, split)
        return self.batch_loss(params, *self.minibatch(key), key)
