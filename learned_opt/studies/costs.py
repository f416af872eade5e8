r"""When is meta-training worth what it costs?

Meta-training costs C seconds, once. A training then takes T_b seconds with the baseline and T_l
with the learned rule, all runs of their tuning included, so that N trainings take

.. math:: N T_b \quad\text{and}\quad C + N T_l

A rule that needs fewer steps and takes longer for each is not always quicker: what decides is the
time of the gradient, which both have to wait for, against the time of the updates.
"""

import math
from fractions import Fraction

from learned_opt.studies.statistics import Interval
from learned_opt.tasks.checks import not_negative, positive


def break_even(
    meta_training: float,
    run: float,
    *,
    speed_up: float,
    step_time: float,
    baseline_runs: int = 1,
    learned_runs: int = 1,
) -> float:
    r"""The number of trainings from which on meta-training has paid for itself.

    .. math:: N = \min \{ n \ge 1 : C + n T_l < n T_b \}
                = \left\lfloor \frac{C}{T_b - T_l} \right\rfloor + 1, \qquad
              T_b = k_b T, \quad T_l = k_l T \, r / s

    Args:
      meta_training: C, seconds; 0 for a rule that somebody else has trained.
      run: T, seconds of one run with the baseline.
      speed_up: s, steps of the baseline over steps of the learned rule, to the same loss.
      step_time: r, time of the learned rule's step over that of the baseline's, gradients included.
      baseline_runs: k_b, the runs that the baseline takes for each training, to tune it.
      learned_runs: k_l, those of the learned rule.

    Returns:
      N, a whole number; infinity where T_l ≥ T_b: no number of trainings is enough.

    Raises:
      ValueError: a time or speed-up that is not positive and finite, C below zero, no run.

    Example:
      >>> break_even(900, 60, speed_up=2.58, step_time=2.97, baseline_runs=7)
      3
      >>> break_even(900, 60, speed_up=2.58, step_time=2.97)
      inf
    """
    not_negative(meta_training=meta_training)
    _positive(run=run, speed_up=speed_up, step_time=step_time)
    k_b, k_l = positive("baseline_runs", baseline_runs), positive("learned_runs", learned_runs)
    # Exact, for a difference of times may be all but zero.
    saved = Fraction(run) * (k_b - k_l * Fraction(step_time) / Fraction(speed_up))
    return math.floor(Fraction(meta_training) / saved) + 1 if saved > 0 else math.inf


def break_even_interval(
    meta_training: float,
    run: float,
    *,
    speed_up: tuple[float, float, float],
    step_time: float,
    baseline_runs: int = 1,
    learned_runs: int = 1,
) -> Interval:
    """`break_even` at a speed-up and at the ends of its interval.

    N falls as the speed-up grows, so the ends of N's interval are N at the ends of the speed-up's,
    the other way round.

    Args:
      meta_training: see `break_even`, as for all others.
      run: T.
      speed_up: s, low, high, as summary.json of a leaderboard has it.
      step_time: r.
      baseline_runs: k_b.
      learned_runs: k_l.

    Returns:
      N, its least and its greatest value; infinity where meta-training never pays.

    Raises:
      ValueError: as `break_even`, or an interval that does not hold its speed-up.

    Example:
      >>> speed_up = (2.58, 2.41, 2.78)
      >>> tuple(break_even_interval(900, 6, speed_up=speed_up, step_time=2.97, baseline_runs=7))
      (26, 26, 27)
    """
    value, low, high = speed_up
    if not low <= value <= high:
        raise ValueError(f"speed_up must be (value, low, high) in order, got {tuple(speed_up)}")
    found = [
        break_even(
            meta_training, run, speed_up=s, step_time=step_time,
            baseline_runs=baseline_runs, learned_runs=learned_runs,
        )
        for s in (value, high, low)
    ]  # fmt: skip
    return Interval(*found)


def step_time(gradient: float, *, update: float = 1.0, baseline_update: float = 0.0) -> float:
    r"""How much longer a learned rule's step is than the baseline's, :math:`(g + u_l)/(g + u_b)`.

    Args:
      gradient: g, the time of loss and gradient.
      update: u_l, of the learned rule's update, in the same unit; by default it is the unit.
      baseline_update: u_b, of the baseline's.

    Raises:
      ValueError: a time that is negative or not finite, or a baseline that takes no time at all.
    """
    not_negative(gradient=gradient, update=update, baseline_update=baseline_update)
    if gradient + baseline_update <= 0:
        raise ValueError("gradient + baseline_update must be positive: the baseline takes no time")
    return (gradient + update) / (gradient + baseline_update)


def least_gradient(
    speed_up: float,
    *,
    baseline_update: float = 0.0,
    baseline_runs: int = 1,
    learned_runs: int = 1,
) -> float:
    r"""The time of a gradient above which the learned rule takes fewer seconds, in units of u_l.

    :math:`T_l < T_b` of `break_even` with the r of `step_time` and u_l = 1, solved for g: with
    :math:`\rho = s k_b / k_l`

    .. math:: g > \frac{1 - \rho u_b}{\rho - 1}

    Args:
      speed_up: s, see `break_even`.
      baseline_update: u_b, time of the baseline's update over the learned rule's, from 0 to 1.
      baseline_runs: k_b.
      learned_runs: k_l.

    Returns:
      The bound, at least 0; infinity where ρ ≤ 1, for a rule that saves no steps saves no time.

    Raises:
      ValueError: a speed-up that is not positive and finite, u_b outside of [0, 1], no run.

    Example:
      >>> round(least_gradient(2.58), 2)
      0.63
    """
    _positive(speed_up=speed_up)
    if not 0 <= baseline_update <= 1:
        raise ValueError(f"baseline_update must be from 0 to 1, got {baseline_update}")
    k_b, k_l = positive("baseline_runs", baseline_runs), positive("learned_runs", learned_runs)
    saved = speed_up * k_b / k_l
    return max(0.0, (1 - saved * baseline_update) / (saved - 1)) if saved > 1 else math.inf


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and positive, got {value}")
