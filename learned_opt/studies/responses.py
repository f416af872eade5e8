r"""What a rule does: its updates as a function of the gradients that it is shown.

A rule turns gradients g₀ … g_t into an update u_t. Here the gradients are made by hand, as the
inputs of a filter are when it is measured, and the parameters are held at zero, so that nothing
but the gradients' history, and no weight decay, tells in u_t.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from learned_opt.tasks.checks import positive
from learned_opt.types import Theta, UpdateRule

SIGNALS = ("constant", "impulse", "step", "flip", "alternating", "noise")


def signal(
    name: str, num_steps: int, *, at: int = 0, noise: float = 1.0, seed: int = 0
) -> np.ndarray:
    r"""A history of gradients of size one, s_t.

    - `"constant"`: 1;
    - `"impulse"`: 1 at t = `at`, else 0;
    - `"step"`: 0 before t = `at`, then 1;
    - `"flip"`: 1 before t = `at`, then −1;
    - `"alternating"`: (−1)^t;
    - `"noise"`: 1 + σ z_t with standard normal z_t: what a minibatch does to a constant gradient.

    Args:
      name: one of `SIGNALS`.
      num_steps: T.
      at: when something happens.
      noise: σ.
      seed: of z.

    Returns:
      float32 `[T]`.

    Raises:
      ValueError: an unknown name, no step, an `at` that is not a step, or a negative σ.

    Example:
      >>> signal('flip', 4, at=2).tolist()
      [1.0, 1.0, -1.0, -1.0]
    """
    t = np.arange(positive("num_steps", num_steps))
    if not 0 <= at < num_steps:
        raise ValueError(f"at must be a step from 0 to {num_steps - 1}, got {at}")
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be a finite number, at least 0, got {noise}")
    if name not in SIGNALS:
        raise ValueError(f"unknown signal {name!r}; known: {', '.join(SIGNALS)}")
    values = {
        "constant": lambda: np.ones(num_steps),
        "impulse": lambda: t == at,
        "step": lambda: t >= at,
        "flip": lambda: np.where(t < at, 1, -1),
        "alternating": lambda: 1 - 2 * (t % 2),
        "noise": lambda: 1 + noise * np.random.default_rng(seed).normal(size=num_steps),
    }[name]()
    return np.asarray(values, np.float32)


def respond(rule: UpdateRule, theta: Theta, gradients: ArrayLike) -> np.ndarray:
    r"""The updates with which a rule answers gradients that do not depend on where it goes.

    .. math:: (u_t, s_{t+1}) = \mathrm{update}_\theta(g_t, s_t, 0), \quad s_0 = \mathrm{init}(0)

    Args:
      rule: the update rule.
      theta: its θ.
      gradients: g `[runs, T, *shape]`: several histories of one parameter of that shape, each met
        by a fresh state; `[runs, T]` for a parameter that is a number.

    Returns:
      Updates u, float32, of the gradients' shape. Gradient descent has u = −η g.

    Raises:
      ValueError: gradients of fewer than two axes, or none of them.

    Example:
      >>> import jax
      >>> from learned_opt.update_rules import momentum
      >>> rule = momentum(0.1, decay=0.5)
      >>> impulse = signal('impulse', 4)[None]
      >>> respond(rule, rule.init(jax.random.key(0)), impulse)[0].round(4)
      array([-0.1   , -0.05  , -0.025 , -0.0125], dtype=float32)
    """
    g = np.asarray(gradients, np.float32)
    if g.ndim < 2 or not g.size:
        raise ValueError(f"gradients must have the shape [runs, steps, ...], got {list(g.shape)}")
    return np.asarray(_respond(rule, theta, g))


@functools.partial(jax.jit, static_argnames="rule")
def _respond(rule, theta, gradients):
    tx = rule.transform(theta)

    def one(history):
        params = jnp.zeros(history.shape[1:])

        def step(state, g):
            updates, state = tx.update(g, state, params)
            return state, updates

        return jax.lax.scan(step, tx.init(params), history)[1]

    return jax.vmap(one)(gradients)


def along(updates: ArrayLike, direction: ArrayLike) -> np.ndarray:
    r"""How far updates go along a direction D, ⟨u, D⟩ / ⟨D, D⟩; −η for gradient descent on D.

    Args:
      updates: u `[..., *shape]`.
      direction: D `[*shape]`, not zero.

    Returns:
      float64 `[...]`.
    """
    u, d = np.asarray(updates, np.float64), np.asarray(direction, np.float64)
    return np.tensordot(u, d, axes=d.ndim) / np.sum(d * d)


def signal_responses(
    rule: UpdateRule,
    theta: Theta,
    signals: ArrayLike,
    sizes: Sequence[float],
    direction: ArrayLike = 1.0,
) -> np.ndarray:
    """Answers to several signals at several gradient sizes: g_t = size · s_t · D.

    Args:
      rule: the update rule.
      theta: its θ.
      signals: s `[signals, T]`.
      sizes: positive numbers.
      direction: D, of the parameter's shape: a number, a vector, or a matrix, for which rules such
        as Muon have another update than for the rest.

    Returns:
      Updates along D, see `along`, float64 `[signals, sizes, T]`.

    Raises:
      ValueError: sizes that are not positive, or a direction that is zero.
    """
    s, d = np.asarray(signals, np.float32), np.asarray(direction, np.float32)
    a = _check_sizes(sizes, d)
    scaled = s[:, None, :] * a[:, None]
    gradients = scaled[(..., *[None] * d.ndim)] * d
    updates = respond(rule, theta, gradients.reshape(-1, *gradients.shape[2:]))
    return along(updates.reshape(gradients.shape), d)


def noise_response(
    rule: UpdateRule,
    theta: Theta,
    ratios: Sequence[float],
    *,
    size: float,
    direction: ArrayLike = 1.0,
    num_steps: int = 100,
    runs: int = 64,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    r"""The mean update where a constant gradient is seen through noise, g_t = a (D + σ Z_t).

    Z has independent standard normal entries, and the mean is over the last half of the steps.
    Every draw is used with both signs, so that noise cancels where a rule is linear. Gradient
    descent averages noise away: −η a for every σ. Adam divides by what the noise makes
    large: about :math:`-\eta / \sqrt{1 + \sigma^2}`.

    Args:
      rule: the update rule.
      theta: its θ.
      ratios: σ, at least 0.
      size: a.
      direction: D; see `signal_responses`. Of mean square 1 where σ is to be noise over signal.
      num_steps: T.
      runs: draws of the noise, the same for every σ; two histories each.
      seed: of the noise.

    Returns:
      Mean updates along D, and their standard errors over runs, float64 `[ratios]` each.

    Raises:
      ValueError: negative ratios, a size that is not positive, fewer than two runs or steps.
    """
    d = np.asarray(direction, np.float32)
    _check_sizes([size], d)
    sigma = np.asarray(ratios, np.float32)
    if not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise ValueError("ratios must be finite numbers, at least 0")
    if positive("runs", runs) < 2 or positive("num_steps", num_steps) < 2:
        raise ValueError("runs and num_steps must be at least 2, for a mean and its error")
    z = np.random.default_rng(seed).normal(size=(runs, num_steps, *d.shape)).astype(np.float32)
    found = []
    for s in sigma:
        gradients = size * (d + s * np.concatenate([z, -z]))
        updates = along(respond(rule, theta, gradients), d)[:, num_steps // 2 :]
        found.append(updates.mean(axis=1).reshape(2, runs).mean(axis=0))
    means = np.stack(found)
    return means.mean(axis=1), means.std(axis=1, ddof=1) / runs**0.5


def _check_sizes(sizes: Sequence[float], direction: np.ndarray) -> np.ndarray:
    a = np.asarray(sizes, np.float32)
    if not (a.size and np.isfinite(a).all() and (a > 0).all()):
        raise ValueError(f"gradient sizes must be positive and finite, got {list(sizes)}")
    if not direction.any():
        raise ValueError("the direction of the gradients must not be zero")
    return a
