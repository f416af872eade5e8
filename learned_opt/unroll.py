"""The one inner loop: an optimizer applied to a task, step after step."""

import contextlib
import functools
import inspect
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from learned_opt.types import InnerState, Instance, Key, Params, Scalar, Task, Theta, UpdateRule


def check_arrays(name: str, tree: Any) -> None:
    """Checks that a task, or an estimator that holds one, can be passed to a jitted function.

    Args:
      name: what to call it in an error message.
      tree: the task or estimator.

    Raises:
      TypeError: its class is not registered as a PyTree, or a field that is not static holds
        something else than arrays.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | numbers.Number):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, not arrays: write "
                "@jax.tree_util.register_dataclass and @dataclasses.dataclass(frozen=True) above "
                "that class, or mark the field as static"
            )


def draw(task: Task, key: Key) -> tuple[Instance, Params]:
    """Draws a problem of the task and its starting parameters.

    Raises:
      TypeError: parameters that are not floating point, or shapes that depend on the instance.
    """
    key_sample, key_init = jax.random.split(key)
    with _traced("sample"):
        instance = task.sample(key_sample)
    with _traced("init"):
        params = task.init(key_init, instance)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        known = isinstance(leaf, jax.Array | np.ndarray | np.generic | numbers.Number)
        kind = jnp.result_type(leaf) if known else type(leaf).__name__
        if not known or not jnp.issubdtype(kind, jnp.inexact):
            raise TypeError(
                f"the parameters of a task must be floating point, but params"
                f"{jax.tree_util.keystr(path)} is {kind}; make it a field of the task instead"
            )
    # Python and NumPy scalars become arrays of their own dtype, never of a weak type.
    params = jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), params)
    return instance, params


def labels(label_fn: Callable[[str, Any], str], known: tuple[str, ...], params: Params) -> Params:
    """The label of every parameter, a tree like the parameters.

    Raises:
      ValueError: a label is not one of those known.
    """

    def label(path: Any, param: Any) -> str:
        name = jax.tree_util.keystr(path)
        found = label_fn(name, param if hasattr(param, "shape") else jnp.asarray(param))
        if found not in known:
            raise ValueError(
                f"label_fn gives {found!r} for params{name}, which has no rule; rules: "
                f"{', '.join(known)}"
            )
        return found

    return jax.tree.map_with_path(label, params)


def fast_transform(rule: UpdateRule, theta: Theta) -> optax.GradientTransformationExtraArgs:
    """A rule's transformation for loops that nobody looks into: what computes fastest.

    A rule that has `coordinates_last` sees the parameters as one vector, and so does each part of a
    rule that has parts. The updates are those of `rule.transform(theta)`; the state is another one.
    """
    if rule.parts and rule.label_fn is not None:
        parts = {label: fast_transform(part, theta[label]) for label, part in rule.parts}
        return optax.partition(parts, functools.partial(labels, rule.label_fn, tuple(parts)))
    if rule.coordinates_last is None:
        return rule.transform(theta)
    tx = rule.coordinates_last(theta)

    def init_fn(params):
        return tx.init(ravel_pytree(params)[0])

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args  # a coordinate's update depends on its own gradients alone
        flat, unravel = ravel_pytree(updates)
        flat, state = tx.update(flat, state)
        return unravel(flat), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def init_inner(tx: optax.GradientTransformation, task: Task, key: Key) -> InnerState:
    """Draws a problem of the task and its starting parameters, and initializes the optimizer."""
    instance, params = draw(task, key)
    return InnerState(instance, params, tx.init(params))


def checked_loss(
    task: Task, params: Params, instance: Instance, key: Key, split: str = "train"
) -> Scalar:
    """The task's loss on a minibatch of a split.

    Raises:
      TypeError: it is not one floating-point number, or the task has no loss on other splits than
        'train'.
    """
    other = {}
    if split != "train":
        if "split" not in inspect.signature(task.loss).parameters:
            raise TypeError(
                f"a loss on {split!r} data needs a task whose loss takes the split: write "
                f"{type(task).__name__}.loss(self, params, instance, key, split='train')"
            )
        other = {"split": split}
    with _traced("loss"):
        loss = task.loss(params, instance, key, **other)
    wrong = None
    if not isinstance(loss, jax.Array | np.ndarray | np.generic | numbers.Number):
        wrong = f"a {type(loss).__name__}"
    elif jnp.shape(loss) != ():
        wrong = f"an array of shape {list(jnp.shape(loss))}"
    elif not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        wrong = f"a number of dtype {jnp.result_type(loss)}"
    if wrong:
        raise TypeError(
            f"task.loss must return one floating-point number, got {wrong}; return the mean over "
            "the minibatch alone, and metrics from task.evaluate"
        )
    return loss


@contextlib.contextmanager
def _traced(method: str) -> Iterator[None]:
    """Says in one sentence that a value was needed where there is only a traced one."""
    try:
        yield
    except (TypeError, IndexError) as error:
        if not isinstance(error, _NEEDS_VALUES) and "concrete values" not in str(error):
            raise
        raise TypeError(
            f"task.{method} needs the value of something that is traced (of its key, the drawn "
            "instance or the parameters): shapes and Python branches may depend on static fields "
            "of the task alone"
        ) from error


_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def inner_step(
    tx: optax.GradientTransformation, task: Task, state: InnerState, key: Key
) -> tuple[InnerState, tuple[Scalar, Params]]:
    """Does one step of an inner optimization.

    params' = params + update(∇f(params)), with the minibatch of f drawn from `key`. The optimizer
    may look at `value` and `grad`, and call `value_fn(params)` for f elsewhere: line searches do.

    Returns:
      The next state, and the loss and gradient at the parameters *before* the update.

    Raises:
      TypeError: the task's loss is not one floating-point number.
    """
    loss, grads = jax.value_and_grad(checked_loss, argnums=1)(
        task, state.params, state.instance, key
    )
    updates, opt_state = optax.with_extra_args_support(tx).update(
        grads,
        state.opt_state,
        state.params,
        value=loss,
        grad=grads,
        value_fn=lambda params: checked_loss(task, params, state.instance, key),
    )
    params = optax.apply_updates(state.params, updates)
    return InnerState(state.instance, params, opt_state), (loss, grads)


def unroll(
    tx: optax.GradientTransformation,
    task: Task,
    state: InnerState,
    key: Key,
    num_steps: int,
    *,
    start: int | jax.Array = 0,
) -> tuple[InnerState, jax.Array]:
    """Runs `num_steps` inner steps in one `scan`.

    Args:
      tx: an optax transformation, for example `rule.transform(theta)`.
      task: the task whose `loss` is followed.
      state: where to start, for example from `init_inner`.
      key: step t draws its minibatch from `fold_in(key, t)`.
      num_steps: the number of steps; static.
      start: the first step's t, so that a run may go on in a second call.

    Returns:
      The last state and the losses `[num_steps]`: `losses[t - start]` is the minibatch loss at
      params_t, before update t, as in Andrychowicz et al. (2016).

    Raises:
      ValueError: `num_steps` is below one.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")

    def step(state, t):
        state, (loss, _) = inner_step(tx, task, state, jax.random.fold_in(key, t))
        return state, loss

    return jax.lax.scan(step, state, start + jnp.arange(num_steps))
