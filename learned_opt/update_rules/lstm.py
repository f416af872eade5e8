"""The coordinatewise LSTM optimizer.

One network, shared by all parameters, with a state of its own for each coordinate, turns gradients
into updates (Andrychowicz et al., *Learning to learn by gradient descent by gradient descent*,
2016, section 2.1 and appendix A).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

import optax
from flax import nnx

from learned_opt.types import Params, Theta, UpdateRule
from learned_opt.update_rules import checks, features
from learned_opt.update_rules.networks import functional


class LSTMState(NamedTuple):
    """State of the coordinatewise LSTM; all zeros at the start.

    Attributes:
      hidden: for each layer a tree shaped like the parameters with a leading axis of that layer's
        size, `[H, *param.shape]`.
      cell: the same for the cells.
    """

    hidden: tuple[Params, ...]
    cell: tuple[Params, ...]


class LSTMCell(nnx.Module):
    """One LSTM layer over feature-major inputs `[features, ...]`.

    (i, f, g, o) = W [x; h] + b;  c' = σ(f) c + σ(i) tanh(g);  h' = σ(o) tanh(c').
    """

    def __init__(self, in_features: int, hidden_size: int, *, rngs: nnx.Rngs):
        """Draws W from N(0, 1/fan_in) and sets b to 0, but to 1 for the forget gate."""
        fan_in = in_features + hidden_size
        shape = (4 * hidden_size, fan_in)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) / math.sqrt(fan_in))
        self.bias = nnx.Param(jnp.zeros(4 * hidden_size).at[hidden_size : 2 * hidden_size].set(1.0))

    def __call__(self, x: jax.Array, h: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps x `[in_features, ...]`, h and c `[hidden_size, ...]` to the next h and c."""
        gates = _affine(self.kernel[...], self.bias[...], jnp.concatenate([x, h]))
        i, f, g, o = jnp.split(gates, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c


class LSTMNetwork(nnx.Module):
    """Stacked LSTM cells and a linear output of one number a coordinate."""

    def __init__(self, in_features: int, hidden_sizes: Sequence[int], *, rngs: nnx.Rngs):
        """Draws the cells; the output layer starts at zero, so that no parameter moves at first."""
        sizes = (in_features, *hidden_sizes)
        self.cells = nnx.Dict(
            {
                f"layer_{n}": LSTMCell(sizes[n], size, rngs=rngs)
                for n, size in enumerate(hidden_sizes)
            }
        )
        self.output = nnx.Dict(
            kernel=nnx.Param(jnp.zeros((1, sizes[-1]))), bias=nnx.Param(jnp.zeros(1))
        )

    def __call__(self, x, hidden, cell):
        """Maps x `[in_features, ...]` and each layer's h, c to the output `[...]` and new h, c."""
        new_hidden, new_cell = [], []
        for layer, h, c in zip(self.cells.values(), hidden, cell, strict=True):
            x, c = layer(x, h, c)
            new_hidden.append(x)
            new_cell.append(c)
        output = _affine(self.output.kernel[...], self.output.bias[...], x)[0]
        return output, tuple(new_hidden), tuple(new_cell)


def _affine(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """kernel `[m, n]` · x `[n, ...]` + bias `[m]`, contracting the leading axis of x."""
    return jnp.tensordot(kernel, x, axes=1) + bias.reshape((-1,) + (1,) * (x.ndim - 1))


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
      ((3, 2), (20, 3, 2))
    """
    hidden_sizes = tuple(hidden_sizes)
    if not hidden_sizes or any(size < 1 for size in hidden_sizes):
        raise ValueError(f"hidden_sizes must be positive integers, got {hidden_sizes}")
    if not (math.isfinite(output_scale) and output_scale > 0):
        raise ValueError(f"output_scale must be a positive finite number, got {output_scale}")
    num_features, preprocess_fn = features.preprocessor(preprocess)
    init, apply = functional(lambda rngs: LSTMNetwork(num_features, hidden_sizes, rngs=rngs))
    theta_shapes = jax.eval_shape(init, jax.random.key(0))

    def transform(theta: Theta) -> optax.GradientTransformationExtraArgs:
        checks.check_theta(theta, theta_shapes, rule="lstm")
        dtype = jnp.result_type(*jax.tree.leaves(theta))

        def init_fn(params: Params) -> LSTMState:
            checks.check_params(params)

            def zeros(size: int) -> Params:
                return jax.tree.map(lambda p: jnp.zeros((size, *p.shape), dtype), params)

            return LSTMState(
                hidden=tuple(zeros(size) for size in hidden_sizes),
                cell=tuple(zeros(size) for size in hidden_sizes),
            )

        def update_fn(updates, state, params=None, **extra_args: Any):
            del params, extra_args
            checks.check_same_tree(updates, state.hidden[0], leading_axes=1)
            grads, treedef = jax.tree.flatten(updates)
            hidden = zip(*map(jax.tree.leaves, state.hidden), strict=True)
            cell = zip(*map(jax.tree.leaves, state.cell), strict=True)
            outputs, new_hidden, new_cell = [], [], []
            for g, h, c in zip(grads, hidden, cell, strict=True):
                out, h, c = apply(theta, preprocess_fn(g.astype(dtype)), h, c)
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

    return UpdateRule(init, transform, coordinatewise=True)
