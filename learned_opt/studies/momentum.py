r"""Momentum on quadratics: how fast, when it overshoots, and when it does not converge.

Along a direction of curvature λ, gradients are λθ, and a step of momentum is a 2×2 matrix on (θ_t,
θ_{t−1}). Its eigenvalues z solve z² − Tz + D = 0 with, for x = ηλ,

.. math:: T = 1 + \gamma - x, \; D = \gamma \;\text{(momentum)}, \qquad
          T = (1 + \gamma)(1 - x), \; D = \gamma (1 - x) \;\text{(Nesterov)}

The larger |z| is the factor by which the distance shrinks in a step; a pair of complex z makes θ
swing through the minimum and back, and |z| ≥ 1 does not converge.

References: Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964; Goh,
*Why momentum really works*, Distill, 2017; Lessard, Recht and Packard, *Analysis and design of
optimization algorithms via integral quadratic constraints*, 2016, section 2 and table 1.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Rule = Literal["momentum", "nesterov"]


class Best(NamedTuple):
    """What is best for curvatures from μ to L.

    Attributes:
      rate: η.
      decay: γ.
      radius: the factor by which the distance shrinks in a step, in the end.
    """

    rate: float
    decay: float
    radius: float


def iteration_matrix(rule: Rule, rate: float, decay: float, curvature: float) -> np.ndarray:
    """The matrix that takes (θ_t, θ_{t−1}) to (θ_{t+1}, θ_t), `[2, 2]`; its first row is T, −D.

    Args:
      rule: 'momentum' or 'nesterov', as `update_rules` has them.
      rate: η.
      decay: γ.
      curvature: λ, negative on a saddle's way out.

    Raises:
      ValueError: an unknown rule.
    """
    trace, determinant = _coefficients(rule, np.asarray(rate * curvature), np.asarray(decay))
    return np.array([[float(trace), -float(determinant)], [1.0, 0.0]])


def spectral_radius(
    rule: Rule, rate: ArrayLike, decay: ArrayLike, curvature: ArrayLike
) -> np.ndarray:
    """The larger |z|, for arrays of settings that broadcast; gradient descent is a decay of 0.

    Args:
      rule: 'momentum' or 'nesterov'.
      rate: η.
      decay: γ.
      curvature: λ.

    Raises:
      ValueError: an unknown rule.

    Example:
      >>> spectral_radius("momentum", 1.0, [0.0, 0.25], 0.25)
      array([0.75, 0.5 ])
    """
    product = np.asarray(rate, np.float64) * np.asarray(curvature, np.float64)
    trace, determinant = _coefficients(rule, product, np.asarray(decay, np.float64))
    square = trace**2 - 4 * determinant
    real = (np.abs(trace) + np.sqrt(np.maximum(square, 0))) / 2
    return np.where(square < 0, np.sqrt(np.maximum(determinant, 0)), real)


def critical_decay(rate: ArrayLike, curvature: ArrayLike) -> np.ndarray:
    r"""The most momentum without swinging: γ = (1 − √(ηλ))² of momentum, for ηλ in [0, 1].

    With it the distance shrinks by 1 − √(ηλ) a step; less is slower, and more overshoots.
    """
    return (1 - np.sqrt(np.asarray(rate, np.float64) * np.asarray(curvature, np.float64))) ** 2


def largest_rate(rule: Rule, decay: float, curvature: float) -> float:
    r"""The rate from which on a rule does not converge along a curvature λ > 0.

    .. math:: \eta \lambda < 2 (1 + \gamma) \;\text{(momentum)}, \qquad
              \eta \lambda < \frac{2 (1 + \gamma)}{1 + 2 \gamma} \;\text{(Nesterov)}

    Raises:
      ValueError: an unknown rule, a decay outside of [0, 1), or a curvature that is not positive.
    """
    if not 0 <= decay < 1 or not curvature > 0:
        raise ValueError(
            f"a decay in [0, 1) and a positive curvature are needed, got {decay} and {curvature}"
        )
    _coefficients(rule, np.asarray(0.0), np.asarray(0.0))
    return 2 * (1 + decay) / (1 if rule == "momentum" else 1 + 2 * decay) / curvature


def best_settings(rule: str, low: float, high: float) -> Best:
    r"""The rate and decay with the smallest spectral radius over curvatures from μ to L.

    With κ = L / μ: of gradient descent (κ − 1) / (κ + 1), of momentum (√κ − 1) / (√κ + 1),
    of Nesterov's 1 − 2 / √(3κ + 1).

    Args:
      rule: 'sgd', 'momentum' or 'nesterov'.
      low: μ.
      high: L.

    Raises:
      ValueError: an unknown rule, or curvatures that are not 0 < μ ≤ L.

    Reference: Lessard, Recht and Packard, 2016, table 1.
    """
    if not 0 < low <= high:
        raise ValueError(f"curvatures must be 0 < low <= high, got {low} and {high}")
    ratio = high / low
    if rule == "sgd":
        return Best(2 / (low + high), 0.0, (ratio - 1) / (ratio + 1))
    if rule == "momentum":
        radius = (ratio**0.5 - 1) / (ratio**0.5 + 1)
        return Best(4 / (low**0.5 + high**0.5) ** 2, radius**2, radius)
    if rule == "nesterov":
        root = (3 * ratio + 1) ** 0.5
        return Best(4 / (3 * high + low), (root - 2) / (root + 2), 1 - 2 / root)
    raise ValueError(f"unknown rule {rule!r}; known: sgd, momentum, nesterov")


def ravine(ratio: float, angle: float = np.pi / 6) -> np.ndarray:
    """The Hessian `[2, 2]` of a quadratic with curvatures 1 / ratio and 1 along turned axes.

    Args:
      ratio: the condition number κ.
      angle: by which the flat direction is turned from the first axis.

    Raises:
      ValueError: a ratio below one.

    Example:
      >>> ravine(4.0, 0.0)
      array([[0.25, 0.  ],
             [0.  , 1.  ]])
    """
    if not ratio >= 1:
        raise ValueError(f"ratio must be at least 1, got {ratio}")
    c, s = np.cos(angle), np.sin(angle)
    turned = np.array([[c, -s], [s, c]])
    return turned @ np.diag([1 / ratio, 1.0]) @ turned.T


def _coefficients(rule: Rule, x: np.ndarray, decay: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T and D."""
    if rule == "momentum":
        return 1 + decay - x, decay + 0 * x
    if rule == "nesterov":
        return (1 + decay) * (1 - x), decay * (1 - x)
    raise ValueError(f"unknown rule {rule!r}; known: momentum, nesterov")
