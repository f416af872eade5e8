"""L-BFGS with a line search, as an update rule whose learning rate can be tuned as any other's."""

import jax
import jax.numpy as jnp
import optax

from learned_opt.types import Key, Theta, UpdateRule


def lbfgs(
    learning_rate: float = 1.0, *, memory_size: int = 10, max_linesearch_steps: int = 20
) -> UpdateRule:
    """L-BFGS of optax with its zoom line search: θ_{t+1} = θ_t − s η H_t g_t.

    H_t is the approximate inverse Hessian of the last `memory_size` steps; the line search finds s,
    from 1 on, by the strong Wolfe conditions. It takes losses and gradients of its own, of the same
    minibatch: `update` needs `value`, `grad` and `value_fn`, as `learned_opt.unroll` gives them.
    How many, `gradients_taken` says.

    Args:
      learning_rate: η, of the line search's first trial.
      memory_size: of the approximation.
      max_linesearch_steps: the most trials in a step.

    References:
      Nocedal and Wright, *Numerical optimization*, 1999, algorithms 3.5, 3.6 and 7.5.
    """

    def init(key: Key) -> Theta:
        del key
        return {"learning_rate": jnp.float32(learning_rate)}

    def transform(theta: Theta) -> optax.GradientTransformationExtraArgs:
        search = optax.scale_by_zoom_linesearch(max_linesearch_steps, initial_guess_strategy="one")
        return optax.lbfgs(theta["learning_rate"], memory_size=memory_size, linesearch=search)

    return UpdateRule(init, transform)


def gradients_taken(opt_state: optax.OptState) -> jax.Array:
    """The gradients that an optimizer's last update took: 1, or the trials of its line search.

    The last trial is where the next step starts from, and its gradient would not be taken again.
    """
    return jnp.asarray(optax.tree.get(opt_state, "num_linesearch_steps", 1), jnp.int32)
