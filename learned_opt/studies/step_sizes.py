r"""How long the steps of adaptive rules are: what each coordinate's gradient is multiplied by.

.. math:: \alpha_t = \frac{\eta}{\sqrt{v_{t+1} / (1 - \beta_2^{t+1})} + \epsilon}
          \;\text{(Adam, times the averaged gradient)}, \qquad
          \alpha_t = \eta \frac{\sqrt{s_t + \epsilon}}{\sqrt{v_{t+1} + \epsilon}}
          \;\text{(Adadelta, times the gradient)}

With the gradient's scale far above ε, Adam's steps do not depend on it; far below, they are those
of momentum with the rate η / ε. Adadelta's first step is √(ε / (1 − ρ)) whatever the gradient.

References: Kingma and Ba, *Adam: a method for stochastic optimization*, 2015; Zeiler, *ADADELTA: an
adaptive learning rate method*, 2012; Choi et al., *On empirical comparisons of optimizers for deep
learning*, 2019, section 3.2 (what ε includes).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from learned_opt.types import InnerState, Key, Task, Theta, UpdateRule
from learned_opt.unroll import check_arrays, checked_loss, init_inner

RULES = ("adam", "adadelta")


class StepSizes(NamedTuple):
    """The steps of one run.

    Attributes:
      update: the root mean square over coordinates of every update, `[num_steps]`.
      gradient: that of the gradient, `[num_steps]`.
      rates: the 5th, 50th and 95th percentile of α over the coordinates that have had a gradient,
        `[num_steps, 3]`; NaN for other rules than `RULES`.
    """

    update: np.ndarray
    gradient: np.ndarray
    rates: np.ndarray


def effective_rates(
    name: str, theta: Theta, before: optax.OptState, after: optax.OptState
) -> tuple[jax.Array, jax.Array]:
    """α of every coordinate in one update of `update_rules.adam` or `adadelta`.

    Args:
      name: 'adam' or 'adadelta'.
      theta: the rule's θ.
      before: the optimizer's state before the update.
      after: its state after it.

    Returns:
      α, and the average v of squared gradients, as vectors over all coordinates.

    Raises:
      ValueError: another rule.
    """

    def vector(state, field):
        return ravel_pytree(optax.tree.get(state, field))[0]

    if name == "adam":
        v = vector(after, "nu")
        count = optax.tree.get(after, "count")
        corrected = v / (1 - theta["b2"] ** count)
        return theta["learning_rate"] / (jnp.sqrt(corrected) + theta["eps"]), v
    if name == "adadelta":
        v, s = vector(after, "e_g"), vector(before, "e_x")
        eps = theta["eps"]
        return theta["learning_rate"] * jnp.sqrt(s + eps) / jnp.sqrt(v + eps), v
    raise ValueError(f"no effective rates of rule {name!r} are known; known: {', '.join(RULES)}")


def step_sizes(
    name: str, rule: UpdateRule, theta: Theta, task: Task, key: Key, *, num_steps: int
) -> StepSizes:
    """Records the steps of one run.

    Args:
      name: of the rule; 'adam' and 'adadelta' have effective rates.
      rule: the rule.
      theta: its θ.
      task: the task.
      key: where the problem, its start and its minibatches come from.
      num_steps: updates.

    Raises:
      ValueError: `num_steps` is below one.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    check_arrays("task", task)
    return StepSizes(*jax.device_get(_record(rule, theta, task, key, name, num_steps)))


@functools.partial(jax.jit, static_argnames=("rule", "name", "num_steps"))
def _record(rule, theta, task, key, name, num_steps):
    tx = optax.with_extra_args_support(rule.transform(theta))
    key_inner, key_run = jax.random.split(key)

    def size(tree):
        return jnp.sqrt(jnp.mean(jnp.square(ravel_pytree(tree)[0])))

    def step(inner, t):
        own = jax.random.fold_in(key_run, t)
        grads = jax.grad(checked_loss, argnums=1)(task, inner.params, inner.instance, own)
        updates, state = tx.update(grads, inner.opt_state, inner.params)
        rates = jnp.full(3, jnp.nan)
        if name in RULES:
            alpha, v = effective_rates(name, theta, inner.opt_state, state)
            rates = jnp.nanquantile(jnp.where(v > 0, alpha, jnp.nan), jnp.array([0.05, 0.5, 0.95]))
        params = optax.apply_updates(inner.params, updates)
        return InnerState(inner.instance, params, state), (size(updates), size(grads), rates)

    return jax.lax.scan(step, init_inner(tx, task, key_inner), jnp.arange(num_steps))[1]
