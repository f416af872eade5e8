"""Networks fitted to many resamplings of one data set, as lanes of one program.

A resampled training set is a vector of weights over the examples: how often a bootstrap drew each
of them, or ones for the examples of the folds that a fit may see and zeros for the others. All fits
then have the same shapes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from learned_opt.evaluation import spread
from learned_opt.networks import Network
from learned_opt.tasks.checks import positive
from learned_opt.types import Key, Params, Theta, UpdateRule

ExampleLoss = Callable[[jax.Array, jax.Array], jax.Array]


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """(z − y)², the mean over outputs: z and y `[n, num_out]`, losses `[n]`."""
    return jnp.square(outputs - targets).mean(axis=-1)


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """−log softmax(z)[y]: logits z `[n, classes]`, labels y int `[n]`, losses `[n]`."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def fit(
    key: Key,
    inputs: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    theta: Theta,
    penalty: float | jax.Array = 0.0,
    *,
    network: Network,
    loss: ExampleLoss,
    rule: UpdateRule,
    num_steps: int,
) -> Params:
    r"""Fits a network to weighted examples, all of them in every step.

    .. math:: f(\theta) = \frac{\sum_i w_i\, \ell(z(x_i; \theta), y_i)}{\sum_i w_i}
                          + \frac{\lambda}{2} \sum_k \theta_k^2

    with the penalty over kernels, not biases, as in `tasks.WithPenalty`. The rule's steps shrink
    along half a cosine to zero, so that the end is at rest.

    Args:
      key: draws the network's start.
      inputs: x, `[n, …]`.
      targets: y, `[n, …]`.
      weights: w, `[n]`, not negative and not all zero.
      theta: the rule's θ.
      penalty: λ.
      network: z.
      loss: ℓ, `squared_error` or `cross_entropy`.
      rule: the rule, for example `update_rules.adam()`.
      num_steps: updates.

    Returns:
      The network's parameters.

    Raises:
      ValueError: no step.
    """
    num_steps = positive("num_steps", num_steps)
    params = network.init(key)
    start, unravel = ravel_pytree(params)  # one vector: few and long operations
    kernels, _ = ravel_pytree(jax.tree.map(lambda x: jnp.full(x.shape, float(x.ndim > 1)), params))

    def objective(flat):
        losses = loss(network.apply(unravel(flat), inputs), targets)
        return weights @ losses / weights.sum() + 0.5 * penalty * (kernels * flat) @ flat

    schedule = optax.scale_by_schedule(optax.cosine_decay_schedule(1.0, num_steps))
    tx = optax.chain(rule.transform(theta), schedule)

    def step(carry, _):
        flat, state = carry
        updates, state = tx.update(jax.grad(objective)(flat), state, flat)
        return (optax.apply_updates(flat, updates), state), None

    (flat, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=num_steps)
    return unravel(flat)


def outputs_of_fits(
    lanes: Mapping[str, Any], shared: Mapping[str, Any], test_inputs: jax.Array, **settings: Any
) -> np.ndarray:
    """Fits a network in every lane, and applies it to inputs.

    Lanes follow one another on a CPU, which is the fastest there, and are vmapped elsewhere.

    Args:
      lanes: arguments of `fit` that differ, by name, each with the lanes on a leading axis.
      shared: the other arrays that `fit` takes.
      test_inputs: `[n, …]`; or `[lanes, n, …]` if `lanes` has `inputs`.
      **settings: `network`, `loss`, `rule` and `num_steps`, see `fit`.

    Returns:
      The networks' outputs, `[lanes, n, num_out]`.
    """
    return np.asarray(_outputs(dict(lanes), dict(shared), test_inputs, **settings))


@functools.partial(jax.jit, static_argnames=("network", "loss", "rule", "num_steps"))
def _outputs(lanes, shared, test_inputs, *, network, **settings):
    own = "inputs" in lanes

    def one(lane, shared, test_inputs):
        lane, at = lane
        params = fit(**lane, **shared, network=network, **settings)
        return network.apply(params, at if own else test_inputs)

    each = (lanes, test_inputs if own else None)
    alone = jax.default_backend() == "cpu"
    return spread(one, each, (shared, None if own else test_inputs), alone=alone)
