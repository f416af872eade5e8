"""Break-even against counting trainings one by one."""

import itertools
import math
from fractions import Fraction

import hypothesis
import jax
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from learned_opt.studies import break_even, break_even_interval
from learned_opt.studies.costs import least_gradient, step_time
from learned_opt.studies.runs import Optimizer, step_times
from learned_opt.tasks import Quadratic

WHOLE = st.integers(1, 12)
QUARTERS = st.integers(1, 24).map(lambda n: n / 4)  # exact in binary


def _by_hand(cost, run, speed_up, ratio, k_b, k_l, most=1000):
    """Pays for one training after the other, in exact numbers."""
    with_baseline, with_learned = Fraction(0), Fraction(cost)
    for n in range(1, most + 1):
        with_baseline += k_b * run
        with_learned += k_l * run * Fraction(ratio) / Fraction(speed_up)
        if with_learned < with_baseline:
            return n
    return math.inf


@hypothesis.given(st.integers(0, 40), WHOLE, QUARTERS, QUARTERS, st.integers(1, 7), WHOLE)
@hypothesis.settings(deadline=None, max_examples=100)
def test_equals_counting(cost, run, speed_up, ratio, k_b, k_l):
    found = break_even(
        cost, run, speed_up=speed_up, step_time=ratio, baseline_runs=k_b, learned_runs=k_l
    )
    # What a training saves is at least run / 24, so 24 · 40 + 1 trainings tell 'late' from 'never'.
    assert found == _by_hand(cost, run, speed_up, ratio, k_b, k_l)


def test_a_tie_has_not_paid_yet():
    # Each training saves 10 seconds: after 3 the cost is even, after 4 it has paid.
    assert break_even(30, 20, speed_up=2, step_time=1) == 4
    assert break_even(0, 20, speed_up=2, step_time=1) == 1
    assert break_even(30, 20, speed_up=2, step_time=2) == math.inf
    assert break_even(0, 20, speed_up=2, step_time=2) == math.inf


@hypothesis.given(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), st.floats(0.1, 10))
@hypothesis.settings(deadline=None, max_examples=50)
def test_the_interval_holds_every_speed_up_within(speed_ups, ratio):
    low, value, high = sorted(speed_ups)
    found = break_even_interval(1e3, 60, speed_up=(value, low, high), step_time=ratio)
    for s in np.linspace(low, high, 7):
        s = min(max(float(s), low), high)
        assert found.low <= break_even(1e3, 60, speed_up=s, step_time=ratio) <= found.high
    assert found.mean == break_even(1e3, 60, speed_up=value, step_time=ratio)


@pytest.mark.parametrize("speed_up", [1.5, 2.58, 6.0])
@pytest.mark.parametrize("baseline_update", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("runs", [(1, 1), (7, 1), (2, 7)])
def test_the_least_gradient_is_where_break_even_turns(speed_up, baseline_update, runs):
    k_b, k_l = runs

    def pays(gradient):
        r = step_time(gradient, baseline_update=baseline_update)
        return math.isfinite(
            break_even(1, 1, speed_up=speed_up, step_time=r, baseline_runs=k_b, learned_runs=k_l)
        )

    bound = least_gradient(
        speed_up, baseline_update=baseline_update, baseline_runs=k_b, learned_runs=k_l
    )
    if math.isinf(bound):
        assert not any(pays(g) for g in (1e-3, 1.0, 1e9))
        return
    assert pays(bound * 1.001 + 1e-9)
    assert bound == 0 or not pays(bound * 0.999)


def test_steps_are_timed_by_the_clock_that_is_given():
    ticks = itertools.count()
    found = step_times(
        {"sgd": Optimizer(lambda rate, *_: optax.sgd(rate))},
        Quadratic(num_dims=2),
        jax.random.key(0),
        num_steps=4,
        repeats=3,
        clock=lambda: float(next(ticks)),
    )
    assert found == {"sgd": [0.25] * 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta_training": -1}, "meta_training must be finite and not negative, got -1"),
        ({"run": 0}, "run must be finite and positive, got 0"),
        ({"run": math.inf}, "run must be finite and positive, got inf"),
        ({"speed_up": 0.0}, "speed_up must be finite and positive, got 0.0"),
        ({"step_time": math.nan}, "step_time must be finite and positive, got nan"),
        ({"baseline_runs": 0}, "baseline_runs must be positive, got 0"),
        ({"learned_runs": 1.5}, "learned_runs must be a positive integer, got 1.5"),
    ],
)
def test_bad_input_is_refused(change, message):
    settings = {"meta_training": 1, "run": 1, "speed_up": 2.0, "step_time": 1.5} | change
    with pytest.raises(ValueError, match=message):
        break_even(**settings)


def test_bad_intervals_and_times_are_refused():
    with pytest.raises(ValueError, match=r"speed_up must be \(value, low, high\) in order"):
        break_even_interval(1, 1, speed_up=(1.0, 2.0, 3.0), step_time=1.0)
    with pytest.raises(ValueError, match="the baseline takes no time"):
        step_time(0.0)
    with pytest.raises(ValueError, match="gradient must be finite and not negative, got -1"):
        step_time(-1)
    with pytest.raises(ValueError, match="baseline_update must be from 0 to 1, got 2"):
        least_gradient(2.0, baseline_update=2)
