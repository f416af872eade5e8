"""The one inner loop: an optimizer applied to a task, step after step."""

import jax
import jax.numpy as jnp
import optax

from learned_opt.types import InnerState, Key, Params, Scalar, Task


def init_inner(tx: optax.GradientTransformation, task: Task, key: Key) -> InnerState:
    """Draws a problem of the task and its starting parameters, and initializes the optimizer."""
    key_sample, key_init = jax.random.split(key)
    instance = task.sample(key_sample)
    params = task.init(key_init, instance)
    return InnerState(instance, params, tx.init(params))


def inner_step(
    tx: optax.GradientTransformation, task: Task, state: InnerState, key: Key
) -> tuple[InnerState, tuple[Scalar, Params]]:
    """Does one step of an inner optimization.

    params' = params + update(∇f(params)), with the minibatch of f drawn from `key`.

    Returns:
      The next state, and the loss and gradient at the parameters *before* the update.
    """
    loss, grads = jax.value_and_grad(task.loss)(state.params, state.instance, key)
    updates, opt_state = optax.with_extra_args_support(tx).update(
        grads, state.opt_state, state.params, value=loss, grad=grads
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
