"""The launcher of the generalization lab, and what its experiments promise."""

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import generalization
from experiments.common.workdir import kept, rounded


@pytest.fixture
def tiny(monkeypatch):
    module = types.ModuleType("tiny")
    module.runs = 0

    def run(config, workdir, data_dir):
        def make():
            module.runs += 1
            return {"mean": np.arange(config.number).mean()}

        return kept(workdir / "cells" / "one.json", make)

    module.DEFAULTS = ConfigDict({"number": 3})
    module.run = run
    module.draw = lambda results, path: (path / "tiny.svg").write_text(
        f"<svg>{results['mean']}</svg>"
    )
    module.report = lambda results: f"# What is the mean?\n\n{results['mean']}\n"
    monkeypatch.setitem(sys.modules, "tiny", module)
    monkeypatch.setitem(generalization.EXPERIMENTS, "tiny", "tiny")
    return module


def test_writes_results_figure_and_answer_and_goes_on(tiny, tmp_path):
    config = ConfigDict({"experiment": "tiny", "number": 5})
    for _ in range(2):
        generalization.main(config, tmp_path, None)
        assert json.loads((tmp_path / "results.json").read_text()) == {"mean": 2.0}
        assert (tmp_path / "tiny.svg").read_text() == "<svg>2.0</svg>"
        assert (tmp_path / "README.md").read_text().startswith("# What is the mean?")
    assert tiny.runs == 1


def test_refuses_what_it_does_not_know(tiny, tmp_path):
    for settings in ({}, {"experiment": "nonsense"}):
        with pytest.raises(ValueError, match=r"unknown experiment .*known: .*tiny"):
            generalization.main(ConfigDict(settings), tmp_path, None)
    with pytest.raises(ValueError, match="unknown config fields .'nonsense'.; known: .*number"):
        generalization.main(ConfigDict({"experiment": "tiny", "nonsense": 1}), tmp_path, None)


def test_what_was_kept_is_what_was_made(tmp_path):
    made = {"values": np.float32([1.5, 2.5])}
    assert kept(tmp_path / "a.json", lambda: made) == {"values": [1.5, 2.5]}
    assert kept(tmp_path / "a.json", lambda: 1 / 0) == {"values": [1.5, 2.5]}


def test_numbers_are_rounded_for_reading():
    found = rounded(
        {1: (1 / 3, np.float32(2e-7)), "a": {"b": np.array([np.nan, 123456.0])}, "c": 7}
    )
    assert found == {"1": [0.33333, 2e-7], "a": {"b": [None, 123460.0]}, "c": 7}


CONFIGS = sorted(Path(generalization.__file__).parent.glob("configs/generalization/*.py"))
DOCS = Path(__file__).parents[2] / "docs" / "generalization"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_how_it_is_run_and_its_results_are_there(path):
    module = importlib.import_module(f"experiments.configs.generalization.{path.stem}")
    assert "python -m experiments.generalization" in module.__doc__
    assert f"--config=experiments/configs/generalization/{path.name}" in module.__doc__
    assert "Run time" in module.__doc__ and "Expected" in module.__doc__
    config = module.get_config()
    experiment = generalization.find_experiment(config.experiment)
    assert not set(config) - {*experiment.DEFAULTS, "experiment"}
    folder = DOCS / config.experiment
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert experiment.report(results) == (folder / "README.md").read_text(encoding="utf-8")
