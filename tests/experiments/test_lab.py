"""Experiments of the lab on networks of a few units: results, figures, answers; they go on."""

import json
import re

import jax
import pytest
from ml_collections import ConfigDict

from experiments import generalization
from experiments.common.build import make_task
from experiments.lab import regularizers

DIGITS = {"name": "image_classifier", "dataset": "digits", "hidden_sizes": (3,), "batch_size": 8}
TINY = {
    "bias_variance": {
        "num_sets": 8,
        "degrees": (1, 16),
        "widths": (2,),
        "num_steps": 3,
        "num_places": 5,
        "drawn": {"degree": (1,), "width": (2,)},
        "num_drawn": 2,
    },
    "break_even": {
        "task": DIGITS,
        "batches": (4,),
        "turns": 2,
        "steps_timed": 1,
    },
    "cross_validation": {
        "folds": 3,
        "little": {
            "num_replicates": 2,
            "num_examples": 60,
            "penalties": (0.01, 1.0),
            "hidden": 2,
            "learning_rate": 0.1,
            "num_steps": 2,
        },
        "series": {
            "num_replicates": 2,
            "num_controls": 2,
            "num_steps_of_series": 40,
            "correlation": 0.9,
            "gap": 4,
            "block": 5,
            "future": 6,
            "num_inputs": 2,
            "penalties": (0.01, 1.0),
            "hidden": 2,
            "learning_rate": 0.1,
            "num_steps": 2,
        },
    },
    "ensembles": {
        "num_seeds": 2,
        "num_examples": 100,
        "num_members": 2,
        "hidden": 2,
        "num_steps": 2,
        "boosting": {"rounds": 2, "hidden": 2, "steps": 2, "shrinkage": 0.1, "depth": 1},
    },
    "epsilon": {
        "tasks": {"classifier": DIGITS},
        "num_steps": 3,
        "tuning_seeds": 1,
        "num_seeds": 2,
        "rates": (0.01, 1.0),
        "eps": (1e-8, 1e-6),
        "drawn_steps": 4,
        "drawn_eps": {"adam": (1e-8,), "adadelta": (1e-6,)},
    },
    "momentum": {
        "rules": ("sgd", "momentum", "nesterov", "adam", "general"),
        "ratios": (10, 100, 1000),
        "num_steps": 20,
        "num_starts": 1,
        "factors": (1.0,),
        "drawn_steps": 5,
        "offsets": (0.1, 0.01),
        "map_points": 2,
    },
    "early_stopping": {
        "task": DIGITS,
        "sizes": {"train": 20, "valid": 10, "test": 30},
        "num_samples": 2,
        "num_steps": 4,
        "checks": 2,
        "rules": (("sgd", (0.1, 1.0)), ("general", (0.01,))),
        "patiences": (1, 2),
    },
    "batch_size": {
        "task": DIGITS,
        "examples": 32,
        "batches": (4, 16),
        "reference": 4,
        "budgets": {"steps": 3, "epochs": 1},
        "rates": (0.1, 1.0),
        "tuning_seeds": 1,
        "num_seeds": 2,
        "sharp_seeds": 2,
        "sharp_examples": 20,
        "probes": 3,
        "directions": 2,
        "points": 3,
        "plane_points": 5,
    },
    "regularizers": {
        "task": DIGITS,
        "sizes": {"train": 20, "valid": 10, "test": 30},
        "train_sizes": (10, 20),
        "num_samples": 2,
        "num_steps": 4,
        "checks": 2,
        "patience": 1,
        "rules": (("sgd", (0.1, 1.0)), ("adamw", (0.01,))),
        "regularizers": (("none", (0.0,)), ("decoupled_decay", (0.1, 1.0)), ("shift", (1,))),
        "learned": (("learned_valid", {"task": DIGITS, "meta_loss": "valid"}),),
        "learned_rates": (0.01,),
        "tried": (("learned_valid", ("none",)),),
        "meta": {"num_meta_steps": 1, "num_tasks": 1, "horizon": (50, 50)},
    },
}


SLOW = ("batch_size", "regularizers")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TINY]
)
def test_an_experiment_answers_and_goes_on(name, tmp_path, capsys):
    config = ConfigDict({"experiment": name, **TINY[name]})
    generalization.main(config, tmp_path, None)
    results = json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / f"{name}.svg").read_text().startswith("<svg")
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# ") and f"generalization/{name}.py" in page
    assert "nan" not in page and "None" not in page
    for figure in re.findall(r"\]\((\S+\.svg)\)", page):
        assert (tmp_path / figure).exists()
    capsys.readouterr()
    generalization.main(config, tmp_path, None)  # everything is there already
    assert capsys.readouterr().out.count("\n") == 1
    assert json.loads((tmp_path / "results.json").read_text()) == results


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("batch_size", {"batches": (4, 64)}, "a batch of 64 is larger than the 32 training exampl"),
        ("batch_size", {"examples": 2000}, r"examples \(2000\) must be at most the 1077"),
        ("batch_size", {"reference": 5}, r"reference \(5\) must be one of batches"),
        ("early_stopping", {"checks": 3}, r"checks \(3\) must divide num_steps \(4\)"),
        ("early_stopping", {"checks": 0}, "checks must be a whole number of at least 1"),
        (
            "regularizers",
            {"regularizers": (("blur", (1,)),)},
            "unknown regularizer 'blur'; known: n",
        ),
        ("regularizers", {"regularizers": (("dropout", (1.0,)),)}, r"dropout must be in \[0, 1\)"),
        ("regularizers", {"regularizers": (("label_smoothing", (1.5,)),)}, "epsilon must be in"),
        ("regularizers", {"train_sizes": (4,)}, "batch_size 8 is larger than a train size of 4"),
    ],
)
def test_bad_settings_are_refused_before_the_work(name, changes, message, tmp_path):
    config = ConfigDict({"experiment": name, **(TINY[name] | changes)})
    with pytest.raises(ValueError, match=message):
        generalization.main(config, tmp_path, None)
    assert not (tmp_path / "results.json").exists()


def test_regularizers_by_kind():
    task = make_task(DIGITS)
    params, key = task.init(jax.random.key(0), ()), jax.random.key(1)
    plain = task.loss(params, (), key)
    assert regularizers.regularized(task, "none", 0.0) is task
    for kind, strength in (("dropout", 0.5), ("weight_noise", 0.3), ("l1", 0.1), ("mixup", 1.0)):
        changed = regularizers.regularized(task, kind, strength)
        assert changed.loss(params, (), key) != plain
        assert changed.loss(params, (), key, "valid") == task.loss(params, (), key, "valid")
