r"""The update rules of Choi et al. (2019), exactly as that paper compares them.

A rule that has another as a limit of its hyperparameters *includes* it: SGD ⊆ Momentum ⊆ RMSProp,
SGD ⊆ Momentum ⊆ Adam, SGD ⊆ Nesterov ⊆ NAdam (`learned_opt.studies.inclusion`). That holds for
these definitions to the letter, and optax's differ: its `adam` adds ε after the bias correction,
its `nadam` corrects m otherwise, its `rmsprop` starts v at zero by default.

Every θ holds the learning rate η with its linear decay,

    η_t = η (1 − (1 − f) min(t / n, 1)),   f = `decay_factor`, n = `decay_steps`,

and 1 − β in place of each decay β: a float32 β near 1 has lost what matters of it, 1 − β has not.
All entries may be traced, the number of steps n included. t counts updates from 0.

Reference: Choi et al., *On empirical comparisons of optimizers for deep learning*, 2019, section 2
and appendix A.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from learned_opt.types import Params, Scalar, Theta, UpdateRule
from learned_opt.update_rules.hand_designed import from_optax

Schedule: TypeAlias = Callable[[Theta, Scalar], Theta]


class HierarchyState(NamedTuple):
    """State of a rule of the hierarchy.

    Attributes:
      step: int32 `[]`, the updates done.
      m: the average or sum of gradients, shaped like the parameters; None for rules without.
      v: the average of squared gradients; None for rules without.
    """

    step: jax.Array
    m: Params | None = None
    v: Params | None = None


def linear_decay(theta: Theta, step: Scalar) -> Theta:
    """The hyperparameters of update `step`: those of θ, with the learning rate decayed linearly.

    Args:
      theta: has `learning_rate`, `decay_steps` and `decay_factor`.
      step: the updates done before.

    Example:
      >>> theta = {'learning_rate': 2.0, 'decay_steps': 10.0, 'decay_factor': 0.1}
      >>> [round(float(linear_decay(theta, t)['learning_rate']), 3) for t in (0, 5, 10, 99)]
      [2.0, 1.1, 0.2, 0.2]
    """
    done = jnp.minimum(step / theta["decay_steps"], 1.0)
    rate = theta["learning_rate"] * (1 - (1 - theta["decay_factor"]) * done)
    return {**theta, "learning_rate": rate}


def sgd(
    learning_rate: float = 0.1,
    *,
    decay_steps: float = 1.0,
    decay_factor: float = 1.0,
    schedule: Schedule = linear_decay,
) -> UpdateRule:
    r"""Stochastic gradient descent.

    .. math:: \theta_{t+1} = \theta_t - \eta_t g_t

    Args:
      learning_rate: η.
      decay_steps: n, updates over which the learning rate decays.
      decay_factor: f, the last learning rate over the first; 1 keeps it constant.
      schedule: `schedule(theta, t)` gives the hyperparameters of update t.

    Example:
      >>> rule = sgd(0.5, decay_steps=1, decay_factor=0.1)
      >>> tx = rule.transform(rule.init(jax.random.key(0)))
      >>> state = tx.init(jnp.zeros(()))
      >>> first, state = tx.update(jnp.ones(()), state)
      >>> second, state = tx.update(jnp.ones(()), state)
      >>> round(float(first), 6), round(float(second), 6)
      (-0.5, -0.05)
    """

    def direction(h, t, g, m, v):
        return h["learning_rate"] * g, None, None

    return _rule("sgd", direction, schedule, _common(learning_rate, decay_steps, decay_factor))


def momentum(
    learning_rate: float = 0.1,
    *,
    one_minus_momentum: float = 0.1,
    decay_steps: float = 1.0,
    decay_factor: float = 1.0,
    schedule: Schedule = linear_decay,
) -> UpdateRule:
    r"""Momentum: gradient descent along a decaying sum of gradients.

    .. math:: v_{t+1} = \gamma v_t + g_t, \quad \theta_{t+1} = \theta_t - \eta_t v_{t+1}

    Args:
      learning_rate: η.
      one_minus_momentum: 1 − γ.
      decay_steps: see `sgd`.
      decay_factor: see `sgd`.
      schedule: see `sgd`.
    """

    def direction(h, t, g, m, v):
        m = m - h["one_minus_momentum"] * m + g
        return h["learning_rate"] * m, m, None

    hyperparameters = _common(learning_rate, decay_steps, decay_factor)
    hyperparameters["one_minus_momentum"] = one_minus_momentum
    return _rule("momentum", direction, schedule, hyperparameters, m=0.0)


def nesterov(
    learning_rate: float = 0.1,
    *,
    one_minus_momentum: float = 0.1,
    decay_steps: float = 1.0,
    decay_factor: float = 1.0,
    schedule: Schedule = linear_decay,
) -> UpdateRule:
    r"""Nesterov's momentum.

    .. math:: v_{t+1} = \gamma v_t + g_t, \quad
              \theta_{t+1} = \theta_t - \eta_t (\gamma v_{t+1} + g_t)

    Args:
      learning_rate: η.
      one_minus_momentum: 1 − γ.
      decay_steps: see `sgd`.
      decay_factor: see `sgd`.
      schedule: see `sgd`.
    """

    def direction(h, t, g, m, v):
        m = m - h["one_minus_momentum"] * m + g
        return h["learning_rate"] * (m - h["one_minus_momentum"] * m + g), m, None

    hyperparameters = _common(learning_rate, decay_steps, decay_factor)
    hyperparameters["one_minus_momentum"] = one_minus_momentum
    return _rule("nesterov", direction, schedule, hyperparameters, m=0.0)


def rmsprop(
    learning_rate: float = 1e-3,
    *,
    one_minus_momentum: float = 0.1,
    one_minus_rho: float = 0.1,
    eps: float = 1e-8,
    decay_steps: float = 1.0,
    decay_factor: float = 1.0,
    schedule: Schedule = linear_decay,
) -> UpdateRule:
    r"""RMSProp with momentum; v starts at 1.

    .. math:: v_{t+1} = \rho v_t + (1-\rho) g_t^2, \quad
              m_{t+1} = \gamma m_t + \eta_t g_t / \sqrt{v_{t+1} + \epsilon}, \quad
              \theta_{t+1} = \theta_t - m_{t+1}

    `optax.rmsprop` agrees with `initial_scale=1` while the learning rate is constant; with a
    schedule it scales the momentum by η_t instead of summing scaled gradients.

    Args:
      learning_rate: η.
      one_minus_momentum: 1 − γ.
      one_minus_rho: 1 − ρ.
      eps: ε, inside the root.
      decay_steps: see `sgd`.
      decay_factor: see `sgd`.
      schedule: see `sgd`.
    """

    def direction(h, t, g, m, v):
        v = v + h["one_minus_rho"] * (g**2 - v)
        m = m - h["one_minus_momentum"] * m + h["learning_rate"] * g / jnp.sqrt(v + h["eps"])
        return m, m, v

    hyperparameters = _common(learning_rate, decay_steps, decay_factor) | {
        "one_minus_momentum": one_minus_momentum,
        "one_minus_rho": one_minus_rho,
        "eps": eps,
    }
    return _rule("rmsprop", direction, schedule, hyperparameters, m=0.0, v=1.0)


def adam(
    learning_rate: float = 1e-3,
    *,
    one_minus_b1: float = 0.1,
    one_minus_b2: float = 1e-3,
    eps: float = 1e-8,
    decay_steps: float = 1.0,
    decay_factor: float = 1.0,
    schedule: Schedule = linear_decay,
) -> UpdateRule:
    r"""Adam, with ε added before the bias correction.

    .. math:: m_{t+1} = \beta_1 m_t + (1-\beta_1) g_t, \quad
              v_{t+1} = \beta_2 v_t + (1-\beta_2) g_t^2, \quad
              b_t = \frac{\sqrt{1-\beta_2^{t+1}}}{1-\beta_1^{t+1}}, \quad
              \theta_{t+1} = \theta_t - \eta_t b_t \frac{m_{t+1}}{\sqrt{v_{t+1}} + \epsilon}

    `optax.adam`, after algorithm 1 of Kingma and Ba, adds ε to the corrected root instead: its ε is
    this one over √(1 − β₂^{t+1}), so the two agree as ε → 0 and differ by tens of percent at ε = 1.

    Args:
      learning_rate: η, the paper's α.
      one_minus_b1: 1 − β₁.
      one_minus_b2: 1 − β₂.
      eps: ε.
      decay_steps: see `sgd`.
      decay_factor: see `sgd`.
      schedule: see `sgd`.
    """

    def direction(h, t, g, m, v):
        m = m + h["one_minus_b1"] * (g - m)
        return _adam_step(h, t, g, m, m, v)

    hyperparameters = _adam_hyperparameters(
        learning_rate, one_minus_b1, one_minus_b2, eps, decay_steps, decay_factor
    )
    return _rule("adam", direction, schedule, hyperparameters, m=0.0, v=0.0)


def nadam(
    learning_rate: float = 1e-3,
    *,
    one_minus_b1: float = 0.1,
    one_minus_b2: float = 1e-3,
    eps: float = 1e-8,
    decay_steps: float = 1.0,
    decay_factor: float = 1.0,
    schedule: Schedule = linear_decay,
) -> UpdateRule:
    r"""NAdam: as `adam`, with :math:`\beta_1 m_{t+1} + (1-\beta_1) g_t` in place of m.

    `optax.nadam`, after Dozat, corrects the two terms for their bias separately.

    Args:
      learning_rate: η, the paper's α.
      one_minus_b1: 1 − β₁.
      one_minus_b2: 1 − β₂.
      eps: ε.
      decay_steps: see `sgd`.
      decay_factor: see `sgd`.
      schedule: see `sgd`.
    """

    def direction(h, t, g, m, v):
        m = m + h["one_minus_b1"] * (g - m)
        return _adam_step(h, t, g, m + h["one_minus_b1"] * (g - m), m, v)

    hyperparameters = _adam_hyperparameters(
        learning_rate, one_minus_b1, one_minus_b2, eps, decay_steps, decay_factor
    )
    return _rule("nadam", direction, schedule, hyperparameters, m=0.0, v=0.0)


def adagrad(
    learning_rate: float = 0.1,
    *,
    eps: float = 1e-7,
    initial_accumulator_value: float = 0.1,
    decay_steps: float = 1.0,
    decay_factor: float = 1.0,
    schedule: Schedule = linear_decay,
) -> UpdateRule:
    r"""Adagrad.

    .. math:: v_{t+1} = v_t + g_t^2, \quad
              \theta_{t+1} = \theta_t - \eta_t g_t / \sqrt{v_{t+1} + \epsilon}

    Args:
      learning_rate: η.
      eps: ε.
      initial_accumulator_value: v₀.
      decay_steps: see `sgd`.
      decay_factor: see `sgd`.
      schedule: see `sgd`.

    Reference: Duchi et al., *Adaptive subgradient methods*, 2011.
    """
    hyperparameters = _common(learning_rate, decay_steps, decay_factor) | {
        "eps": eps,
        "initial_accumulator_value": initial_accumulator_value,
    }

    def make(**theta):
        return optax.adagrad(
            lambda t: schedule(theta, t)["learning_rate"],
            theta["initial_accumulator_value"],
            theta["eps"],
        )

    return from_optax(
        "hierarchy.adagrad",
        make,
        accumulator="sum_of_squares",
        coordinatewise=True,
        complex_params=False,
        **hyperparameters,
    )


def adadelta(
    learning_rate: float = 1.0,
    *,
    rho: float = 0.9,
    eps: float = 1e-6,
    decay_steps: float = 1.0,
    decay_factor: float = 1.0,
    schedule: Schedule = linear_decay,
) -> UpdateRule:
    r"""Adadelta.

    .. math:: v_{t+1} = \rho v_t + (1-\rho) g_t^2, \quad
              \Delta_t = \frac{\sqrt{s_t + \epsilon}}{\sqrt{v_{t+1} + \epsilon}}\, g_t, \quad
              s_{t+1} = \rho s_t + (1-\rho) \Delta_t^2, \quad
              \theta_{t+1} = \theta_t - \eta_t\, \Delta_t

    Args:
      learning_rate: η; 1 in Zeiler's paper.
      rho: ρ.
      eps: ε.
      decay_steps: see `sgd`.
      decay_factor: see `sgd`.
      schedule: see `sgd`.

    Reference: Zeiler, *ADADELTA: an adaptive learning rate method*, 2012.
    """
    hyperparameters = _common(learning_rate, decay_steps, decay_factor) | {"rho": rho, "eps": eps}

    def make(**theta):
        return optax.adadelta(
            lambda t: schedule(theta, t)["learning_rate"], theta["rho"], theta["eps"]
        )

    return from_optax(
        "hierarchy.adadelta",
        make,
        accumulator="e_g",
        coordinatewise=True,
        complex_params=False,
        **hyperparameters,
    )


def one_minus_power(one_minus_beta: Scalar, n: Scalar) -> jax.Array:
    """Computes 1 − βⁿ from 1 − β, without losing what is small."""
    return -jnp.expm1(n * jnp.log1p(-one_minus_beta))


def _adam_step(h, t, g, numerator, m, v):
    v = v + h["one_minus_b2"] * (g**2 - v)
    corrections = (one_minus_power(h[name], t + 1) for name in ("one_minus_b1", "one_minus_b2"))
    first, second = corrections
    rate = h["learning_rate"] * jnp.sqrt(second) / first
    return rate * numerator / (jnp.sqrt(v) + h["eps"]), m, v


def _common(learning_rate: float, decay_steps: float, decay_factor: float) -> dict[str, float]:
    return {
        "learning_rate": learning_rate,
        "decay_steps": decay_steps,
        "decay_factor": decay_factor,
    }


def _adam_hyperparameters(
    learning_rate, one_minus_b1, one_minus_b2, eps, decay_steps, decay_factor
) -> dict[str, float]:
    return _common(learning_rate, decay_steps, decay_factor) | {
        "one_minus_b1": one_minus_b1,
        "one_minus_b2": one_minus_b2,
        "eps": eps,
    }


def _rule(
    name: str,
    direction: Callable,
    schedule: Schedule,
    hyperparameters: dict[str, float],
    *,
    m: float | None = None,
    v: float | None = None,
) -> UpdateRule:
    """Makes an `UpdateRule` of the equations for one parameter.

    Args:
      name: the rule's name here; messages call it `hierarchy.NAME`, to tell it from optax's.
      direction: `(hyperparameters, t, g, m, v) -> (what θ loses, new m, new v)`.
      schedule: the hyperparameters of update t.
      hyperparameters: the names and defaults of θ.
      m: where m starts, or None without one.
      v: where v starts, or None without one.
    """

    def make(**theta):
        def full(params, value):
            return (
                None if value is None else jax.tree.map(lambda p: jnp.full_like(p, value), params)
            )

        def init(params):
            return HierarchyState(jnp.zeros((), jnp.int32), full(params, m), full(params, v))

        def update(grads, state, params=None):
            del params
            h = schedule(theta, state.step)
            leaves, treedef = jax.tree.flatten(grads)

            kept = ([None] * len(leaves) if x is None else jax.tree.leaves(x) for x in state[1:])
            new = []
            for g, *of_leaf in zip(leaves, *kept, strict=True):
                typed = {k: jnp.asarray(x, g.dtype) for k, x in h.items()}
                new.append(direction(typed, state.step.astype(g.dtype), g, *of_leaf))
            down, new_m, new_v = (
                treedef.unflatten(list(part))
                for part in (zip(*new, strict=True) if new else ((),) * 3)
            )
            return jax.tree.map(jnp.negative, down), HierarchyState(
                optax.safe_increment(state.step),
                None if m is None else new_m,
                None if v is None else new_v,
            )

        return optax.GradientTransformation(init, update)

    return from_optax(
        f"hierarchy.{name}",
        make,
        accumulator=None if m is None else "m",
        coordinatewise=True,
        complex_params=False,
        **hyperparameters,
    )
