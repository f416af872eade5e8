r"""Statistics of a leaderboard: many rules on many workloads, from a few seeds each.

Scores are one array `[seeds]` a workload, and higher is better. They are summed up by the mean of
their middle half over all workloads and seeds together, the interquartile mean, with an interval
from a bootstrap that draws seeds anew within each workload.

References: Agarwal et al., *Deep reinforcement learning at the edge of the statistical precipice*,
2021; Moudgil et al., *Celo: training versatile learned optimizers on a compute diet*, 2025 (the
speed-up).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.studies.spaces import check_seed

RATIO_CAP = 10.0  # ratios of losses lie between its inverse and it; a diverged run has the worst
SATURATED = 1e-3  # of the loss at the start: training is over, and a speed-up says nothing
_SMOOTHING, _SMOOTHING_POINTS = 0.95, 200  # 0.95 for curves of 200 points


class Estimate(NamedTuple):
    """A number with its 95 % interval.

    Attributes:
      value: the number.
      low: the lower end.
      high: the upper end.
    """

    value: float
    low: float
    high: float


def iqm(scores: Sequence[ArrayLike]) -> float:
    """The mean of the middle half of all scores.

    A quarter of them, rounded down, is left out on either side, as `scipy.stats.trim_mean` does.

    Args:
      scores: `[seeds]` of each workload.

    Raises:
      ValueError: there are none.

    Example:
      >>> iqm([[0.0, 2.0], [3.0, 100.0]])
      2.5
    """
    values = np.sort(_checked(scores)[1])
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def estimate(
    scores: Sequence[ArrayLike],
    statistic: Callable[[Sequence[np.ndarray]], float] = iqm,
    *,
    num_samples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A statistic of scores with the 95 % percentile interval of a stratified bootstrap.

    Args:
      scores: `[seeds]` of each workload. Seeds are drawn anew within each workload, workloads are
        the same in every sample: the interval is about other seeds, not about other workloads.
      statistic: of such scores.
      num_samples: bootstrap samples.
      seed: of the resampling.
    """
    arrays, _ = _checked(scores)
    check_seed(seed)
    rng = np.random.default_rng(seed)
    drawn = [array[rng.integers(0, len(array), (num_samples, len(array)))] for array in arrays]
    found = [statistic([samples[n] for samples in drawn]) for n in range(num_samples)]
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(float(statistic(arrays)), float(low), float(high))


def profile(scores: Sequence[ArrayLike], taus: ArrayLike) -> np.ndarray:
    """The share of scores above each τ, `[num_taus]`, every workload counting the same."""
    arrays, _ = _checked(scores)
    taus = np.asarray(taus, float)
    return np.mean([(array[:, None] > taus).mean(axis=0) for array in arrays], axis=0)


def probability_of_improvement(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> float:
    """The probability that A scores higher than B on a workload; ties count half.

    Over all pairs of a seed of A and a seed of B, then the mean over workloads.

    Args:
      a: A's scores, `[seeds]` of each workload.
      b: B's scores on the same workloads.

    Raises:
      ValueError: numbers of workloads that differ.
    """
    left, right = _checked(a)[0], _checked(b)[0]
    if len(left) != len(right):
        raise ValueError(f"a has {len(left)} workloads and b has {len(right)}")
    wins = [
        ((x[:, None] > y) + 0.5 * (x[:, None] == y)).mean()
        for x, y in zip(left, right, strict=True)
    ]
    return float(np.mean(wins))


def loss_ratios(theirs: ArrayLike, ours: ArrayLike, *, cap: float = RATIO_CAP) -> np.ndarray:
    """Their loss over ours for each seed, `[seeds]`: above one where ours is lower.

    Args:
      theirs: their losses `[seeds]`, NaN where a run diverged.
      ours: ours, of the same seeds.
      cap: ratios lie in [1 / cap, cap]. Where our run diverged the ratio is 1 / cap, where theirs
        did it is `cap`, and where both did it is 1.

    Example:
      >>> loss_ratios([1.0, 3.0, np.nan], [2.0, 1.0, 1.0])
      array([ 0.5,  3. , 10. ])
    """
    theirs, ours = np.asarray(theirs, float), np.asarray(ours, float)
    if theirs.shape != ours.shape:
        raise ValueError(f"losses of the same seeds are needed, got {theirs.shape}, {ours.shape}")
    lost, won = ~np.isfinite(ours), ~np.isfinite(theirs)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.clip(theirs / ours, 1 / cap, cap)
    ratios = np.where(lost, 1 / cap, np.where(won, cap, ratios))
    return np.where((lost & won) | (theirs == ours), 1.0, ratios)


def smooth(curves: ArrayLike, points: int) -> np.ndarray:
    """The exponential moving average of loss curves, which starts from their first losses.

    Its decay is 0.95 where `points` is 200, and such that it covers the same share of a run for
    other numbers: 0.95^(200 / points).

    Args:
      curves: `[..., points + 1]` or longer, losses at evenly spaced steps.
      points: how many of them there are in a run after its start.
    """
    curves = np.asarray(curves, float)
    decay = _SMOOTHING ** (_SMOOTHING_POINTS / points)
    found = [curves[..., 0]]
    for n in range(1, curves.shape[-1]):
        found.append(decay * found[-1] + (1 - decay) * curves[..., n])
    return np.stack(found, axis=-1)


def envelope(curves: Mapping[Any, ArrayLike], points: int) -> np.ndarray:
    """What a rule reaches by each step with the rate that is the best one until there.

    The mean over seeds, smoothed; the lowest of all rates; and its running minimum.

    Args:
      curves: rate -> training losses `[seeds, n]`; NaN where a run diverged.
      points: see `smooth`.

    Returns:
      `[n]`, never increasing.
    """
    means = [smooth(np.asarray(c, float).mean(axis=0), points) for c in curves.values()]
    means = [np.where(np.isfinite(mean), mean, math.inf) for mean in means]
    return np.minimum.accumulate(np.min(means, axis=0))


class SpeedUps(NamedTuple):
    """How many times as fast a rule is as the envelope of another.

    Attributes:
      values: `[seeds]`; above one where it is faster.
      capped: 'low', 'high' or '' for each seed: the speed-up is at most, or at least, the value.
    """

    values: np.ndarray
    capped: list[Literal["low", "high", ""]]


def speed_ups(curves: ArrayLike, reference: np.ndarray, points: int) -> SpeedUps:
    """Maps a rule's training loss at its end to the steps at which the reference had reached it.

    Speed-up = (the reference's steps to that loss, interpolated) / (the rule's own steps). The
    rule's curves are smoothed as the reference's are. Where the reference does not reach the loss
    the speed-up is at least its length over the rule's, f; slower ones than 1 / f are not told
    apart either.

    Args:
      curves: the rule's training losses `[seeds, points + 1]`; NaN where a run diverged.
      reference: the `envelope` of f times as long runs, `[f × points + 1]`.
      points: see `smooth`.
    """
    curves = np.asarray(curves, float)
    if curves.shape[1] != points + 1 or len(reference) < points + 1:
        raise ValueError(
            f"curves must be [seeds, {points + 1}] and the reference at least as long, got "
            f"{curves.shape} and {len(reference)}"
        )
    factor = (len(reference) - 1) / points
    values, capped = [], []
    for end in smooth(curves, points)[:, -1]:
        value = _reached(end, reference) / points
        mark: Literal["low", "high", ""] = ""
        if not value <= factor:
            value, mark = factor, "high"
        elif value < 1 / factor:
            value, mark = 1 / factor, "low"
        values.append(value)
        capped.append(mark)
    return SpeedUps(np.array(values), capped)


def _reached(loss: float, reference: np.ndarray) -> float:
    """The point, between others, at which a falling curve reaches a loss; infinity if never."""
    if not math.isfinite(loss):
        return 0.0
    below = np.flatnonzero(reference <= loss)
    if not len(below):
        return math.inf
    n = int(below[0])
    if n == 0:
        return 0.0
    before, after = reference[n - 1], reference[n]
    return n - 1 + (before - loss) / (before - after)


def saturated(reference: np.ndarray, points: int) -> bool:
    """Whether the reference's loss at the end of a run is below 1e-3 of that at its start."""
    return bool(reference[points] < SATURATED * reference[0])


def _checked(scores: Sequence[ArrayLike]) -> tuple[list[np.ndarray], np.ndarray]:
    arrays = [np.atleast_1d(np.asarray(array, float)) for array in scores]
    if not arrays or not all(array.ndim == 1 and array.size for array in arrays):
        raise ValueError("there must be at least one workload, each with scores [seeds]")
    values = np.concatenate(arrays)
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite: cap them first")
    return arrays, values
