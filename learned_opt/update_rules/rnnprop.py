"""RNNprop: a recurrent rule that sees gradients as Adam does, relative to their usual size.

Lv, Jiang and Li, *Learning gradient descent: better generalization and longer horizons*, 2017
(arXiv 1703.03633); constants from the code of its authors, vfleaking/rnnprop.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.networks.functional import functional
from learned_opt.types import Params, Theta, UpdateRule
from learned_opt.update_rules import checks, recurrent


class RNNpropState(NamedTuple):
    """State of RNNprop; all zeros at the start.

    Attributes:
      step: int32 `[]`, updates done.
      momentum: a tree shaped like the parameters, in θ's dtype at least.
      second_moment: another one.
      hidden: for each layer a tree shaped like the parameters with a trailing axis of that layer's
        size, `[*param.shape, H]`.
      cell: the same for the cells.
    """

    step: jax.Array
    momentum: Params
    second_moment: Params
    hidden: tuple[Params, ...]
    cell: tuple[Params, ...]


def rnnprop(
    hidden_sizes: Sequence[int] = (20, 20),
    *,
    input_size: int = 20,
    beta: float = 0.95,
    output_scale: float = 0.1,
) -> UpdateRule:
    r"""RNNprop, the coordinatewise rule of Lv, Jiang and Li (2017).

    With m̂ and v̂ Adam's moments of decay β, corrected for their start at zero,

    .. math:: x_t = \Big(\frac{g_t}{\sqrt{\hat v_t} + \epsilon},
                         \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}\Big), \quad
              u_t, (h, c)_{t+1} = \mathrm{LSTM}_\theta(\mathrm{ELU}(W x_t + b), (h, c)_t), \quad
              p_{t+1} = p_t - s \tanh(u_t)

    and ε = 1e-8: gradients of any size look alike, and no step is longer than s. The default
    network has 6,641 parameters and 82 floats of state a coordinate.

    A coordinate whose gradient has always been exactly zero does not move, and its state stays
    zero.

    θ is `{'input': {'kernel': [20, 2], 'bias': [20]}, 'cells': {'layer_0': {'kernel': [4 H, in +
    H], 'bias': [4 H]}, …}, 'output': {'kernel': [1, H], 'bias': [1]}}`.

    Args:
      hidden_sizes: units in each LSTM layer, at least one layer.
      input_size: units of the layer in front of them.
      beta: β.
      output_scale: s.

    Returns:
      An `UpdateRule`, with the errors of `lstm`.

    Raises:
      ValueError: a size below one, a β outside of [0, 1), or an `output_scale` that is not a
        positive finite number.

    Example:
      >>> rule = rnnprop()
      >>> tx = rule.transform(rule.init(jax.random.key(0)))
      >>> params = {'w': jnp.ones((3, 2))}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> updates['w'].shape, state.hidden[0]['w'].shape
      ((3, 2), (3, 2, 20))
    """
    hidden_sizes = recurrent.check_sizes(hidden_sizes, output_scale)
    if input_size < 1:
        raise ValueError(f"input_size must be at least 1, got {input_size}")
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be at least 0 and below 1, got {beta}")
    from learned_opt.update_rules.lstm_network import LSTMNetwork  # flax.nnx: half a second

    init, apply = functional(
        lambda rngs: LSTMNetwork(2, hidden_sizes, input_size=input_size, rngs=rngs)
    )
    theta_shapes = jax.eval_shape(init, jax.random.key(0))

    def transform(theta: Theta, axis: int = -1) -> optax.GradientTransformationExtraArgs:
        checks.check_theta(theta, theta_shapes, rule="rnnprop")
        dtype = jnp.result_type(*jax.tree.leaves(theta))

        def init_fn(params: Params) -> RNNpropState:
            checks.check_params(params)

            def like(p):
                return jnp.zeros_like(p, jnp.promote_types(jnp.result_type(p), dtype))

            moments = (jax.tree.map(like, params) for _ in range(2))
            layers = (recurrent.zeros(params, hidden_sizes, dtype, axis) for _ in range(2))
            return RNNpropState(jnp.zeros((), jnp.int32), *moments, *layers)

        def update_fn(updates, state, params=None, **extra_args: Any):
            del params, extra_args
            checks.check_same_tree(updates, state.momentum)
            g = recurrent.wide(updates, theta)
            step = optax.safe_increment(state.step)
            m = optax.tree.update_moment(g, state.momentum, beta, 1)
            v = optax.tree.update_moment(g, state.second_moment, beta, 2)
            correction = 1 - beta ** step.astype(dtype)
            outputs, hidden, cell = recurrent.step(
                apply,
                theta,
                functools.partial(_relative, correction=correction, axis=axis),
                g,
                (m, v),
                state.hidden,
                state.cell,
                axis,
            )
            bounded = jax.tree.map(jnp.tanh, outputs)
            new_updates = recurrent.as_updates(bounded, -output_scale, updates)
            return new_updates, RNNpropState(step, m, v, hidden, cell)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return UpdateRule(
        init, transform, coordinatewise=True, coordinates_last=functools.partial(transform, axis=0)
    )


def _relative(g, m, v, *, correction: jax.Array, axis: int, eps: float = 1e-8) -> jax.Array:
    """The gradient and the momentum, each divided by the root of the second moment."""
    positive = v > 0  # the root has no derivative at 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, v, 1) / correction), 0) + eps
    return jnp.stack([g / root, m / correction / root], axis=axis)
