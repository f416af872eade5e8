"""The probe that chooses θ, against losses followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.common.probe import make_probe
from learned_opt.tasks import Quadratic
from learned_opt.update_rules import learned_muon, sgd

KEY = jax.random.key(3)
ENTRY = {"name": "bowl", "task": {"name": "quadratic", "num_dims": 3}, "num_steps": 5}


def test_the_score_is_a_geometric_mean_of_ratios():
    score, metrics = make_probe(sgd(), [ENTRY | {"num_seeds": 4}], KEY, None)(
        {"learning_rate": jnp.float32(0.05)}
    )
    assert set(metrics) == {"probe/bowl/train", "probe/bowl/valid"}
    assert 0.01 < score < 1
    np.testing.assert_allclose(score, np.exp(np.mean(np.log(list(metrics.values())))), rtol=1e-5)


def test_ratios_are_kept_within_a_hundredth_and_ten():
    probe = make_probe(sgd(), [ENTRY | {"num_seeds": 2, "num_steps": 200}], KEY, None)
    assert probe({"learning_rate": jnp.float32(1e6)})[0] == pytest.approx(10)  # it diverges
    assert probe({"learning_rate": jnp.float32(-1.0)})[0] == pytest.approx(10)
    still = probe({"learning_rate": jnp.float32(0.0)})[0]
    assert still == pytest.approx(1)


def test_a_knob_is_brought_down_to_zero():
    rule = learned_muon(0.02)
    theta, task = rule.init(KEY), Quadratic(3)
    entry = ENTRY | {"num_seeds": 1, "num_steps": 20}
    found = make_probe(rule, [entry], KEY, None)(theta)[0]
    from learned_opt.evaluation import evaluate

    schedule = optax.cosine_decay_schedule(0.02, 20)
    by_hand = learned_muon(schedule)
    result = evaluate(
        by_hand, theta, task, KEY, num_seeds=1, num_steps=20, eval_steps=(0, 20), splits=("train",)
    )
    loss = result.heldout["train"]["loss"][0]
    np.testing.assert_allclose(found, loss[1] / loss[0], rtol=1e-4)


def test_a_task_without_a_name_is_the_one_trained_on_with_some_fields_changed():
    theta = {"learning_rate": jnp.float32(0.05)}
    changed = ENTRY | {"num_seeds": 2, "task": {"num_dims": 3}}
    trained_on = {"name": "quadratic", "num_dims": 7}
    found = make_probe(sgd(), [changed], KEY, None, trained_on)(theta)
    assert found == make_probe(sgd(), [ENTRY | {"num_seeds": 2}], KEY, None)(theta)
    with pytest.raises(ValueError, match="unknown task None"):
        make_probe(sgd(), [changed], KEY, None)


def test_fields_are_checked():
    with pytest.raises(ValueError, match="an entry of probe has the fields name, num_seeds"):
        make_probe(sgd(), [{"name": "bowl"}], KEY, None)
