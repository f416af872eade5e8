"""Evolution strategies against closed forms, quadrature, and truncated backpropagation."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt.meta_training import NRES, PES, FullES, TruncatedBPTT, TruncatedES, meta_step
from learned_opt.meta_training.trainer import init_state
from learned_opt.tasks import Quadratic
from learned_opt.types import UpdateRule
from learned_opt.update_rules import learned_muon
from learned_opt.update_rules.hand_designed import from_optax

KEY = jax.random.key(0)
CURVATURES = np.array([1.0, 0.05])
SIGMA, HORIZON = 0.1, 40


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bowl:
    """½ Σ c w², always from w = 1: the loss of every step has a closed form."""

    def sample(self, key):
        return ()

    def init(self, key, instance):
        return jnp.ones(2)

    def loss(self, params, instance, key, split="train"):
        return jnp.sum(jnp.array(CURVATURES, jnp.float32) * params**2) / 2

    def evaluate(self, params, instance, split):
        return {"loss": self.loss(params, instance, None)}


def _descent():
    """Gradient descent with the learning rate e^z: θ = {'z'}."""
    rule = from_optax(
        "descent", lambda z: optax.sgd(jnp.exp(z)), coordinatewise=False, z=math.log(0.05)
    )
    return rule


def _mean_loss(z, steps):
    """Mean of f(w_t) over t in `steps`, for w_t = (1 − c e^z)^t."""
    shrink = 1 - CURVATURES * np.exp(z)
    return np.mean([np.sum(CURVATURES * shrink ** (2 * t)) / 2 for t in steps])


def _smoothed_slope(z, steps, sigma=SIGMA):
    """d/dz of E[L(z + ε)], by Gauss–Hermite quadrature: E[ε L(z + ε)] / σ²."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    values = [sigma * x * _mean_loss(z + sigma * x, steps) for x in nodes]
    return np.dot(weights, values) / math.sqrt(2 * math.pi) / sigma**2


def _samples(estimator, theta, calls):
    """Meta-gradients of many calls."""

    def step(state, n):
        grads, state, _ = estimator.estimate(jax.random.fold_in(KEY, n), theta, state)
        return state, grads["z"]

    state = estimator.init(jax.random.key(1), theta)
    return np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(calls))[1])(state))


def _make(kind, window=10, **settings):
    common = dict(task=Bowl(), rule=_descent(), num_tasks=512, sigma=SIGMA)
    return kind(**common | dict(unroll_length=window, horizon=HORIZON) | settings)


@pytest.mark.parametrize(
    ("kind", "window"), [(FullES, 40), (PES, 10), (NRES, 10), (NRES, 20)], ids=str
)
def test_unbiased_for_the_smoothed_loss_of_whole_runs(kind, window):
    theta = {"z": jnp.float32(math.log(0.05))}
    calls = 400
    grads = _samples(_make(kind, window), theta, calls)[calls // 4 :]
    expected = _smoothed_slope(math.log(0.05), range(HORIZON))
    error = grads.std() / math.sqrt(len(grads) / 4)  # windows of an episode go together
    assert error < abs(expected) / 20
    assert abs(grads.mean() - expected) < 4 * error


def test_truncated_estimates_are_short_sighted_alike():
    # Each window starts from w(z) held fixed: the slope of what a window sees of its own steps.
    z = math.log(0.05)
    theta = {"z": jnp.float32(z)}
    shrink = 1 - CURVATURES * np.exp(z)
    slope = 0.0
    for start in range(0, HORIZON, 10):
        w = shrink**start

        def loss(z, w=w):
            s = 1 - CURVATURES * np.exp(z)
            return np.mean([np.sum(CURVATURES * (w * s**t) ** 2) / 2 for t in range(10)])

        slope += (loss(z + 1e-4) - loss(z - 1e-4)) / 2e-4 / 4
    grads = _samples(_make(TruncatedES, sigma=0.02), theta, 400)
    error = grads.std() / math.sqrt(len(grads) / 4)
    assert abs(grads.mean() - slope) < 4 * error + 0.01 * abs(slope)
    full = _smoothed_slope(z, range(HORIZON), sigma=0.02)
    assert abs(slope) < 0.6 * abs(full)
    bptt = TruncatedBPTT(
        task=Bowl(), rule=_descent(), num_tasks=8, unroll_length=10, horizon=40, second_order=True
    )
    truncated = _samples(bptt, theta, 8)[4:].mean()  # sums of losses after each of 10 updates
    assert abs(truncated / 10) < 0.75 * abs(full)


def test_the_variance_of_noise_reuse_is_the_lower():
    theta = {"z": jnp.float32(math.log(0.05))}
    nres, pes = (_samples(_make(kind, 5), theta, 200)[50:].var() for kind in (NRES, PES))
    assert nres < pes


def test_the_final_objective_adds_up_to_the_last_window():
    estimator = _make(NRES, num_tasks=1, objective="final")
    theta = {"z": jnp.float32(math.log(0.05))}
    state = estimator.init(KEY, theta)
    over = jnp.full_like(state.inner_step, HORIZON)
    grads, state, _ = estimator.estimate(KEY, theta, state._replace(inner_step=over))
    epsilon = float(state.noise["z"][0])
    total = float(grads["z"])
    for n in range(3):
        grads, state, _ = estimator.estimate(jax.random.fold_in(KEY, n), theta, state)
        total += float(grads["z"])
    assert state.inner_step.item() == HORIZON
    z = math.log(0.05)
    last = range(HORIZON - 10, HORIZON)
    difference = _mean_loss(z + epsilon, last) - _mean_loss(z - epsilon, last)
    expected = epsilon * difference / (2 * SIGMA**2)  # the mean over the four windows
    np.testing.assert_allclose(total / 4, expected, rtol=1e-4)


def test_weights_and_relative_scores_by_hand():
    estimator = _make(NRES, num_tasks=1, weight_power=2.0, scoring="relative")
    theta = {"z": jnp.float32(math.log(0.05))}
    state = estimator.init(KEY, theta)
    state = state._replace(inner_step=jnp.full_like(state.inner_step, HORIZON))
    grads, state, _ = estimator.estimate(KEY, theta, state)
    epsilon, z = float(state.noise["z"][0]), math.log(0.05)
    plus, minus = (_mean_loss(z + s * epsilon, range(10)) for s in (1, -1))
    relative = (plus - minus) / ((plus + minus) / 2 + 1e-3)
    expected = epsilon * 3 * (10 / 40) ** 2 * relative / (2 * SIGMA**2)
    np.testing.assert_allclose(float(grads["z"]), expected, rtol=1e-4)


def test_horizons_are_log_uniform_and_problems_are_replaced_at_the_border_of_a_window():
    estimator = _make(NRES, num_tasks=4096, horizon=(20, 320))
    state = estimator.init(KEY, {"z": jnp.float32(0)})
    horizons = np.asarray(state.episode.horizon)
    assert horizons.min() >= 20
    assert horizons.max() <= 320
    middle = np.mean(horizons <= 80)  # the geometric mean of the bounds
    assert abs(middle - 0.5) < 0.04
    steps = np.asarray(state.inner_step)
    assert (steps % 10 == 0).all()
    assert (steps < horizons).all()
    assert len(np.unique(steps)) > 20
    _, after, _ = estimator.estimate(jax.random.key(1), {"z": jnp.float32(-3)}, state)
    _, after, _ = estimator.estimate(jax.random.key(2), {"z": jnp.float32(-3)}, after)
    changed = np.asarray(after.episode.horizon) != horizons
    windows = -(-horizons // 10)
    ended = steps // 10 + 1 >= windows  # after the first call it had reached its horizon
    assert (changed <= ended).all()
    assert np.mean(changed[ended]) > 0.9


def test_an_arm_that_diverges_counts_as_the_worst_and_is_replaced():
    # A learning rate e^z near the edge of stability of c = 1e6: one arm leaves float32's range.
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Cliff(Bowl):
        def loss(self, params, instance, key, split="train"):
            return jnp.sum(params**2) / 2

    theta = {"z": jnp.float32(math.log(2.0))}  # w ← (1 − e^z) w: beyond 2 it grows
    settings = dict(task=Cliff(), num_tasks=64, unroll_length=200, horizon=200, sigma=2.0)
    relative = _make(FullES, 200, scoring="relative", **settings)
    grads, state, metrics = relative.estimate(KEY, theta, relative.init(KEY, theta))
    assert 0 < int(metrics["num_diverged"]) < 64
    assert float(grads["z"]) > 0  # down the meta-gradient lies the arm that stays
    assert math.isfinite(float(grads["z"]))
    grads, _, _ = relative.estimate(KEY, theta, state)
    assert math.isfinite(float(grads["z"]))
    raw = _make(FullES, 200, **settings)
    grads, _, metrics = raw.estimate(KEY, theta, raw.init(KEY, theta))
    assert math.isfinite(float(grads["z"]))
    assert 0 < int(metrics["num_diverged"]) < 64


@pytest.mark.parametrize("kind", [NRES, PES, TruncatedES])
def test_over_eight_devices_as_on_one(kind):
    results = []
    for mesh in (None, jax.make_mesh((8,), ("tasks",))):
        estimator = _make(kind, num_tasks=16, mesh=mesh, scoring="relative")
        state = init_state(estimator, optax.adam(1e-2), estimator.rule, KEY).meta
        for _ in range(3):
            state, metrics = meta_step(estimator, optax.adam(1e-2), state)
        sharded = jax.tree.leaves(state.estimator_state)[0].sharding
        assert len(sharded.device_set) == (8 if mesh else 1)
        results.append(jax.device_get((state.theta, metrics)))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_maps_as_it_vmaps_and_judges_by_held_out_minibatches():
    results = []
    for mapping in ("vmap", "map"):
        estimator = NRES(
            task=Quadratic(3),
            rule=learned_muon(),
            num_tasks=4,
            unroll_length=5,
            horizon=(10, 40),
            scoring="relative",
            meta_loss="both",
            learning_rate=(0.01, 0.1),
            constant_rates=0.5,
            mapping=mapping,
        )
        theta = estimator.rule.init(KEY)
        results.append(estimator.estimate(KEY, theta, estimator.init(KEY, theta))[::2])
    chex.assert_trees_all_close(*results, rtol=2e-4, atol=1e-5)


def test_learning_rates_follow_a_half_cosine_of_their_own_horizon():
    seen = UpdateRule(
        lambda key: {"z": jnp.zeros(())},
        lambda theta, learning_rate=0.0: _records(learning_rate),
        knobs=(("learning_rate", 0.0),),
    )
    estimator = _make(NRES, rule=seen, num_tasks=32, horizon=20, learning_rate=(0.1, 1.0))
    state = estimator.init(KEY, {"z": jnp.zeros(())})
    state = state._replace(inner_step=jnp.full_like(state.inner_step, 20))
    _, state, _ = estimator.estimate(KEY, {"z": jnp.zeros(())}, state)
    peak = np.asarray(state.episode.rate)
    assert 0.1 <= peak.min() < peak.max() <= 1.0
    expected = peak[:, None] * (1 + np.cos(np.pi * 9 / 20)) / 2  # after ten steps: that of the last
    np.testing.assert_allclose(np.asarray(state.arms.opt_state[1]), expected + [[0, 0]], rtol=1e-5)


@pytest.mark.parametrize("state", ["count", "momentum"])
def test_a_coordinatewise_rule_has_the_learning_rates_that_are_drawn(state):
    """It had none: its knob was passed over."""

    def transform(theta, learning_rate=0.0):
        decay = 0.5 if state == "momentum" else None
        scale = optax.stateless(lambda updates, params: optax.tree.scale(theta["z"], updates))
        return optax.chain(scale, optax.sgd(learning_rate, momentum=decay))

    def losses(coordinatewise, rates):
        rule = UpdateRule(
            lambda key: {"z": jnp.float32(1.0)},
            transform,
            coordinatewise=coordinatewise,
            knobs=(("learning_rate", 0.0),),
        )
        estimator = _make(NRES, rule=rule, num_tasks=4, horizon=20, learning_rate=rates)
        theta = rule.init(KEY)
        return estimator.estimate(KEY, theta, estimator.init(KEY, theta))[2]["meta_loss"]

    slow, fast = losses(True, (1e-4, 1e-4)), losses(True, (0.5, 0.5))
    assert fast < 0.9 * slow
    np.testing.assert_allclose(fast, losses(False, (0.5, 0.5)), rtol=1e-5)


def _records(learning_rate):
    """A transformation that moves nothing and keeps the learning rate that it was given."""

    def update(updates, state, params=None):
        count, _ = state
        return jax.tree.map(jnp.zeros_like, updates), (count + 1, learning_rate(count))

    init = lambda params: (jnp.zeros((), jnp.int32), jnp.zeros(()))  # noqa: E731
    return optax.with_extra_args_support(optax.GradientTransformation(init, update))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tasks": 0}, "num_tasks must be at least 1"),
        ({"horizon": 5}, "horizon must be at least unroll_length"),
        ({"horizon": (80, 40)}, "increasing pair"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"scoring": "log"}, "unknown scoring 'log': expected raw or relative"),
        ({"objective": "sum"}, "unknown objective"),
        ({"mapping": "pmap"}, "unknown mapping"),
        ({"weight_power": -1.0}, "weight_power must not be negative"),
        ({"constant_rates": 2.0}, r"constant_rates must be in \[0, 1\]"),
        ({"learning_rate": (0.1, 1.0)}, "a knob that this rule does not have"),
        ({"rule": learned_muon(), "learning_rate": (1.0, 0.1)}, "learning_rate must be a range"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _make(NRES, **changes)


def test_the_strategies_are_told_apart_by_jit():
    made = [_make(kind) for kind in (NRES, PES, TruncatedES)]
    assert len({jax.tree.structure(estimator) for estimator in made}) == 3
    with pytest.raises(ValueError, match="noise of PES is 'accumulated': leave it out"):
        _make(PES, noise="episode")


def test_full_es_runs_whole_optimizations():
    with pytest.raises(ValueError, match=r"unroll_length \(10\) must be the horizon \(40\)"):
        _make(FullES)
