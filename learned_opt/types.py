"""The core types: what a task, an update rule and an estimator are, and nothing else.

θ (`Theta`) is to a learned rule what the learning rate is to SGD: `rule.transform(theta)` is an
ordinary optax transformation. Hand-designed rules (θ = hyperparameters) and learned rules
(θ = network weights) are the same kind of thing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import optax

Key: TypeAlias = jax.Array  # a scalar key made by `jax.random.key`
Scalar: TypeAlias = jax.Array  # an array of shape []
Params: TypeAlias = Any  # the optimizee's parameters: a PyTree of floating-point arrays
Instance: TypeAlias = Any  # one problem drawn from a task: a PyTree, () where there is only one
Theta: TypeAlias = Any  # the rule's own parameters: a plain nested dict of arrays
Metrics: TypeAlias = dict[str, jax.Array]  # name -> scalar


@runtime_checkable
class Task(Protocol):
    """A distribution over optimization problems f(params).

    A task is a frozen dataclass registered with `jax.tree_util.register_dataclass`: data sets are
    leaves, shapes and choices are static, so that a task is passed to jitted functions as an
    ordinary argument.
    """

    def sample(self, key: Key) -> Instance:
        """Draws one problem of the family; `()` where there is only one."""

    def init(self, key: Key, instance: Instance) -> Params:
        """Draws starting parameters for the problem."""

    def loss(self, params: Params, instance: Instance, key: Key, split: str = "train") -> Scalar:
        """The loss of a minibatch of a split; `key` draws it (and dropout, augmentation).

        A task may leave `split` out: `loss` is called with three arguments unless the loss of
        another split than 'train' is asked for.
        """

    def evaluate(self, params: Params, instance: Instance, split: str) -> Metrics:
        """Metrics (`loss`, `accuracy`, …) on a whole split: 'train', 'valid' or 'test'."""


class UpdateRule(NamedTuple):
    """A family of optimizers indexed by θ.

    A coordinate whose gradient has always been exactly zero never moves, but for the decoupled
    weight decay that a user asks for. Parameters may be Python and NumPy scalars.

    Attributes:
      init: `init(key) -> theta`, a plain nested dict of arrays.
      transform: `transform(theta)`, an optax transformation. θ may be traced, so it can be
        differentiated through, vmapped over, or replicated over devices.
      coordinatewise: whether each coordinate's update depends on θ and on that coordinate's own
        history alone. An estimator may then flatten the parameters and work on blocks of them.
      coordinates_last: of a coordinatewise rule, `transform` for one vector of parameters `[P]`
        with a state that has the coordinates on its last axis, `[features, P]`, where that is
        faster than `transform` vmapped over single numbers; they compute the same. Whoever
        replaces `transform` replaces this too, or sets it to None.
      parts: pairs (label, rule) where θ is a dict of several rules' θs and each rule moves the
        parameters of its label, as `by_label` makes it; else empty. It is then coordinatewise if
        all of them are. Whoever replaces `transform` empties this.
      label_fn: of a rule with parts, `label_fn(path, param)`, the label of a parameter.
      knobs: what a user sets beside θ, pairs (name, default): numbers or optax schedules that
        `transform` takes as keyword arguments, such as `learning_rate`.
    """

    init: Callable[[Key], Theta]
    transform: Callable[..., optax.GradientTransformationExtraArgs]
    coordinatewise: bool = False
    coordinates_last: Callable[[Theta], optax.GradientTransformationExtraArgs] | None = None
    knobs: tuple[tuple[str, Any], ...] = ()
    parts: tuple[tuple[str, "UpdateRule"], ...] = ()
    label_fn: Callable[[str, Any], str] | None = None


class InnerState(NamedTuple):
    """One inner problem in flight: the optimizee and the state of its optimizer."""

    instance: Instance
    params: Params
    opt_state: optax.OptState


class Estimator(Protocol):
    """Finds the gradient of the meta-loss with respect to θ. Meta-training asks for nothing else.

    An estimator is a frozen dataclass registered with `jax.tree_util.register_dataclass`, as a task
    is. Both methods are traced; the state is a PyTree of arrays that keeps its structure, shapes
    and dtypes. An estimator that spreads its work over devices shards its state itself
    (`jax.shard_map`): θ and all else are then copied to the devices that the state lies on.
    """

    def init(self, key: Key, theta: Theta) -> Any:
        """Starts the inner problems in flight, and whatever else the estimator carries."""

    def estimate(self, key: Key, theta: Theta, state: Any) -> tuple[Theta, Any, Metrics]:
        """Estimates the meta-gradient.

        Returns:
          The meta-gradient, a tree like θ; the next state; and metrics. Records of metrics are
          means over meta-updates, but sums of what is counted: `inner_steps` (steps of inner
          optimizations done), `num_diverged` (problems left out because they diverged) and
          `skipped`, also behind a prefix as in 'digits/num_diverged'. All metrics are optional.
        """


class MetaState(NamedTuple):
    """Everything that meta-training needs to go on: this is the checkpoint.

    Attributes:
      theta: the rule's parameters.
      opt_state: the meta-optimizer's state.
      estimator_state: the inner problems in flight.
      key: the key of the whole run, never consumed; step t uses `fold_in(key, t)`.
      step: int32 `[]`, the meta-updates done.
    """

    theta: Theta
    opt_state: optax.OptState
    estimator_state: Any
    key: Key
    step: jax.Array
