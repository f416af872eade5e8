"""Bias, variance and noise against closed forms."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from learned_opt.studies.bias_variance import decompose, least_squares_parts, legendre_features

RNG = np.random.default_rng(0)


def test_a_shrunken_mean_has_the_parts_it_has_on_paper():
    # ŷ = a · mean of n numbers N(m, s²): bias² = ((1 − a) m)², variance = a² s² / n.
    a, m, s, n = 0.7, 2.0, 1.5, 5
    means = a * RNG.normal(m, s, (20_000, n)).mean(axis=1)
    found = decompose(means[:, None], [m], s)
    assert found.bias2 == pytest.approx(((1 - a) * m) ** 2, rel=0.05)
    assert found.variance == pytest.approx(a**2 * s**2 / n, rel=0.05)
    assert found.noise == s**2
    assert found.error == pytest.approx(((1 - a) * m) ** 2 + a**2 * s**2 / n + s**2, rel=0.05)


def test_linear_regression_has_the_parts_of_its_closed_form_and_they_add_up():
    x, places = RNG.normal(size=(30, 4)), RNG.normal(size=(50, 4))
    weights, std = RNG.normal(size=4), 0.5
    targets = x @ weights + x[:, 0] ** 2 + std * RNG.normal(size=(4000, 30))
    truth = places @ weights + places[:, 0] ** 2
    model = LinearRegression().fit(x, targets.T)
    found = decompose(model.predict(places).T, truth, std)
    ones = np.ones((30, 1)), np.ones((50, 1))
    bias2, variance = least_squares_parts(
        np.hstack([ones[0], x]), x @ weights + x[:, 0] ** 2,
        np.hstack([ones[1], places]), truth, std,
    )  # fmt: skip
    assert found.bias2 == pytest.approx(bias2, rel=0.02)
    assert found.variance == pytest.approx(variance, rel=0.05)
    assert found.adds_up and abs(found.gap) < 0.02


def test_the_sum_fails_where_the_noise_is_not_what_it_is_said_to_be():
    predictions = RNG.normal(size=(400, 20))
    found = decompose(predictions, np.zeros(20), 1.0)
    assert found.adds_up
    wrong = found._replace(noise=1.2)
    assert not wrong.adds_up


def test_the_standard_error_is_that_of_repetitions():
    gaps, errors = [], []
    for seed in range(300):
        draws = np.random.default_rng(seed).normal(size=(40, 10)) + 0.5
        found = decompose(draws, np.zeros(10), 1.0, seed=10_000 + seed)
        gaps.append(found.gap)
        errors.append(found.standard_error)
    assert np.std(gaps) == pytest.approx(np.mean(errors), rel=0.15)
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / 300**0.5


def test_more_features_than_examples_gives_the_shortest_solution():
    x, places = np.linspace(-1, 1, 6), np.linspace(-0.9, 0.9, 7)
    design, at = legendre_features(x, 9), legendre_features(places, 9)
    noise = RNG.normal(size=(20_000, 6))
    coefficients = np.linalg.lstsq(design, noise.T, rcond=None)[0]
    bias2, variance = least_squares_parts(design, np.zeros(6), at, np.zeros(7), 1.0)
    assert bias2 == 0
    assert variance == pytest.approx((at @ coefficients).var(axis=1).mean(), rel=0.05)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 4 training sets"):
        decompose(np.zeros((3, 5)), np.zeros(5), 1.0)
    with pytest.raises(ValueError, match=r"got \[8, 5\] and \[4\]"):
        decompose(np.zeros((8, 5)), np.zeros(4), 1.0)
    with pytest.raises(ValueError, match="noise_std must be finite and not negative, got -1"):
        decompose(np.zeros((8, 5)), np.zeros(5), -1.0)
    for degree in (-1, 1.5):
        with pytest.raises(ValueError, match="degree must be a whole number of at least 0"):
            legendre_features([0.0], degree)
    with pytest.raises(ValueError, match="from -1 to 1"):
        legendre_features([1.5], 2)
