"""Ways of rules over surfaces from many starts at many rates, with what the rules remember."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from learned_opt.tasks import Surface
from learned_opt.tasks.checks import positive
from learned_opt.types import Theta, UpdateRule

# What a rule's state calls its average of gradients, and its average of their squares.
_VELOCITY = ("trace", "mu", "mean")
_SECOND_MOMENT = ("nu", "square", "sum_of_squares", "e_g")


class Ways(NamedTuple):
    """Ways over a surface, float32.

    Attributes:
      points: (x, y) after 0 … T updates, `[rates, starts, T + 1, 2]`.
      losses: f there, `[rates, starts, T + 1]`.
      memory: name -> what the rule remembers of each coordinate, `[rates, starts, T + 1, 2]`:
        'velocity' (an average or a sum of gradients) and 'second moment' (of their squares); of an
        LSTM the root mean square over units of its 'hidden' and 'cell' state; of gradient descent
        nothing.
    """

    points: np.ndarray
    losses: np.ndarray
    memory: dict[str, np.ndarray]


def at_rate(rule: UpdateRule, theta: Theta, rate: Any) -> optax.GradientTransformation:
    """A rule at a learning rate: its hyperparameter, its knob, or else a factor on its steps."""
    if isinstance(theta, dict) and "learning_rate" in theta:
        return rule.transform(theta | {"learning_rate": jnp.asarray(rate, jnp.float32)})
    if "learning_rate" in dict(rule.knobs):
        return rule.transform(theta, learning_rate=rate)
    return optax.chain(rule.transform(theta), optax.scale(rate))


def memory(state: optax.OptState) -> dict[str, Any]:
    """What an optimizer's state remembers of each coordinate; see `Ways`.

    Args:
      state: of a rule of the library or of optax, for parameters of any one shape.
    """
    kept = {
        "velocity": _first(state, _VELOCITY),
        "second moment": _first(state, _SECOND_MOMENT),
    }
    for name in ("hidden", "cell"):
        layers = optax.tree.get(state, name, default=None)
        if layers is not None:
            units = jnp.concatenate(layers, axis=-1)
            kept[name] = jnp.sqrt(jnp.mean(units**2, axis=-1))
    return {name: value for name, value in kept.items() if value is not None}


def _first(state: optax.OptState, names: Sequence[str]) -> Any:
    for name in names:
        found = optax.tree.get(state, name, default=None)
        if isinstance(found, jax.Array):
            return found
    return None


def ways(
    rule: UpdateRule,
    theta: Theta,
    surface: Surface,
    starts: ArrayLike,
    rates: Sequence[float],
    *,
    num_steps: int,
) -> Ways:
    r"""Follows a rule over a surface from every start at every learning rate.

    .. math:: p_{t+1} = p_t + u_\theta(\nabla f(p_0), \dots, \nabla f(p_t);\, \eta)

    Args:
      rule: the update rule.
      theta: its θ.
      surface: f.
      starts: p₀ `[starts, 2]`.
      rates: learning rates η; of a rule that has none, factors on its steps.
      num_steps: T.

    Returns:
      The ways. One that diverges goes on with what is not finite.

    Raises:
      ValueError: starts of another shape, rates that are not positive and finite, or no step.
    """
    p = np.asarray(starts, np.float32)
    eta = np.asarray(rates, np.float32)
    if p.ndim != 2 or p.shape[1] != 2 or not len(p):
        raise ValueError(f"starts must have the shape [starts, 2], got {list(p.shape)}")
    if not (eta.size and np.isfinite(eta).all() and (eta > 0).all()):
        raise ValueError(f"rates must be positive and finite, got {list(rates)}")
    found = _ways(rule, theta, surface, p, eta, num_steps=positive("num_steps", num_steps))
    return Ways(*jax.tree.map(np.asarray, found))


@functools.partial(jax.jit, static_argnames=("rule", "num_steps"))
def _ways(rule, theta, surface, starts, rates, *, num_steps):
    def one(rate, start):
        tx = at_rate(rule, theta, rate)
        value_and_grad = jax.value_and_grad(lambda p: surface.value(p[0], p[1]))

        def step(carry, _):
            point, state = carry
            loss, grad = value_and_grad(point)
            updates, new = tx.update(grad, state, point)
            kept = (point, loss, memory(state))
            return (optax.apply_updates(point, updates), new), kept

        return jax.lax.scan(step, (start, tx.init(start)), length=num_steps + 1)[1]

    return jax.vmap(lambda rate: jax.vmap(lambda start: one(rate, start))(starts))(rates)
