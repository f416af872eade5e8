"""Intervals of means, against SciPy's and against how often they hold the mean."""

import numpy as np
import pytest
import scipy.stats

from learned_opt.studies.intervals import mean_interval


def test_equals_scipys_t_test():
    values = np.random.default_rng(0).normal(3, 2, 9)
    found = mean_interval(values, level=0.9)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(found[1:], [expected.low, expected.high])
    assert found.mean == values.mean()


def test_holds_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(0.3, 1, (2000, 5))
    found = [mean_interval(row, level=0.8) for row in draws]
    assert np.mean([x.low <= 0.3 <= x.high for x in found]) == pytest.approx(0.8, abs=0.03)


def test_knows_on_which_side_of_zero_it_lies():
    assert mean_interval([1.0, 1.1, 0.9]).excludes_zero
    assert mean_interval([-1.0, -1.1, -0.9]).excludes_zero
    assert not mean_interval([1.0, -1.1, 0.2]).excludes_zero


def test_bad_input_is_refused():
    for values in ([1.0], [[1.0, 2.0]], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="at least two values, all of them finite"):
            mean_interval(values)
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        mean_interval([1.0, 2.0], level=95)
