"""Ways against `evaluation.trajectory`, and memories against recurrences in NumPy."""

import jax
import numpy as np
import pytest

from learned_opt import evaluation, update_rules
from learned_opt.pretrained import load_pretrained
from learned_opt.studies.trajectories import ways
from learned_opt.tasks import Surface

KEY = jax.random.key(0)
SURFACE = Surface("ravine")
STARTS = np.asarray([SURFACE.start, (1.0, -2.0)], np.float32)


@pytest.mark.parametrize("name", ["adam", "general", "lstm_quadratic"])
def test_ways_are_those_that_evaluation_records(name):
    if name == "adam":
        rule = update_rules.adam()
        theta = rule.init(KEY)
    else:
        rule, theta = load_pretrained(name)
    rate = 1.0 if name == "lstm_quadratic" else 0.03  # 0.03 is the default of general
    found = ways(rule, theta, SURFACE, STARTS, [rate / 2, rate], num_steps=20)
    if name == "adam":
        theta = theta | {"learning_rate": np.float32(rate)}
    points, losses = evaluation.trajectory(rule, theta, SURFACE, KEY, num_steps=20)
    np.testing.assert_allclose(found.points[1, 0], points, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.losses[1, 0], losses, rtol=1e-3, atol=1e-5)
    assert np.abs(found.points[0, 0, -1] - found.points[1, 0, -1]).max() > 0.01  # another rate


def test_what_rules_remember():
    def gradient(p):  # of (x + y)² / 40 + 5 (x − y)² / 2
        return 0.05 * p.sum() + 5 * (p[0] - p[1]) * np.array([1, -1])

    rules = {"adam": update_rules.adam(0.1), "momentum": update_rules.momentum(0.01)}
    for name, rule in rules.items():
        rate = 0.1 if name == "adam" else 0.01
        found = ways(rule, rule.init(KEY), SURFACE, STARTS, [rate], num_steps=15)
        m = v = np.zeros(2)
        for t in range(16):
            np.testing.assert_allclose(found.memory["velocity"][0, 1, t], m, rtol=2e-3, atol=1e-4)
            g = gradient(found.points[0, 1, t].astype(np.float64))
            if name == "adam":
                np.testing.assert_allclose(
                    found.memory["second moment"][0, 1, t], v, rtol=2e-3, atol=1e-6
                )
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            else:
                m = 0.9 * m + g
        assert set(found.memory) == (
            {"velocity", "second moment"} if name == "adam" else {"velocity"}
        )


def test_other_memories():
    sgd = update_rules.sgd()
    assert ways(sgd, sgd.init(KEY), SURFACE, STARTS, [0.1], num_steps=3).memory == {}
    rule, theta = load_pretrained("lstm_quadratic")
    found = ways(rule, theta, SURFACE, STARTS, [1.0], num_steps=3).memory
    assert set(found) == {"hidden", "cell"} and found["cell"].shape == (1, 2, 4, 2)
    assert not found["cell"][:, :, 0].any() and found["cell"][:, :, 1:].all()
    rule, theta = load_pretrained("general")
    assert set(ways(rule, theta, SURFACE, STARTS, [0.1], num_steps=3).memory) == {
        "velocity",
        "second moment",
    }


@pytest.mark.parametrize(
    ("starts", "rates", "steps", "message"),
    [
        (np.ones(2), [0.1], 3, r"the shape \[starts, 2\]"),
        (STARTS, [0.0], 3, "rates must be positive"),
        (STARTS, [], 3, "rates must be positive"),
        (STARTS, [0.1], 0, "num_steps must be positive"),
    ],
)
def test_bad_input_is_refused(starts, rates, steps, message):
    rule = update_rules.sgd()
    with pytest.raises(ValueError, match=message):
        ways(rule, rule.init(KEY), SURFACE, starts, rates, num_steps=steps)
