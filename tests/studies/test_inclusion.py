"""Inclusion between update rules, in float64, against the rules' definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.studies import inclusion
from learned_opt.studies.inclusion import INCLUSIONS
from learned_opt.tasks import Classifier, Quadratic
from learned_opt.update_rules import hierarchy

KEY = jax.random.key(5)
by_name = pytest.mark.parametrize("arrow", INCLUSIONS, ids=lambda arrow: arrow.name)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def make_theta(arrow, decays, learning_rate=0.01):
    theta = {"learning_rate": learning_rate, "decay_steps": 150.0, "decay_factor": 1.0}
    if decays:
        theta["decay_factor"] = 0.01
    if not arrow.name.startswith("sgd"):
        theta["one_minus_momentum"] = 0.1
    return {name: jnp.asarray(value, jnp.float64) for name, value in theta.items()}


def network():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 5))
    labels = (images[:, 0] > 0).astype(int) + (images[:, 1] > 0)
    return Classifier.from_arrays(
        {"train": (images, labels)}, num_classes=3, hidden_sizes=(6,), batch_size=16
    )


@pytest.mark.parametrize("decays", [False, True], ids=["constant", "decaying"])
@pytest.mark.parametrize("task", ["quadratic", "network"])
@by_name
def test_error_falls_as_one_over_eps(arrow, task, decays):
    task, rate = (Quadratic(10), 0.01) if task == "quadratic" else (network(), 0.1)
    theta = make_theta(arrow, decays, rate)
    if arrow.exact:
        assert inclusion.trajectory_error(arrow, theta, 1.0, task, KEY) < 1e-13
        return
    scales = 10.0 ** np.arange(2, 11)
    errors = [inclusion.trajectory_error(arrow, theta, eps, task, KEY) for eps in scales]
    products = np.array(errors) * scales
    # The limit is approached from one side, so the largest ε give the constant.
    constant = np.median(products)
    assert constant > 0
    np.testing.assert_allclose(products, constant, rtol=0.2)


@by_name
def test_the_updates_are_those_of_the_equations(arrow):
    """A random history of gradients, not of any task: M's equations against the specialized N."""
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(30, 4))
    theta = make_theta(arrow, decays=True)
    tx = arrow.general.transform(arrow.specialize(theta, jnp.float64(1e9)))
    state, update = tx.init(jnp.zeros(4)), jax.jit(tx.update)
    velocity, rate = np.zeros(4), float(theta["learning_rate"])
    gamma = 1 - float(theta.get("one_minus_momentum", 1.0))
    for t, g in enumerate(gradients):
        eta = rate * (1 - 0.99 * min(t / 150, 1))
        velocity = gamma * velocity + g
        down = gamma * velocity + g if arrow.name.startswith("nesterov") else velocity
        updates, state = update(jnp.asarray(g), state)
        np.testing.assert_allclose(updates, -eta * down, rtol=1e-7)


def test_a_constant_ratio_does_not_recover_momentum():
    """Without the time-varying α_t Adam's first updates are wrong however large ε is."""
    arrow = next(a for a in INCLUSIONS if a.name == "momentum ⊆ adam")
    theta = make_theta(arrow, decays=False)
    constant = arrow._replace(
        general=hierarchy.adam(),
        specialize=lambda theta, eps: {
            **arrow.specialize(theta, eps),
            "learning_rate": eps * theta["learning_rate"] / theta["one_minus_momentum"],
        },
    )
    right = inclusion.trajectory_error(arrow, theta, 1e8, Quadratic(10), KEY)
    wrong = inclusion.trajectory_error(constant, theta, 1e8, Quadratic(10), KEY)
    assert right < 1e-6 < 1e-2 < wrong


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_no_momentum_follows_nesterov(gamma):
    theta = {
        "learning_rate": jnp.float64(1.0),
        "decay_steps": jnp.float64(1.0),
        "decay_factor": jnp.float64(1.0),
        "one_minus_momentum": jnp.float64(1 - gamma),
    }
    response = inclusion.impulse_response(hierarchy.nesterov(), theta, 4)
    expected = [1 + gamma, gamma**2, gamma**3, gamma**4]
    np.testing.assert_allclose(response, expected, rtol=1e-12)
    nearest, distance = inclusion.nearest_momentum(theta)
    assert distance > 0.01
    near = inclusion.impulse_response(hierarchy.momentum(), nearest, 50)
    wanted = inclusion.impulse_response(hierarchy.nesterov(), theta, 50)
    np.testing.assert_allclose(
        np.linalg.norm(near - wanted) / np.linalg.norm(wanted), distance, rtol=1e-6
    )
    for rate in np.linspace(0.1, 3, 30):  # nothing on a grid is nearer
        for other in np.linspace(0, 0.999, 40):
            tried = rate * other ** np.arange(50)
            assert np.linalg.norm(tried - wanted) / np.linalg.norm(wanted) > distance - 1e-9
    # With γ = 0 they are the same rule.
    theta["one_minus_momentum"] = jnp.float64(1.0)
    assert inclusion.nearest_momentum(theta)[1] < 1e-9
