"""The leaderboard's statistics, against computations by hand and with SciPy."""

import numpy as np
import pytest
from scipy import stats

from learned_opt.studies import leaderboard


def test_iqm_is_the_trimmed_mean_over_all_workloads_together():
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=5) for _ in range(7)]
    expected = stats.trim_mean(np.concatenate(scores), 0.25)
    np.testing.assert_allclose(leaderboard.iqm(scores), expected, rtol=1e-12)


def test_the_bootstrap_is_stratified_by_workload():
    # No spread within workloads, all of it between them: an interval of width zero.
    found = leaderboard.estimate([[1.0] * 5, [2.0] * 5, [7.0] * 5], num_samples=50)
    assert found.low == found.high == found.value
    # Against a bootstrap written out: seeds of a workload are drawn from that workload alone.
    rng = np.random.default_rng(1)
    scores = [rng.normal(n, 1, 6) for n in range(3)]
    draws = np.random.default_rng(2)
    means = [np.concatenate([draws.choice(s, len(s)) for s in scores]).mean() for _ in range(4000)]
    found = leaderboard.estimate(scores, lambda s: float(np.concatenate(s).mean()))
    np.testing.assert_allclose(found[1:], np.quantile(means, [0.025, 0.975]), atol=0.04)


def test_probability_of_improvement_is_mann_whitneys_u():
    rng = np.random.default_rng(0)
    a, b = [rng.integers(0, 4, 5) for _ in range(3)], [rng.integers(0, 4, 6) for _ in range(3)]
    u = [stats.mannwhitneyu(x, y).statistic / 30 for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(leaderboard.probability_of_improvement(a, b), np.mean(u))


def test_profile_gives_every_workload_the_same_weight():
    np.testing.assert_allclose(leaderboard.profile([[1.0, 3.0], [3.0] * 6], [0, 1, 2, 3]),
                               [1, 0.75, 0.75, 0])  # fmt: skip


def test_loss_ratios_of_diverged_runs_are_capped():
    nan = np.nan
    found = leaderboard.loss_ratios([2, 0, 1e9, nan, 1, nan, 0], [1, 1, 1, 1, nan, nan, 0])
    np.testing.assert_allclose(found, [2, 0.1, 10, 10, 0.1, 1, 1])


def _decay(rate, n):
    return np.exp(-rate * np.arange(n))


def test_smoothing_covers_the_same_share_of_a_run():
    curve = np.array([4.0, 2.0, 1.0])
    np.testing.assert_allclose(leaderboard.smooth(curve, 200)[1:], [3.9, 0.95 * 3.9 + 0.05])
    decay = 0.95**4
    np.testing.assert_allclose(leaderboard.smooth(curve, 50)[1], decay * 4 + (1 - decay) * 2)


def test_envelope_is_the_running_minimum_of_the_best_rate():
    up = np.array([[4.0, 1.0, 9.0, 9.0]])
    down = np.array([[4.0, 3.0, 2.0, np.nan], [4.0, 3.0, 2.0, 1.0]])
    found = leaderboard.envelope({0.1: up, 0.2: down}, 10**9)  # so many points: the decay is 1
    np.testing.assert_allclose(found, [4, 4, 4, 4])
    found = leaderboard.envelope({0.1: up, 0.2: down}, 1)  # and here it is 3.5e-5
    np.testing.assert_allclose(found, [4, 1, 1, 1], rtol=1e-3)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7, 3.0])
def test_a_rule_that_is_so_many_times_as_fast_has_that_speed_up(factor):
    points = 50
    reference = leaderboard.envelope({0.1: _decay(0.02, 4 * points + 1)[None]}, points)
    # A curve that, smoothed, ends where the reference is after factor × points.
    at = factor * points
    end = np.interp(at, np.arange(len(reference)), reference)
    curve = np.full((1, points + 1), end)
    found = leaderboard.speed_ups(curve, reference, points)
    np.testing.assert_allclose(found.values, factor, rtol=1e-6)
    assert found.capped == [""]


def test_a_rule_is_as_fast_as_itself():
    curves = {0.1: _decay(0.02, 201)[None], 1.0: _decay(0.001, 201)[None]}
    reference = leaderboard.envelope(curves, 50)
    found = leaderboard.speed_ups(curves[0.1][:, :51], reference, 50)
    np.testing.assert_allclose(found.values, 1)


def test_speed_ups_beyond_the_reference_are_capped_and_marked():
    reference = leaderboard.envelope({0.1: _decay(0.01, 201)[None]}, 50)
    ends = [reference[-1] / 2, reference[1], np.nan, 2.0]
    found = leaderboard.speed_ups([np.full(51, end) for end in ends], reference, 50)
    np.testing.assert_allclose(found.values, [4, 0.25, 0.25, 0.25])
    assert found.capped == ["high", "low", "low", "low"]


def test_a_training_loss_near_zero_is_saturated():
    assert leaderboard.saturated(np.array([1.0, 1e-4]), 1)
    assert not leaderboard.saturated(np.array([1.0, 1e-2, 1e-4]), 1)


def test_bad_scores_are_refused():
    for scores in ([], [[]], [[np.nan]], [[np.inf, 1.0]]):
        with pytest.raises(ValueError):
            leaderboard.iqm(scores)
    with pytest.raises(ValueError, match="2 workloads and b has 1"):
        leaderboard.probability_of_improvement([[1.0], [2.0]], [[1.0]])
    with pytest.raises(ValueError, match="same seeds"):
        leaderboard.loss_ratios([1.0], [1.0, 2.0])
