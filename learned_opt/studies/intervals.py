"""Intervals of means over seeds or replicates."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A mean and where it lies.

    Attributes:
      mean: the mean.
      low: the lower end.
      high: the upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    r"""The mean of independent values, with Student's interval.

    .. math:: \bar x \pm t_{n-1,\,(1+\text{level})/2}\; s / \sqrt n

    Args:
      values: `[n]`, one for each seed.
      level: how often such an interval holds the true mean.

    Raises:
      ValueError: fewer than two values, one that is not finite, or a level outside of (0, 1).

    Example:
      >>> mean_interval([1.0, 2.0, 3.0], level=0.5).high.__round__(3)
      2.471
    """
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError("an interval needs at least two values, all of them finite")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    reach = t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    mean = values.mean()
    return Interval(float(mean), float(mean - reach), float(mean + reach))
