"""Statistics of studies against enumeration, brute force and published numbers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from learned_opt.studies import statistics
from learned_opt.studies.statistics import best_of_k, probability_better, rank_probabilities


def subsets(validation, reported, k):
    """What the best of every subset of K trials reports."""
    return np.array(
        [
            reported[min(chosen, key=lambda n: validation[n])]
            for chosen in itertools.combinations(range(len(validation)), k)
        ]
    )


@given(st.integers(1, 9), st.data())
@settings(deadline=None)
def test_equals_enumeration(num_trials, data):
    k = data.draw(st.integers(1, num_trials))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    validation, reported = rng.normal(size=(2, num_trials))
    found = subsets(validation, reported, k)
    result = best_of_k(validation, reported, ks=[k])
    np.testing.assert_allclose(result.mean, found.mean())
    for quantile, value in ((0.05, result.low), (0.5, result.median), (0.95, result.high)):
        # The inverse of the distribution function: at least that share at or below, and no less.
        assert np.mean(found <= value + 1e-12) >= quantile - 1e-9
        assert np.mean(found < value - 1e-12) <= quantile + 1e-9


@given(st.integers(1, 300), st.data(), st.sampled_from(["exact", "bootstrap"]))
@settings(deadline=None)
def test_probabilities_add_up(num_trials, data, method):
    p = rank_probabilities(num_trials, data.draw(st.integers(1, num_trials)), method=method)
    assert p.shape == (num_trials,) and (p >= 0).all()
    assert (np.diff(p) <= 1e-15).all()
    assert p.sum() == pytest.approx(1)


def test_the_bias_of_the_bootstrap():
    """The best of 100 out of 500: expected rank (N + 1) / (K + 1) = 4.96, by the bootstrap 5.5."""
    ranks = np.arange(1, 501)
    assert rank_probabilities(500, 100) @ ranks == pytest.approx(501 / 101)
    bootstrap = rank_probabilities(500, 100, method="bootstrap") @ ranks
    assert bootstrap == pytest.approx(5.5, abs=0.05)


def test_against_brute_force_on_simulated_studies():
    """10,000 studies of 50 trials each: the mean best of K found by drawing and looking."""
    rng = np.random.default_rng(0)
    num_studies, num_trials = 10_000, 50
    validation = rng.exponential(size=num_trials)
    reported = validation + rng.normal(scale=0.2, size=num_trials)
    for k in (1, 2, 5, 10, 25, 50):
        drawn = rng.permuted(np.tile(np.arange(num_trials), (num_studies, 1)), axis=1)[:, :k]
        chosen = drawn[np.arange(num_studies), np.argmin(validation[drawn], axis=1)]
        found = reported[chosen]
        result = best_of_k(validation, reported, ks=[k])
        error = found.std() / math.sqrt(num_studies)
        assert abs(result.mean[0] - found.mean()) <= 4 * error + 1e-12
        for share, value in zip(
            (0.05, 0.5, 0.95), (result.low, result.median, result.high), strict=True
        ):
            at_most = np.mean(found <= value[0])
            below = np.mean(found < value[0])
            slack = 4 * math.sqrt(share * (1 - share) / num_studies)
            assert below - slack <= share <= at_most + slack


def test_bootstrap_against_drawing_with_replacement():
    rng = np.random.default_rng(1)
    validation = rng.normal(size=20)
    drawn = validation[rng.integers(0, 20, (100_000, 5))].min(axis=1)
    result = best_of_k(validation, ks=[5], method="bootstrap")
    assert abs(result.mean[0] - drawn.mean()) < 4 * drawn.std() / math.sqrt(len(drawn))


def test_diverged_trials_come_last():
    validation = [0.5, math.nan, 0.2, math.inf]
    result = best_of_k(validation, [0.6, 0.0, 0.3, 0.0])
    assert result.mean[0] == math.inf and result.high[0] == math.inf
    np.testing.assert_allclose(result.mean[2:], [0.25 * 0.6 + 0.75 * 0.3, 0.3])
    assert math.isinf(best_of_k([math.nan] * 3).mean[-1])
    assert statistics.divergence_rate(validation) == 0.5


@pytest.mark.parametrize("k", [1, 3, 5])
def test_probability_better_equals_enumeration(k):
    rng = np.random.default_rng(2)
    va, vb = rng.normal(size=6), rng.normal(0.3, size=5)
    ra, rb = np.round(va + rng.normal(size=6)), np.round(vb + rng.normal(size=5))
    a, b = subsets(va, ra, k), subsets(vb, rb, k)
    expected = np.mean((a[:, None] < b) + 0.5 * (a[:, None] == b))
    assert probability_better(va, vb, ra, rb, k=k) == pytest.approx(expected)
    assert probability_better(vb, va, rb, ra, k=k) == pytest.approx(1 - expected)


def test_tuned_difference_against_drawing_trials_anew():
    rng = np.random.default_rng(4)
    va, vb = rng.normal(size=20), rng.normal(0.4, size=15)
    ra, rb = va + rng.normal(scale=0.3, size=20), vb + rng.normal(scale=0.3, size=15)
    drawn = []
    for validation, reported in ((va, ra), (vb, rb)):
        n = len(validation)
        trials = rng.integers(0, n, (20_000, n))
        best = np.argmin(validation[trials], axis=1)
        drawn.append(reported[trials[np.arange(20_000), best]])
    differences = drawn[0] - drawn[1]
    found = statistics.tuned_difference(va, vb, ra, rb)
    slack = 4 * math.sqrt(0.25 / 20_000)
    for share, value in ((0.5, found.median), (0.05, found.low), (0.95, found.high)):
        assert np.mean(differences < value) - slack <= share
        assert share <= np.mean(differences <= value) + slack


def test_paired_difference_covers_the_truth():
    """A 90 % interval over paired seeds holds the true difference in about 90 % of experiments."""
    rng = np.random.default_rng(3)
    covered = 0
    for n in range(200):
        shared = rng.normal(size=40)
        a, b = shared + rng.normal(0.0, 0.1, 40), shared + rng.normal(0.05, 0.1, 40)
        result = statistics.paired_difference(a, b, num_samples=500, seed=n)
        covered += result.low <= -0.05 <= result.high
    assert 0.8 < covered / 200 < 0.97
    assert statistics.paired_difference([1.0, 2.0], [2.0, 2.0]).probability_a_better == 0.75


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(-0.44, 25.0), (-0.1, 0.3)], "not shown worse"),  # far from "never worse"
        ([(-3.0, 0.0), (-2.0, -1.0)], "not shown worse"),
        ([(-3.0, -0.1), (-2.0, -1.0)], "better"),
        ([(0.1, 3.0), (0.2, math.inf)], "worse"),
        ([(0.1, 3.0), (-0.2, 1.0)], "unclear"),
        ([(0.1, 3.0), (-2.0, -1.0)], "unclear"),
        ([(math.nan, math.nan), (-2.0, -1.0)], "unclear"),
    ],
)
def test_a_verdict_claims_no_more_than_its_intervals(intervals, expected):
    assert statistics.verdict(intervals) == expected
    assert statistics.verdict(intervals[::-1]) == expected


def test_the_interval_of_a_mean_is_that_of_the_t_test():
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 2.0, 7)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = statistics.mean_interval(values, level=0.9)
    np.testing.assert_allclose(found, [values.mean(), wanted.low, wanted.high], rtol=1e-12)
    holds = [x.low < 1 < x.high for x in map(statistics.mean_interval, rng.normal(1, 2, (2000, 4)))]
    assert 0.93 < np.mean(holds) < 0.97


def test_steps_to_target():
    losses = [[3.0, 2.0, 1.0, 1.5], [3.0, 2.5, 2.2, math.nan]]
    assert statistics.steps_to_target(losses, 2.0).tolist() == [1.0, math.inf]


def test_performance_profile():
    costs = [[1.0, 2.0], [3.0, 1.0], [math.inf, 5.0], [math.inf, math.inf]]
    profile = statistics.performance_profile(costs, [1.0, 2.0, 4.0])
    assert profile.tolist() == [[0.25, 0.25, 0.5], [0.5, 0.75, 0.75]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_of_k([]), "no trials"),
        (lambda: best_of_k([1.0, 2.0], ks=[3]), r"from 1 to the number of trials \(2\), got 3"),
        (lambda: best_of_k([1.0, 2.0], ks=[0]), "got 0"),
        (lambda: best_of_k([1.0, 2.0], [1.0]), "one reported score a trial"),
        (lambda: rank_probabilities(3, 2, method="jackknife"), "unknown method 'jackknife'"),
        (lambda: statistics.paired_difference([1.0], [1.0]), "two or more seeds"),
        (lambda: statistics.mean_interval([1.0]), "two or more seeds"),
        (lambda: statistics.mean_interval([1.0, 2.0], level=95), "between 0 and 1, got 95"),
        (lambda: statistics.performance_profile([[0.0, 1.0]], [1.0]), "positive"),
        (lambda: statistics.divergence_rate([]), "no trials"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
