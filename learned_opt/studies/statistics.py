r"""Statistics of tuning studies: what to expect of the best of K trials, and who is better.

A study of N trials says more than its winner: it says how good the best of any K ≤ N trials would
have been. *Best* is always by a validation score, what is reported is another score of that trial
(its test error, say). Lower is better in all of this module; a trial that diverged has the score
infinity or NaN and comes last.

Reference: Choi et al., *On empirical comparisons of optimizers for deep learning*, 2019; Dodge et
al., *Show your work: improved reporting of experimental results*, 2019.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.studies.spaces import check_seed


class BestOfK(NamedTuple):
    """What the best of K trials gives, for each of several K.

    Attributes:
      ks: the numbers of trials, `[num_ks]`.
      mean: the mean reported score, `[num_ks]`; infinite where a diverged trial may be the best.
      low: its 5th percentile, `[num_ks]`.
      median: its median, `[num_ks]`.
      high: its 95th percentile, `[num_ks]`.
    """

    ks: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


def rank_probabilities(
    num_trials: int, k: int, *, method: Literal["exact", "bootstrap"] = "exact"
) -> np.ndarray:
    r"""The probability that the best of K trials is the r-th best of all N.

    Exactly, over the subsets of K trials out of N,

    .. math:: p_r = \binom{N-r}{K-1} \Big/ \binom{N}{K}, \quad r = 1 \dots N;

    the bootstrap draws K trials with replacement,

    .. math:: p_r = \left(\frac{N-r+1}{N}\right)^K - \left(\frac{N-r}{N}\right)^K,

    and is biased: of the best of 100 out of 500 it expects rank 5.5, where subsets give 5.0.

    Args:
      num_trials: N.
      k: K, from 1 to N.
      method: 'exact' or 'bootstrap'.

    Returns:
      `[N]`, adding up to one.

    Raises:
      ValueError: K is not in 1 … N, or an unknown method.

    Example:
      >>> rank_probabilities(4, 2)
      array([0.5       , 0.33333333, 0.16666667, 0.        ])
    """
    if not 1 <= k <= num_trials:
        raise ValueError(f"k must be from 1 to the number of trials ({num_trials}), got {k}")
    ranks = np.arange(1, num_trials + 1)
    if method == "bootstrap":
        tail = (num_trials - np.arange(num_trials + 1)) / num_trials
        return tail[:-1] ** k - tail[1:] ** k
    if method != "exact":
        raise ValueError(f"unknown method {method!r}: expected 'exact' or 'bootstrap'")
    # p_1 = K / N, p_{r+1} = p_r (N − r − K + 1) / (N − r)
    left = num_trials - ranks[:-1]
    return k / num_trials * np.cumprod(np.concatenate([[1.0], (left - k + 1) / left]).clip(min=0))


def best_of_k(
    validation: ArrayLike,
    reported: ArrayLike | None = None,
    *,
    ks: ArrayLike | None = None,
    method: Literal["exact", "bootstrap"] = "exact",
) -> BestOfK:
    """The distribution of what the trial with the best validation score among K reports.

    Args:
      validation: the scores that choose, `[N]`; not finite where a trial diverged.
      reported: the scores of interest of the same trials, `[N]`; by default `validation`.
      ks: numbers of trials, each from 1 to N; by default 1 … N.
      method: see `rank_probabilities`.

    Raises:
      ValueError: no trials, arrays that do not fit together, or a K above N.
    """
    values = _in_order(validation, validation if reported is None else reported)
    numbers = np.arange(1, len(values) + 1) if ks is None else np.atleast_1d(np.asarray(ks, int))
    order = np.argsort(values, kind="stable")
    rows = []
    for k in numbers:
        p = rank_probabilities(len(values), int(k), method=method)
        with np.errstate(invalid="ignore"):  # 0 · ∞
            mean = np.where(p > 0, p * values, 0.0).sum()
        at = np.searchsorted(np.cumsum(p[order]), np.array([0.05, 0.5, 0.95]) - 1e-12)
        rows.append((mean, *values[order][at.clip(max=len(values) - 1)]))
    return BestOfK(numbers, *np.array(rows).T)


def probability_better(
    validation_a: ArrayLike,
    validation_b: ArrayLike,
    reported_a: ArrayLike | None = None,
    reported_b: ArrayLike | None = None,
    *,
    k: int,
) -> float:
    """The probability that the best of K trials of A reports less than the best of K of B.

    Both are tuned with K trials of their own; ties count half. Exact, over subsets.

    Args:
      validation_a: A's validation scores, `[N_a]`.
      validation_b: B's, `[N_b]`.
      reported_a: what A's trials report; by default the validation scores.
      reported_b: the same for B.
      k: K, at most the smaller number of trials.

    Raises:
      ValueError: see `best_of_k`.

    Example:
      >>> probability_better([1., 2.], [1.5, 3.], k=1)
      0.75
    """
    a = _in_order(validation_a, validation_a if reported_a is None else reported_a)
    b = _in_order(validation_b, validation_b if reported_b is None else reported_b)
    p_a, p_b = rank_probabilities(len(a), k), rank_probabilities(len(b), k)
    wins = (a[:, None] < b) + 0.5 * (a[:, None] == b)
    return float(p_a @ wins @ p_b)


class TunedDifference(NamedTuple):
    """How two tuned rules compare, over what their trials might have been.

    Attributes:
      median: the median of A − B.
      low: its 5th percentile.
      high: its 95th percentile.
    """

    median: float
    low: float
    high: float


def tuned_difference(
    validation_a: ArrayLike,
    validation_b: ArrayLike,
    reported_a: ArrayLike | None = None,
    reported_b: ArrayLike | None = None,
) -> TunedDifference:
    """The difference between what the best trials of A and of B report, with its uncertainty.

    The trials of each rule are drawn anew, with replacement and as many as there are; the best by
    validation reports. The distribution of the difference is computed, not sampled.

    Args:
      validation_a: A's validation scores, `[N_a]`.
      validation_b: B's, `[N_b]`.
      reported_a: what A's trials report; by default the validation scores.
      reported_b: the same for B.

    Raises:
      ValueError: see `best_of_k`.
    """
    a = _in_order(validation_a, validation_a if reported_a is None else reported_a)
    b = _in_order(validation_b, validation_b if reported_b is None else reported_b)
    p_a = rank_probabilities(len(a), len(a), method="bootstrap")
    p_b = rank_probabilities(len(b), len(b), method="bootstrap")
    with np.errstate(invalid="ignore"):
        differences, p = (a[:, None] - b).ravel(), np.outer(p_a, p_b).ravel()
    order = np.argsort(differences, kind="stable")  # NaN, both diverged, comes last
    at = np.searchsorted(np.cumsum(p[order]), np.array([0.5, 0.05, 0.95]) - 1e-12)
    median, low, high = differences[order][at.clip(max=len(order) - 1)]
    return TunedDifference(float(median), float(low), float(high))


class Interval(NamedTuple):
    """A mean over seeds and its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    r"""The mean over seeds, with Student's interval :math:`\bar x \pm t\, s / \sqrt{n}`.

    Args:
      values: a score of each seed, `[n]`; of differences between two rules on the same seeds, the
        interval is that of the paired t-test.
      level: how often such intervals hold the true mean, where values are about normal.

    Raises:
      ValueError: fewer than two values, not a vector, or a level outside of (0, 1).

    Example:
      >>> [round(x, 2) for x in mean_interval([1.0, 2.0, 3.0])]
      [2.0, -0.48, 4.48]
    """
    from scipy.stats import t

    values = np.asarray(values, float)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values must be those of two or more seeds, got shape {values.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    half = t.ppf((1 + level) / 2, len(values) - 1) * error
    return Interval(float(mean), float(mean - half), float(mean + half))


class PairedDifference(NamedTuple):
    """How two rules compare over the same seeds.

    Attributes:
      mean: the mean of A − B.
      low: the lower end of a bootstrap interval of that mean.
      high: the upper end.
      probability_a_better: the share of seeds with A below B, ties counting half.
    """

    mean: float
    low: float
    high: float
    probability_a_better: float


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.9,
    num_samples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compares scores of two rules that met the same problems, starts and minibatches.

    Args:
      a: A's scores, `[num_seeds]`, in the order of the seeds.
      b: B's.
      level: the share of the bootstrap distribution inside the interval; 0.9 gives 5–95 %.
      num_samples: resamples of the seeds.
      seed: of the resampling.

    Raises:
      ValueError: fewer than two seeds, or numbers of seeds that differ.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(
            f"a and b must be scores of the same two or more seeds, got {a.shape} and {b.shape}"
        )
    with np.errstate(invalid="ignore"):  # both infinite: no difference that could be averaged
        difference = a - b
    better = float(np.mean((a < b) + 0.5 * ((a == b) | (np.isnan(a) & np.isnan(b)))))
    check_seed(seed)
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(0, len(a), (num_samples, len(a)))].mean(axis=1)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(means, ends, method="inverted_cdf")  # infinities are not interpolated
    return PairedDifference(float(difference.mean()), float(low), float(high), better)


Verdict = Literal["better", "worse", "not shown worse", "unclear"]


def verdict(intervals: Sequence[tuple[float, float]]) -> Verdict:
    """What intervals of a difference A − B say together about A, where lower is better.

    - *better*: every interval lies below zero.
    - *worse*: every interval lies above zero.
    - *unclear*: some lie above zero and others do not, or an end is NaN.
    - *not shown worse*: none lies above zero. That is no proof of the contrary: an interval from
      −0.4 to +25 is among them.

    Args:
      intervals: (low, high) of each, at least one.

    Example:
      >>> verdict([(-0.44, 25.0), (-3.0, -1.0)])
      'not shown worse'
    """
    lows, highs = np.array(intervals, float).T
    if np.isnan(lows).any() or np.isnan(highs).any():
        return "unclear"
    if (highs < 0).all():
        return "better"
    if (lows > 0).all():
        return "worse"
    return "unclear" if (lows > 0).any() else "not shown worse"


def steps_to_target(losses: ArrayLike, target: float) -> np.ndarray:
    """The first step at which a loss curve is at or below the target; infinity if it never is.

    Args:
      losses: `[..., num_steps]`.
      target: the loss to reach.

    Returns:
      `[...]`, floating point.
    """
    reached = np.asarray(losses, float) <= target
    first = np.argmax(reached, axis=-1).astype(float)
    return np.where(reached.any(axis=-1), first, math.inf)


def performance_profile(costs: ArrayLike, taus: ArrayLike) -> np.ndarray:
    r"""How often a rule is within a factor τ of the best one.

    .. math:: \rho_s(\tau) = \frac{1}{|P|}\, \#\{p : c_{p,s} \le \tau \min_{s'} c_{p,s'}\}

    Args:
      costs: c, the cost (time or steps to a target) of every rule on every workload,
        `[num_workloads, num_rules]`; positive, infinite where the target was not reached.
      taus: factors τ ≥ 1, `[num_taus]`.

    Returns:
      `[num_rules, num_taus]`. A workload that no rule solved counts for none.

    Raises:
      ValueError: costs that are not positive, or not a matrix.

    Reference: Dolan and Moré, *Benchmarking optimization software with performance profiles*, 2002.
    """
    costs = np.asarray(costs, float)
    if costs.ndim != 2 or 0 in costs.shape or not (costs > 0).all():
        raise ValueError("costs must be a matrix [workloads, rules] of positive numbers")
    best = costs.min(axis=1, keepdims=True)
    solved = np.isfinite(costs)
    with np.errstate(invalid="ignore"):
        ratios = np.where(solved, costs / best, math.inf)
    return (ratios[:, :, None] <= np.asarray(taus, float)).mean(axis=0)


def divergence_rate(scores: ArrayLike) -> float:
    """The share of trials whose score is not finite.

    Raises:
      ValueError: no trials.
    """
    scores = np.asarray(scores, float)
    if scores.size == 0:
        raise ValueError("there are no trials")
    return float(np.mean(~np.isfinite(scores)))


def _in_order(validation: ArrayLike, reported: ArrayLike) -> np.ndarray:
    """Reported scores, sorted by validation score, best first; diverged trials are infinite."""
    validation, reported = np.asarray(validation, float), np.asarray(reported, float)
    if validation.ndim != 1 or validation.shape != reported.shape:
        raise ValueError(
            f"there must be one reported score a trial, got shapes {validation.shape} and "
            f"{reported.shape}"
        )
    if not len(validation):
        raise ValueError("there are no trials")
    diverged = ~np.isfinite(validation)
    validation = np.where(diverged, math.inf, validation)
    reported = np.where(diverged | ~np.isfinite(reported), math.inf, reported)
    return reported[np.argsort(validation, kind="stable")]
