"""Experiments of the lab on networks of a few units: results, figures, answers; they go on."""

import json
import re

import pytest
from ml_collections import ConfigDict

from experiments import generalization

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
}


@pytest.mark.parametrize("name", TINY)
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
