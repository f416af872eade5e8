"""Responses against closed forms and recurrences in float64."""

import jax
import numpy as np
import pytest

from learned_opt import update_rules
from learned_opt.studies.responses import (
    SIGNALS,
    along,
    noise_response,
    respond,
    signal,
    signal_responses,
)

KEY = jax.random.key(0)
T = 30
DECADES = np.logspace(-6, 0, 7)


def respond_to(rule, name, *, at=0, sizes=(1.0,), direction=1.0):
    s = signal(name, T, at=at)[None]
    return signal_responses(rule, rule.init(KEY), s, sizes, direction)[0]


def test_sgd_answers_every_signal_with_itself():
    rule = update_rules.sgd(0.3)
    signals = np.stack([signal(name, T, at=7) for name in SIGNALS])
    found = signal_responses(rule, rule.init(KEY), signals, DECADES)
    np.testing.assert_allclose(found, -0.3 * signals[:, None] * DECADES[:, None], rtol=1e-5)


def test_momentum():
    t = np.arange(T)
    rule = update_rules.momentum(0.1, decay=0.8)
    np.testing.assert_allclose(respond_to(rule, "impulse")[0], -0.1 * 0.8**t, rtol=1e-5)
    np.testing.assert_allclose(
        respond_to(rule, "constant")[0], -0.1 * (1 - 0.8 ** (t + 1)) / 0.2, rtol=1e-5
    )
    nesterov = -0.1 * np.where(t == 0, 1.8, 0.8 ** (t + 1))
    rule = update_rules.nesterov(0.1, decay=0.8)
    np.testing.assert_allclose(respond_to(rule, "impulse")[0], nesterov, rtol=1e-5)


def test_adam_answers_a_constant_gradient_of_any_size_with_its_learning_rate():
    found = respond_to(update_rules.adam(0.01, eps=1e-12), "constant", sizes=DECADES)
    np.testing.assert_allclose(found, -0.01, rtol=1e-3)


def test_adam_overshoots_when_a_gradient_begins_after_silence():
    at, rule = 10, update_rules.adam(0.01, eps=1e-12)
    k, t = np.arange(1, T - at + 1), np.arange(at, T) + 1
    mean = (1 - 0.9**k) / (1 - 0.9**t)
    square = (1 - 0.999**k) / (1 - 0.999**t)
    found = respond_to(rule, "step", at=at)[0]
    np.testing.assert_allclose(found[at:], -0.01 * mean / np.sqrt(square), rtol=1e-3)
    assert found.min() < -0.011 and found[:at].any() == 0  # further than its learning rate


def test_adam_after_a_flip_and_under_alternating_signs():
    at, rule = 10, update_rules.adam(0.01, eps=1e-12)
    for name in ("flip", "alternating"):
        s, m, expected = signal(name, T, at=at).astype(np.float64), 0.0, []
        for t in range(T):  # squares are 1, so that v̂ is 1 as well
            m = 0.9 * m + 0.1 * s[t]
            expected.append(-0.01 * m / (1 - 0.9 ** (t + 1)))
        np.testing.assert_allclose(respond_to(rule, name, at=at)[0], expected, rtol=1e-3, atol=1e-7)


def test_rmsprop_and_its_epsilon():
    t = np.arange(T)
    rule = update_rules.rmsprop(0.01, decay=0.9, eps=1e-8)
    a = DECADES[:, None]
    expected = -0.01 * a / np.sqrt(a**2 * (1 - 0.9 ** (t + 1)) + 1e-8)
    np.testing.assert_allclose(respond_to(rule, "constant", sizes=DECADES), expected, rtol=1e-4)


def test_noise():
    ratios = [0.0, 1.0, 4.0]
    sgd, adam = update_rules.sgd(0.1), update_rules.adam(0.01)
    kw = dict(size=0.01, num_steps=400, runs=32)
    mean, error = noise_response(sgd, sgd.init(KEY), ratios, **kw)
    np.testing.assert_allclose(mean, -1e-3, rtol=1e-4)  # linear: draws of both signs cancel
    mean, error = noise_response(adam, adam.init(KEY), ratios, **kw)
    expected = -0.01 / np.sqrt(1 + np.square(ratios))
    np.testing.assert_allclose(mean, expected, rtol=0.01)
    assert error[0] < 1e-7 and (0 < error[1:]).all() and (error < 1e-4).all()


def test_a_matrix_is_orthogonalized_and_a_vector_is_not():
    # Muon moves a gradient's singular directions alike: along D = U S Vᵀ by Σ s / Σ s².
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    d = (u * [2.0, 1.0, 0.5, 0.25]) @ v.T
    rule = update_rules.muon(1.0, consistent_rms=0.5)  # 0.5 √max(4, 4) = 1
    updates = respond(rule, rule.init(KEY), np.broadcast_to(0.01 * d, (1, 5, 4, 4)))
    values = np.linalg.svd(updates[0, -1], compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.3  # Newton–Schulz is rough
    ratio = along(updates, d)[0, -1] / (-np.sum([2, 1, 0.5, 0.25]) / np.sum(d * d))
    assert 0.7 < ratio < 1.2
    vector = respond_to(rule, "constant", sizes=[0.01], direction=np.ones(4))
    np.testing.assert_allclose(vector, -1.0, rtol=1e-3)  # Adam's


def test_parameters_are_held_at_zero_so_that_weight_decay_has_no_part():
    adam, adamw = update_rules.adam(), update_rules.adamw(weight_decay=0.5)
    np.testing.assert_array_equal(respond_to(adam, "step", at=5), respond_to(adamw, "step", at=5))


def test_each_run_has_a_state_of_its_own():
    rule = update_rules.adam()
    both = np.stack([signal("constant", T), signal("flip", T, at=5)])
    alone = respond(rule, rule.init(KEY), both[1:])
    np.testing.assert_allclose(respond(rule, rule.init(KEY), both)[1:], alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, t: signal("ramp", 5), "unknown signal 'ramp'; known: constant"),
        (lambda r, t: signal("step", 5, at=5), "at must be a step from 0 to 4"),
        (lambda r, t: signal("step", 0), "num_steps"),
        (lambda r, t: signal("noise", 5, noise=-1), "noise must be a finite number"),
        (lambda r, t: respond(r, t, np.ones(3)), r"the shape \[runs, steps"),
        (lambda r, t: signal_responses(r, t, np.ones((1, 3)), [0.0]), "must be positive"),
        (lambda r, t: signal_responses(r, t, np.ones((1, 3)), [1.0], [0.0]), "not be zero"),
        (lambda r, t: noise_response(r, t, [-1.0], size=1.0), "ratios must be finite"),
        (lambda r, t: noise_response(r, t, [1.0], size=1.0, runs=1), "at least 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    rule = update_rules.sgd()
    with pytest.raises(ValueError, match=message):
        call(rule, rule.init(KEY))
