"""The ReLU study on networks of two units."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from experiments import meta_train, relu_study
from experiments.common import relu_report
from experiments.common.build import make_task
from learned_opt.theta_files import load_metadata

DIGITS = {"name": "image_classifier", "dataset": "digits", "batch_size": 8}
SMALL = {"name": "lstm", "hidden_sizes": (2,)}


def make_config():
    task = DIGITS | {"hidden_sizes": (2,)}
    parts = (
        {"name": "digits", "task": task},
        {"name": "adam", "task": task, "estimator": {"name": "imitation", "teacher_rate": 0.03}},
    )
    common = dict(task=task, rule=SMALL, num_tasks=1, unroll_length=2, horizon=4)
    common |= dict(validation_problems=1, validation_window=1)
    mixture = {"estimator": {"name": "mixture", "parts": parts}}
    return ConfigDict(
        {
            "inner_steps": 8,
            "common": common,
            "learners": {"plain": ({},), "staged": (mixture, {"horizon": 8, "share": 0.5})},
            "activations": ("relu",),
            "layers": (1,),
            "widths": (2, 3),
            "task": DIGITS,
            "extra": (("another", DIGITS | {"hidden_sizes": (2, 2)}),),
            "report_steps": (2, 4),
            "max_work": 4 * 160,
            "adam_rates": (0.01, 0.1),
            "window": 2,
        }
    )


def test_trains_in_stages_tests_and_goes_on(tmp_path, capsys, monkeypatch):
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setattr(relu_study, "meta_train", meta_train.main)  # not in a process of its own
    relu_study.main(make_config(), tmp_path, None)
    for name, steps in (("plain", 4), ("staged/stage_0", 1), ("staged", 1)):
        results = json.loads((tmp_path / "learners" / name / "results.json").read_text())
        assert results["num_meta_steps"] == steps
    config = load_metadata(tmp_path / "learners/staged/theta.npz")["config"]
    assert config["start_from"].endswith("staged/stage_0/theta.npz") and config["horizon"] == 8
    cells = json.loads((tmp_path / "results.json").read_text())
    assert set(cells) == {"relu 1 x 2", "relu 1 x 3", "another"}
    assert cells["relu 1 x 2"]["parameters"] == 160
    assert cells["relu 1 x 2"]["steps"] == ["2", "4"] and cells["relu 1 x 3"]["steps"] == ["2"]
    rules = ["adam 0.01", "adam 0.1", "plain", "staged", "plain@0.1", "staged@0.1"]
    assert set(cells["another"]["rules"]) == set(rules)
    page = (tmp_path / "results.md").read_text()
    assert "| plain@0.1 |" in page and "ReLU, 4 (1 nets)" in page and "another" in page
    assert (tmp_path / "relu_study.svg").read_text().startswith("<svg")
    (tmp_path / "cells/another.json").unlink()  # the same command does what is missing alone
    capsys.readouterr()
    relu_study.main(make_config(), tmp_path, None)
    assert "another: 2 steps" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text()) == cells


@pytest.mark.slow
def test_a_learner_is_trained_by_the_program(tmp_path):
    config = make_config()
    config.learners = {"staged": config.learners["staged"]}
    config.widths, config.extra = (), ()
    relu_study.main(config, tmp_path, None)
    assert (tmp_path / "learners/staged/theta.npz").exists()
    assert "ConfigDict" in (tmp_path / "learners/staged/stage_0/config.py").read_text()


def test_ratios_and_failures():
    cell = {
        "steps": ["2"],
        "start": [2.0, 2.0],
        "rules": {
            "adam 0.1": {"2": [0.5, 0.5]},
            "adam 1": {"2": ["inf", 0.1]},
            "lstm": {"2": [0.25, 3.0]},
            "wild": {"2": ["inf", 1e-9]},
        },
    }
    config = relu_study.DEFAULTS
    ratio, failed = relu_report.compared(cell, "lstm", "2", config)
    np.testing.assert_allclose(
        np.exp(ratio), [0.5, 4.0]
    )  # Adam's best rate; a failure is the start
    assert failed == 1
    ratio, failed = relu_report.compared(cell, "wild", "2", config)
    np.testing.assert_allclose(np.exp(ratio), [4.0, 0.002])
    assert failed == 1 and relu_report.compared(cell, "wild", "4", config) is None


def test_the_task_with_tricks_is_the_task_in_other_coordinates():
    settings = DIGITS | {"hidden_sizes": (2,)}
    tricks = make_task(settings | {"name": "experiments.common.relu_tasks:with_tricks"})
    plain = make_task(settings)
    instance = tricks.sample(jax.random.key(0))
    params = tricks.init(jax.random.key(1), instance)
    scaled = jax.tree.map(jnp.multiply, params["task"], instance["task"]["scales"])
    scales = np.concatenate(
        [
            np.ravel(a / b)
            for a, b in zip(jax.tree.leaves(scaled), jax.tree.leaves(params["task"]), strict=True)
            if (np.asarray(b) != 0).all()
        ]
    )
    assert np.exp(-3) < scales.min() < 0.1 and 10 < scales.max() < np.exp(3)
    key = jax.random.key(2)
    term = np.minimum((instance["scale"] * params["convex"] - instance["minimum"]) ** 2, 10).mean()
    loss = tricks.loss(params, instance, key)
    np.testing.assert_allclose(loss, plain.loss(scaled, (), key) + term, rtol=1e-5)


def test_bad_settings_are_refused(tmp_path):
    for field, value in (("inner_steps", 0), ("nonsense", 1)):
        config = make_config()
        config[field] = value
        with pytest.raises(ValueError, match=field):
            relu_study.main(config, tmp_path / field, None)
