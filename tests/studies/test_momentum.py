"""The theory of momentum against the rules themselves, eigenvalues and a numerical optimum."""

import jax
import numpy as np
import optax
import pytest
import scipy.optimize

from learned_opt import update_rules
from learned_opt.studies.momentum import (
    best_settings,
    critical_decay,
    iteration_matrix,
    largest_rate,
    spectral_radius,
)

RULES = ("momentum", "nesterov")


def _loop(rule, rate, decay, curvature, num_steps, start=1.0):
    """θ_0 … by the equations of `update_rules`, one number after another."""
    theta, v, found = start, 0.0, [start]
    for _ in range(num_steps):
        g = curvature * theta
        v = decay * v + g
        theta = theta - rate * (v if rule == "momentum" else decay * v + g)
        found.append(theta)
    return np.array(found)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("curvature", [0.7, -0.3])
def test_the_matrix_takes_the_steps_of_the_rule(name, curvature):
    rule = getattr(update_rules, name)(0.9, decay=0.8)
    tx = rule.transform(rule.init(jax.random.key(0)))
    params, points = np.float32(1.0), [1.0]
    state = tx.init(params)
    for _ in range(20):
        updates, state = tx.update(curvature * params, state, params)
        params = optax.apply_updates(params, updates)
        points.append(float(params))
    np.testing.assert_allclose(_loop(name, 0.9, 0.8, curvature, 20), points, rtol=1e-4, atol=1e-5)
    matrix = iteration_matrix(name, 0.9, 0.8, curvature)
    for t in range(1, 20):
        assert matrix @ [points[t], points[t - 1]] == pytest.approx(
            [points[t + 1], points[t]], rel=1e-4, abs=1e-4
        )


@pytest.mark.parametrize("name", RULES)
def test_the_radius_is_that_of_the_eigenvalues_and_of_a_loop(name):
    for x in (0.01, 0.3, 1.0, 1.9, 2.5, 3.9):
        for decay in (0.0, 0.3, 0.81, 0.99):
            radius = float(spectral_radius(name, x, decay, 1.0))
            eigenvalues = np.linalg.eigvals(iteration_matrix(name, x, decay, 1.0))
            assert radius == pytest.approx(np.abs(eigenvalues).max(), abs=1e-6)
            points = _loop(name, x, decay, 1.0, 400)
            ends = [np.hypot(points[t], points[t - 1]) for t in (100, 400)]
            if ends[1] > 1e-250:
                measured = (ends[1] / ends[0]) ** (1 / 300)
                assert radius == pytest.approx(measured, rel=0.02), (x, decay)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_the_largest_rate_is_where_a_loop_begins_to_diverge(name, decay):
    edge = largest_rate(name, decay, 2.0)
    below, above = (np.abs(_loop(name, f * edge, decay, 2.0, 3000)[-1]) for f in (0.99, 1.01))
    assert below < 1e-2 and above > 1e2


def test_more_than_critical_momentum_overshoots_and_less_does_not():
    for rate in (0.04, 0.25):
        decay = float(critical_decay(rate, 1.0))
        assert _loop("momentum", rate, 0.98 * decay, 1.0, 300).min() > -1e-12
        assert _loop("momentum", rate, min(1.1 * decay, 0.99), 1.0, 300).min() < -1e-6
        radii = spectral_radius("momentum", rate, np.array([0.9, 1.0, 1.1]) * decay, 1.0)
        assert radii.argmin() == 1 and radii[1] == pytest.approx(1 - rate**0.5)


@pytest.mark.parametrize("name", ["sgd", *RULES])
def test_no_other_settings_are_better(name):
    low, high = 0.1, 10.0
    curvatures = np.array([low, high])

    def worst(settings):
        rate, decay = settings[0], settings[1] if name != "sgd" else 0.0
        kind = "momentum" if name == "sgd" else name
        return spectral_radius(kind, rate, decay, curvatures).max() + 10 * max(0, -decay)

    best = best_settings(name, low, high)
    assert worst([best.rate, best.decay]) == pytest.approx(best.radius, rel=1e-5)
    box = [(1e-3, 1.0), (0, 0.999)]
    found = scipy.optimize.differential_evolution(worst, box, seed=0, tol=1e-10, maxiter=300)
    assert found.fun == pytest.approx(best.radius, abs=2e-3) and found.fun > best.radius - 1e-6


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unknown rule 'adam'; known: momentum, nesterov"):
        spectral_radius("adam", 1.0, 0.9, 1.0)
    with pytest.raises(ValueError, match="unknown rule 'adam'; known: sgd, momentum, nesterov"):
        best_settings("adam", 1.0, 2.0)
    with pytest.raises(ValueError, match="0 < low <= high, got 2.0 and 1.0"):
        best_settings("sgd", 2.0, 1.0)
    with pytest.raises(ValueError, match="a decay in .0, 1. and a positive curvature"):
        largest_rate("momentum", 1.0, 1.0)
