import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import evaluation
from learned_opt.studies import tuning
from learned_opt.tasks import Quadratic
from learned_opt.update_rules import adam, lstm, sgd

KEY = jax.random.key(5)
TASK = Quadratic(num_dims=4)
SGD = sgd()
SETTINGS = dict(num_steps=30, num_seeds=4, per_decade=4, batch_size=20)  # one program for all


def test_log_grid():
    grid = tuning.log_grid(1e-3, 1.0, per_decade=4)
    assert len(grid) == 13
    np.testing.assert_allclose(grid[1:] / grid[:-1], 10**0.25)
    np.testing.assert_allclose(grid[[0, 4, 8, 12]], [1e-3, 1e-2, 1e-1, 1])
    assert tuning.log_grid(0.02, 0.02, per_decade=8).shape == (1,)


def test_scores_are_mean_final_losses():
    tuned = tuning.tune(SGD, TASK, KEY, low=0.01, high=0.1, **SETTINGS)
    key = jax.random.fold_in(KEY, tuning._TUNING)
    for value, score in zip(tuned.grid, tuned.scores, strict=True):
        theta = {"learning_rate": jnp.float32(value)}
        result = evaluation.evaluate(SGD, theta, TASK, key, num_seeds=4, num_steps=30)
        assert score == pytest.approx(result.losses[:, 30].mean(), rel=1e-5)
    assert tuned.value == tuned.grid[np.argmin(tuned.scores)]
    assert tuned.score == tuned.scores.min()
    assert tuned.theta == {"learning_rate": jnp.float32(tuned.value)}


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_batches_change_nothing(batch_size):
    expected = tuning.tune(SGD, TASK, KEY, low=0.01, high=0.1, **SETTINGS)
    settings = SETTINGS | dict(batch_size=batch_size)
    tuned = tuning.tune(SGD, TASK, KEY, low=0.01, high=0.1, **settings)
    np.testing.assert_allclose(tuned.scores, expected.scores, rtol=1e-4)


def test_runs_spread_over_devices():
    mesh = jax.make_mesh((3,), ("runs",), devices=jax.devices()[:3])
    expected = tuning.tune(SGD, TASK, KEY, low=0.01, high=0.1, **SETTINGS)
    spread = tuning.tune(SGD, TASK, KEY, low=0.01, high=0.1, **SETTINGS, mesh=mesh)
    np.testing.assert_allclose(spread.scores, expected.scores, rtol=1e-4)


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-4), (1.0, 10.0)])
def test_grid_grows_until_the_best_is_inside(low, high):
    tuned = tuning.tune(SGD, TASK, KEY, low=low, high=high, **SETTINGS, max_extensions=5)
    assert tuned.on_edge is None
    assert tuned.value == pytest.approx(0.13, rel=0.5)
    np.testing.assert_allclose(tuned.grid[1:] / tuned.grid[:-1], 10**0.25)
    assert tuned.grid[0] <= low * 1.01 and tuned.grid[-1] >= high * 0.99
    assert len(tuned.scores) == len(tuned.grid)
    inside = tuning.tune(SGD, TASK, KEY, low=0.01, high=1.0, **SETTINGS)
    assert (tuned.value, tuned.score) == pytest.approx((inside.value, inside.score))


def test_the_edge_is_reported_when_the_grid_may_not_grow():
    low = tuning.tune(SGD, TASK, KEY, low=0.5, high=5.0, **SETTINGS, max_extensions=0)
    high = tuning.tune(SGD, TASK, KEY, low=1e-5, high=1e-4, **SETTINGS, max_extensions=0)
    assert (low.on_edge, high.on_edge) == ("low", "high")


def test_diverged_values_score_infinity():
    tuned = tuning.tune(SGD, TASK, KEY, low=0.01, high=1e4, **SETTINGS)
    assert np.isinf(tuned.scores[-1])
    assert np.isfinite(tuned.score)
    hopeless = tuning.tune(SGD, TASK, KEY, low=1e4, high=1e5, **SETTINGS, max_extensions=0)
    assert np.isinf(hopeless.score) and hopeless.on_edge == "low"


def test_window_averages_the_last_minibatch_losses():
    tuned = tuning.tune(
        SGD, TASK, KEY, num_steps=6, num_seeds=2, low=0.02, high=0.02, per_decade=1,
        split=None, window=3, max_extensions=0,
    )  # fmt: skip
    key = jax.random.fold_in(KEY, tuning._TUNING)
    result = evaluation.evaluate(SGD, tuned.theta, TASK, key, num_seeds=2, num_steps=6)
    assert tuned.score == pytest.approx(result.losses[:, -3:].mean(), rel=0.05)


def test_another_hyperparameter():
    theta = adam(0.1).init(KEY)
    tuned = tuning.tune(
        adam(), TASK, KEY, num_steps=5, num_seeds=2, low=1e-4, high=1.0, per_decade=1,
        name="eps", theta=theta, max_extensions=0,
    )  # fmt: skip
    assert tuned.name == "eps"
    assert tuned.theta == {**theta, "eps": jnp.float32(tuned.value)}
    assert len(set(tuned.scores)) == 5


def test_progress_counts_runs():
    seen = []
    tuning.tune(
        SGD, TASK, KEY, num_steps=2, num_seeds=4, low=1.0, high=10.0, per_decade=1,
        max_extensions=1, batch_size=4, progress=lambda *counts: seen.append(counts),
    )  # fmt: skip
    assert seen == [(4, 8), (8, 8), (12, 12)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(split="test"), "test split is not for tuning"),
        (dict(name="decay"), "no scalar 'decay'"),
        (dict(num_steps=0), "num_steps must be at least 1"),
        (dict(num_seeds=0), "num_seeds must be at least 1"),
        (dict(window=9), "window"),
        (dict(low=0.0), "0 < low <= high"),
        (dict(low=2.0), "0 < low <= high"),
        (dict(per_decade=0), "per_decade must be at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    defaults = dict(num_steps=3, num_seeds=1, low=0.1, high=1.0)
    with pytest.raises(ValueError, match=message):
        tuning.tune(SGD, TASK, KEY, **(defaults | settings))


def test_learned_rules_have_nothing_to_tune():
    with pytest.raises(ValueError, match="no scalar 'learning_rate'"):
        tuning.tune(lstm((2,)), TASK, KEY, num_steps=3, num_seeds=1, low=0.1, high=1.0)
