"""The coordinatewise LSTM optimizer.

One network, shared by all parameters, with a state of its own for each coordinate, turns gradients
into updates (Andrychowicz et al., *Learning to learn by gradient descent by gradient descent*,
2016, section 2.1 and appendix A).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.networks.functional import functional
from learned_opt.types import Params, Theta, UpdateRule
from learned_opt.update_rules import checks, features


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
    hidden_sizes = tuple(hidden_sizes)
    if not hidden_sizes or any(size < 1 for size in hidden_sizes):
        raise ValueError(f"hidden_sizes must be positive integers, got {hidden_sizes}")
    if not (math.isfinite(output_scale) and output_scale > 0):
        raise ValueError(f"output_scale must be a positive finite number, got {output_scale}")
    from learned_opt.update_rules.lstm_network import LSTMNetwork  # flax.nnx: half a second

    num_features, preprocess_fn = features.preprocessor(preprocess)
    init, apply = functional(lambda rngs: LSTMNetwork(num_features, hidden_sizes, rngs=rngs))
    theta_shapes = jax.eval_shape(init, jax.random.key(0))

    def transform(theta: Theta, axis: int = -1) -> optax.GradientTransformationExtraArgs:
        checks.check_theta(theta, theta_shapes, rule="lstm")
        dtype = jnp.result_type(*jax.tree.leaves(theta))

        def init_fn(params: Params) -> LSTMState:
            checks.check_params(params)

            def zeros(size: int) -> Params:
                def like(p):  # derived from p, which gives it p's sharding
                    zero = jnp.expand_dims(jnp.zeros_like(p, dtype), axis)
                    return jnp.repeat(zero, size, axis=axis)

                return jax.tree.map(like, params)

            return LSTMState(
                hidden=tuple(zeros(size) for size in hidden_sizes),
                cell=tuple(zeros(size) for size in hidden_sizes),
            )

        def update_fn(updates, state, params=None, **extra_args: Any):
            del params, extra_args
            if axis == -1:
                checks.check_same_tree(updates, state.hidden[0], trailing_axes=1)
            grads: list[Any] = jax.tree.leaves(updates)
            treedef: Any = jax.tree.structure(updates)
            hidden = zip(*map(jax.tree.leaves, state.hidden), strict=True)
            cell = zip(*map(jax.tree.leaves, state.cell), strict=True)
            outputs, new_hidden, new_cell = [], [], []
            for g, h, c in zip(map(jnp.asarray, grads), hidden, cell, strict=True):
                seen = (g != 0) | (c[0] != 0).any(axis)
                wide = g.astype(jnp.promote_types(g.dtype, dtype))
                x = preprocess_fn(wide, axis).astype(dtype)
                x = jnp.where(jnp.expand_dims(seen, axis), x, 0)
                out, h, c = apply(theta, x, h, c, seen.astype(dtype), axis)
                outputs.append((output_scale * out).astype(g.dtype))
                new_hidden.append(h)
                new_cell.append(c)

            def by_layer(leaves: list) -> tuple[Params, ...]:
                return tuple(
                    treedef.unflatten([leaf[n] for leaf in leaves])
                    for n in range(len(hidden_sizes))
                )

            return treedef.unflatten(outputs), LSTMState(by_layer(new_hidden), by_layer(new_cell))

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return UpdateRule(
        init, transform, coordinatewise=True, coordinates_last=functools.partial(transform, axis=0)
    )
