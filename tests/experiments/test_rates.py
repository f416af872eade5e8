"""Rules with their rate open, against optax."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.common.build import load_rule
from experiments.common.rates import open_rate, stacked_rates

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
GRADS = {"w": jnp.arange(6.0).reshape(2, 3) - 2, "b": jnp.array([1.0, -1.0, 2.0])}


def update(tx):
    return tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("sgd", optax.sgd(0.3)), ("adam", optax.adam(0.3)), ("adamw", optax.adamw(0.3))],
)
def test_rate_and_decay_against_optax(name, wanted):
    theta = {"rate": 0.3, "weight_decay": 0.5}
    found, plain = update(open_rate(name).transform(theta)), update(wanted)
    if name == "adamw":  # its own decay is left out
        plain = update(optax.adam(0.3))
    np.testing.assert_allclose(found["b"], plain["b"], rtol=1e-5)
    np.testing.assert_allclose(found["w"], plain["w"] - 0.3 * 0.5, rtol=1e-5, atol=1e-6)


def test_learned_rules():
    rule, theta = load_rule("general")
    found = update(open_rate("general").transform({"rate": 0.2, "weight_decay": 0.0}))
    np.testing.assert_allclose(
        found["w"], update(rule.transform(theta, learning_rate=0.2))["w"], rtol=1e-5
    )
    rule, theta = load_rule("lstm_mnist")
    found = update(open_rate("lstm_mnist").transform({"rate": 0.2, "weight_decay": 0.0}))
    np.testing.assert_allclose(found["w"], 0.2 * update(rule.transform(theta))["w"], rtol=1e-5)


def test_all_pairs():
    found = stacked_rates((1.0, 2.0), (0.0, 0.5))
    assert found["rate"].tolist() == [1, 2, 1, 2]
    assert found["weight_decay"].tolist() == [0, 0, 0.5, 0.5]
