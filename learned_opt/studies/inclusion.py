r"""Which optimizer includes which: hyperparameters that turn one rule into another.

A rule N includes M, M ⊆ N, when for any hyperparameters of M there is a sequence of
hyperparameters of N, indexed by ε here, with which N's update tends to M's at every step of every
history of gradients. SGD ⊆ Momentum ⊆ RMSProp, SGD ⊆ Momentum ⊆ Adam and SGD ⊆ Nesterov ⊆ NAdam;
of Momentum and Nesterov neither includes the other. Where M ⊆ N, N tuned over all of its
hyperparameters cannot be worse than M.

The rules are those of `learned_opt.update_rules.hierarchy`.

Reference: Choi et al., *On empirical comparisons of optimizers for deep learning*, 2019, section 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.evaluation import trajectory
from learned_opt.types import Key, Scalar, Task, Theta, UpdateRule
from learned_opt.update_rules import hierarchy


class Inclusion(NamedTuple):
    r"""An arrow M ⊆ N.

    Attributes:
      name: as in 'momentum ⊆ adam', with the route where there are several.
      special: M.
      general: N; its schedule holds the hyperparameters that change from update to update.
      specialize: `specialize(theta, eps)` is N's θ for M's θ. N's update then tends to M's as
        ε → ∞.
      exact: whether they are equal at every ε, which is then not used.
    """

    name: str
    special: UpdateRule
    general: UpdateRule
    specialize: Callable[[Theta, Scalar], Theta]
    exact: bool


def _shared(theta: Theta) -> Theta:
    return {name: theta[name] for name in ("learning_rate", "decay_steps", "decay_factor")}


def _no_momentum(theta: Theta, eps: Scalar) -> Theta:
    """SGD: γ = 0."""
    del eps
    return _shared(theta) | {"one_minus_momentum": 1.0}


def _constant_v(theta: Theta, eps: Scalar) -> Theta:
    """Momentum: ρ = 1 and ε = 0, so that v stays at 1."""
    del eps
    kept = _shared(theta) | {"one_minus_momentum": theta["one_minus_momentum"]}
    return kept | {"one_minus_rho": 0.0, "eps": 0.0}


def _large_eps_in_rmsprop(theta: Theta, eps: Scalar) -> Theta:
    """Momentum: η √ε and ε → ∞, whatever ρ is."""
    kept = _shared(theta) | {"one_minus_momentum": theta["one_minus_momentum"]}
    kept["learning_rate"] = theta["learning_rate"] * jnp.sqrt(eps)
    return kept | {"one_minus_rho": 0.1, "eps": eps}


def _decayed_momentum(theta: Theta, step: Scalar) -> Theta:
    """γ η_t / η_{t−1}: RMSProp sums gradients that are scaled already, Momentum scales the sum."""
    now = hierarchy.linear_decay(theta, step)
    before = hierarchy.linear_decay(theta, jnp.maximum(step - 1, 0))
    ratio = now["learning_rate"] / before["learning_rate"]
    return now | {"one_minus_momentum": 1 - (1 - theta["one_minus_momentum"]) * ratio}


def _large_eps_in_adam(theta: Theta, eps: Scalar) -> Theta:
    """Momentum or Nesterov: β₁ = γ, β₂ = 0, ε → ∞; the learning rate is in the schedule."""
    kept = _shared(theta) | {"one_minus_b1": theta["one_minus_momentum"]}
    return kept | {"one_minus_b2": 1.0, "eps": eps}


def _undo_bias_correction(theta: Theta, step: Scalar) -> Theta:
    """α_t = ε η_t (1 − γ^{t+1}) / (1 − γ): a constant α would miss the first steps."""
    now = hierarchy.linear_decay(theta, step)
    correction = hierarchy.one_minus_power(theta["one_minus_b1"], step + 1)
    rate = theta["eps"] * now["learning_rate"] * correction / theta["one_minus_b1"]
    return now | {"learning_rate": rate}


_MOMENTUM = hierarchy.momentum()

INCLUSIONS: tuple[Inclusion, ...] = (
    Inclusion("sgd ⊆ momentum", hierarchy.sgd(), _MOMENTUM, _no_momentum, exact=True),
    Inclusion("sgd ⊆ nesterov", hierarchy.sgd(), hierarchy.nesterov(), _no_momentum, exact=True),
    Inclusion(
        "momentum ⊆ rmsprop",
        _MOMENTUM,
        hierarchy.rmsprop(schedule=_decayed_momentum),
        _constant_v,
        exact=True,
    ),
    Inclusion(
        "momentum ⊆ rmsprop (large ε)",
        _MOMENTUM,
        hierarchy.rmsprop(schedule=_decayed_momentum),
        _large_eps_in_rmsprop,
        exact=False,
    ),
    Inclusion(
        "momentum ⊆ adam",
        _MOMENTUM,
        hierarchy.adam(schedule=_undo_bias_correction),
        _large_eps_in_adam,
        exact=False,
    ),
    Inclusion(
        "nesterov ⊆ nadam",
        hierarchy.nesterov(),
        hierarchy.nadam(schedule=_undo_bias_correction),
        _large_eps_in_adam,
        exact=False,
    ),
)


def trajectory_error(
    inclusion: Inclusion,
    theta: Theta,
    eps: float,
    task: Task,
    key: Key,
    *,
    num_steps: int = 200,
) -> float:
    r"""How far the specialized rule strays from the rule that it should follow.

    .. math:: \max_{t \le T} \lVert x_t^N - x_t^M \rVert_2 / \lVert x_t^M \rVert_2,

    x the parameters. An inclusion that is not exact has an error proportional to 1/ε: error × ε is
    constant, until rounding is reached (about 1e-7 in float32: use float64).

    Args:
      inclusion: the arrow.
      theta: M's θ.
      eps: ε.
      task: what both optimize, with the same start and the same minibatches.
      key: where these come from.
      num_steps: T.
    """
    near = jax.tree.map(jnp.asarray, inclusion.specialize(theta, jnp.asarray(eps)))
    followed, _ = trajectory(inclusion.special, theta, task, key, num_steps=num_steps)
    strayed, _ = trajectory(inclusion.general, near, task, key, num_steps=num_steps)

    def norms(tree):
        squares = [
            jnp.sum(jnp.square(x.reshape(num_steps + 1, -1)), axis=1) for x in jax.tree.leaves(tree)
        ]
        return jnp.sqrt(sum(squares))

    difference = norms(jax.tree.map(jnp.subtract, strayed, followed))
    return float(jnp.max(difference / norms(followed)))


def impulse_response(rule: UpdateRule, theta: Theta, num_steps: int) -> np.ndarray:
    """What a rule that is linear in the gradients answers to a single one.

    Args:
      rule: SGD, Momentum or Nesterov, with a constant learning rate.
      theta: its θ.
      num_steps: T.

    Returns:
      `[T]`: what the parameter loses t steps after a gradient of 1, t = 0 … T − 1.
    """
    tx = rule.transform(theta)
    dtype = jnp.result_type(*jax.tree.leaves(theta))
    impulse = jnp.zeros(num_steps, dtype).at[0].set(1)

    def step(state, g):
        updates, state = tx.update(g, state)
        return state, -updates

    return np.asarray(jax.lax.scan(step, tx.init(jnp.zeros((), dtype)), impulse)[1])


def nearest_momentum(nesterov_theta: Theta, *, num_steps: int = 50) -> tuple[Theta, float]:
    r"""The counterexample: no Momentum follows Nesterov, however it is tuned.

    Both rules are sums of past gradients. Nesterov's weights are η (1 + γ), η γ², η γ³, …, those of
    Momentum η', η' γ', η' γ'², …; equality needs γ' = γ and γ' = γ² / (1 + γ) at once. With a
    schedule for each the first two updates still need η'_t γ'_t = η γ² and η'_t = η (1 + γ), and
    the third then fails. This finds the Momentum with the smallest distance all the same.

    Args:
      nesterov_theta: Nesterov's θ, with γ > 0.
      num_steps: weights that are compared.

    Returns:
      Momentum's θ, and the distance of its weights from Nesterov's over their norm; above 0.
    """
    wanted = impulse_response(hierarchy.nesterov(), nesterov_theta, num_steps)

    def distance(gammas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = gammas[:, None] ** np.arange(num_steps)
        rates = weights @ wanted / np.sum(weights**2, axis=1)  # the best η' for each γ'
        errors = np.linalg.norm(rates[:, None] * weights - wanted, axis=1)
        return errors / np.linalg.norm(wanted), rates

    low, high = 0.0, 1.0
    for _ in range(12):  # the distance has one valley in γ'
        gammas = np.linspace(low, high, 101)
        errors, rates = distance(gammas)
        best = int(np.argmin(errors))
        low, high = gammas[max(best - 1, 0)], gammas[min(best + 1, 100)]
    theta = {
        **optax.tree.cast(dict(nesterov_theta), jnp.result_type(wanted.dtype)),
        "learning_rate": jnp.asarray(rates[best]),
        "one_minus_momentum": jnp.asarray(1 - gammas[best]),
    }
    return theta, float(errors[best])
