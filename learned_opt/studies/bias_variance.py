r"""Where an error comes from: bias, variance and noise.

With targets y = f(x) + ε, Var ε = σ², and a predictor ŷ fitted to a training set drawn at random,

.. math:: E (y - \hat y)^2 = \underbrace{(E\hat y - f)^2}_{\text{bias}^2}
          + \underbrace{\mathrm{Var}\, \hat y}_{\text{variance}}
          + \underbrace{\sigma^2}_{\text{noise}}

Reference: Geman, Bienenstock and Doursat, *Neural networks and the bias/variance dilemma*, 1992,
section 3.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.tasks.checks import not_negative


class Decomposition(NamedTuple):
    """The parts of an error, means over the places where it is measured.

    Attributes:
      bias2: bias², unbiased, so that it may come out slightly negative.
      variance: the variance over training sets, unbiased.
      noise: σ².
      error: the mean squared error on noisy targets, of other training sets than the parts are of.
      standard_error: that of `gap`, over training sets.
    """

    bias2: float
    variance: float
    noise: float
    error: float
    standard_error: float

    @property
    def gap(self) -> float:
        """The error less its parts: zero but for sampling."""
        return self.error - self.bias2 - self.variance - self.noise

    @property
    def adds_up(self) -> bool:
        """Whether the parts are the error within two standard errors."""
        return abs(self.gap) <= 2 * self.standard_error


def decompose(
    predictions: ArrayLike, truth: ArrayLike, noise_std: float, *, seed: int = 0
) -> Decomposition:
    """Splits an error into bias², variance and noise, and checks the sum on fresh targets.

    The first half of the training sets gives bias² and variance; the others' predictions meet
    targets with fresh noise and give the error. So the sum is no identity: it can fail.

    Args:
      predictions: ŷ of every training set, `[sets, places]`.
      truth: f, `[places]`.
      noise_std: σ.
      seed: of the noise in the targets.

    Raises:
      ValueError: fewer than four training sets, shapes that do not fit, or a σ below zero.

    Reference: see the module.
    """
    predictions, truth = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if predictions.ndim != 2 or predictions.shape[1:] != truth.shape or len(predictions) < 4:
        raise ValueError(
            "predictions must be [sets, places] of at least 4 training sets, and truth [places], "
            f"got {list(predictions.shape)} and {list(truth.shape)}"
        )
    not_negative(noise_std=noise_std)
    first, second = np.array_split(predictions, 2)
    distances = np.square(first - truth).mean(axis=1)  # their mean is bias² + variance
    variance = first.var(axis=0, ddof=1).mean()
    noise = noise_std * np.random.default_rng(seed).normal(size=second.shape)
    errors = np.square(truth + noise - second).mean(axis=1)
    squared = [x.var(ddof=1) / len(x) for x in (distances, errors)]
    return Decomposition(
        float(distances.mean() - variance),
        float(variance),
        float(noise_std) ** 2,
        float(errors.mean()),
        float(np.sqrt(sum(squared))),
    )


def least_squares_parts(
    design: ArrayLike, truth: ArrayLike, test_design: ArrayLike, test_truth: ArrayLike, std: float
) -> tuple[float, float]:
    r"""Bias² and variance of least squares of minimal norm, exactly, where x stays and ε is drawn.

    .. math:: \hat y = H y, \quad H = \Phi_* \Phi^+, \quad
              \text{bias}^2 = \overline{(H f - f_*)^2}, \quad
              \text{variance} = \sigma^2\, \overline{\mathrm{diag}\, H H^\top}

    Args:
      design: Φ, `[n, features]`; with more features than examples, of all solutions without error
        the shortest is meant.
      truth: f at the training inputs, `[n]`.
      test_design: Φ_*, `[places, features]`.
      test_truth: f_*, `[places]`.
      std: σ.

    Returns:
      Bias² and variance, means over the places.
    """
    smoother = np.asarray(test_design) @ np.linalg.pinv(np.asarray(design))
    bias = smoother @ np.asarray(truth) - np.asarray(test_truth)
    return float(np.mean(bias**2)), float(std**2 * np.mean(np.sum(smoother**2, axis=1)))


def legendre_features(inputs: ArrayLike, degree: int) -> np.ndarray:
    """The Legendre polynomials P₀ … P_degree at inputs in [−1, 1], `[n, degree + 1]`.

    Raises:
      ValueError: a degree below zero, or inputs out of range.
    """
    inputs = np.asarray(inputs, np.float64)
    if degree < 0 or degree != int(degree):
        raise ValueError(f"degree must be a whole number of at least 0, got {degree}")
    if inputs.ndim != 1 or np.abs(inputs).max(initial=0) > 1:
        raise ValueError("inputs must be a vector of numbers from -1 to 1")
    return np.polynomial.legendre.legvander(inputs, int(degree))
