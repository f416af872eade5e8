"""The coordinatewise LSTM optimizer.

One network, shared by all parameters, with a state of its own for each coordinate, turns gradients
into updates (Andrychowicz et al., *Learning to learn by gradient descent by gradient descent*,
2016, section 2.1 and appendix A).
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.networks.functional import functional
from learned_opt.types import Params, Theta, UpdateRule
from learned_opt.update_rules import checks, features, recurrent
from learned_opt.update_rules.fan_in import scaled_by_fan_in


class LSTMState(NamedTuple):
    """State of the coordinatewise LSTM; all zeros at the start.

    Attributes:
      hidden: for each layer a tree shaped like the parameters with a trailing axis of that layer's
        size, `[*param.shape, H]`, sharded as the parameters are.
      cell: the same for the cells.
    """

    hidden: tuple[Params, ...]
    cell: tuple[Params, ...]


def lstm(
    hidden_sizes: Sequence[int] = (20, 20),
    *,
    preprocess: Literal["log_sign"] | None = "log_sign",
    output_scale: float = 0.1,
    fan_in: int | None = None,
) -> UpdateRule:
    r"""The coordinatewise LSTM optimizer of Andrychowicz et al. (2016).

    For every coordinate, with one θ for all of them and a state (h, c) of its own,

        u_t, (h, c)_{t+1} = LSTM_θ(preprocess(g_t), (h, c)_t);    params += output_scale · u_t.

    With `preprocess='log_sign'` (appendix A; p = 10) a gradient g becomes the two features
    (log|g| / p, sign g) where |g| ≥ e^−p, and (−1, e^p g) elsewhere. The default network has 5,141
    parameters (5,061 with the raw gradient) and 80 floats of state a coordinate.

    A coordinate whose gradient has always been exactly zero does not move, and its state stays
    zero: it is told by a zero gradient and a cell of zeros.

    θ is `{'cells': {'layer_0': {'kernel': [4 H, in + H], 'bias': [4 H]}, …},
    'output': {'kernel': [1, H], 'bias': [1]}}`. The arithmetic is done in θ's dtype; the update
    has the gradient's.

    Args:
      hidden_sizes: units in each LSTM layer, at least one layer.
      preprocess: 'log_sign', or None to feed the raw gradient (as on the paper's quadratics).
      output_scale: factor on the network's output.
      fan_in: with it, steps of matrices are multiplied by it and divided by their own fan-in, see
        `scaled_by_fan_in`; the rule is not coordinatewise then.

    Returns:
      An `UpdateRule`. Its transformation raises `TypeError` at `init` for parameters that are not
      floating point, and `ValueError` for gradients whose tree differs from the parameters' or a
      θ of another rule.

    Raises:
      ValueError: no hidden layer, a size below one, an unknown `preprocess`, or an `output_scale`
        that is not a positive finite number.

    Example:
      >>> rule = lstm()
      >>> tx = rule.transform(rule.init(jax.random.key(0)))
      >>> params = {'w': jnp.ones((3, 2))}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> updates['w'].shape, state.hidden[0]['w'].shape
      ((3, 2), (3, 2, 20))
    """
    hidden_sizes = recurrent.check_sizes(hidden_sizes, output_scale)
    from learned_opt.update_rules.lstm_network import LSTMNetwork  # flax.nnx: half a second

    num_features, preprocess_fn = features.preprocessor(preprocess)
    init, apply = functional(lambda rngs: LSTMNetwork(num_features, hidden_sizes, rngs=rngs))
    theta_shapes = jax.eval_shape(init, jax.random.key(0))

    def transform(theta: Theta, axis: int = -1) -> optax.GradientTransformationExtraArgs:
        checks.check_theta(theta, theta_shapes, rule="lstm")
        dtype = jnp.result_type(*jax.tree.leaves(theta))

        def init_fn(params: Params) -> LSTMState:
            checks.check_params(params)
            return LSTMState(  # two of their own, so that a state can be donated
                hidden=recurrent.zeros(params, hidden_sizes, dtype, axis),
                cell=recurrent.zeros(params, hidden_sizes, dtype, axis),
            )

        def update_fn(updates, state, params=None, **extra_args: Any):
            del params, extra_args
            if axis == -1:
                checks.check_same_tree(updates, state.hidden[0], trailing_axes=1)
            outputs, hidden, cell = recurrent.step(
                apply,
                theta,
                lambda g: preprocess_fn(g, axis),
                recurrent.wide(updates, theta),
                (),
                state.hidden,
                state.cell,
                axis,
            )
            return recurrent.as_updates(outputs, output_scale, updates), LSTMState(hidden, cell)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    rule = UpdateRule(
        init, transform, coordinatewise=True, coordinates_last=functools.partial(transform, axis=0)
    )
    return rule if fan_in is None else scaled_by_fan_in(rule, fan_in)
