"""The tune program as its users start it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import tune
from experiments.configs import tune_digits, tune_fashion_mnist
from learned_opt.spaces import load_space

ROOT = Path(__file__).parents[2]


def make_config(**settings):
    defaults = {
        "workload": "digits",
        "task": {
            "name": "image_classifier",
            "dataset": "digits",
            "hidden_sizes": (4,),
            "batch_size": 16,
        },
        "rules": ("sgd", "adam"),
        "spaces": str(ROOT / "experiments/spaces/mlp_digits"),
        "num_trials": 6,
        "num_steps": 20,
        "segments": 2,
        "lanes": 3,
        "winner_seeds": 3,
    }
    return ConfigDict(defaults | settings)


def results(workdir):
    return json.loads((workdir / "results.json").read_text())["rules"]


def test_tune(tmp_path, capsys):
    tune.main(make_config(rules=("sgd", "adam", "lstm_mnist")), tmp_path, None)
    found = results(tmp_path)
    assert list(found) == ["sgd", "adam", "lstm_mnist"]
    for name, result in found.items():
        lines = (tmp_path / "studies" / name / "trials_0.jsonl").read_text().splitlines()
        trials = [json.loads(line) for line in lines]
        assert [t["index"] for t in trials] == list(range(6))
        scores = [1 - t["heldout"]["valid"]["accuracy"][-1] for t in trials]
        assert result["best"]["index"] == int(np.argmin(scores))
        assert result["best_of_k"]["mean"][-1] == pytest.approx(min(scores))
        assert result["best_of_k"]["mean"][0] == pytest.approx(np.mean(scores))
        assert len(result["winner"]["test_error"]) == 3
    assert (tmp_path / "best_of_k.png").stat().st_size > 0
    shown = capsys.readouterr().out
    assert "test error, %" in shown and "lstm_mnist" in shown


def test_extending_keeps_the_trials(tmp_path):
    tune.main(make_config(num_trials=3, rules=("sgd",)), tmp_path, None)
    before = (tmp_path / "studies/sgd/trials_0.jsonl").read_bytes()
    tune.main(make_config(num_trials=6, rules=("sgd",)), tmp_path, None)
    after = (tmp_path / "studies/sgd/trials_0.jsonl").read_bytes()
    assert after.startswith(before) and len(after.splitlines()) == 6


def test_shards_share_a_folder(tmp_path, capsys):
    config = make_config(rules=("sgd",))
    tune.main(make_config(rules=("sgd",), shard=1, num_shards=2), tmp_path / "shared", None)
    assert "3 of 6 trials done" in capsys.readouterr().out
    tune.main(make_config(rules=("sgd",), shard=0, num_shards=2), tmp_path / "shared", None)
    tune.main(config, tmp_path / "whole", None)
    assert results(tmp_path / "shared") == results(tmp_path / "whole")


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_table(tmp_path):
    settings = {
        "num_trials": 24,
        "num_steps": 300,
        "segments": 10,
        "rules": "('momentum','adam')",
        "winner_seeds": 2,
        "lanes": 3,
        "task.hidden_sizes": "(4,)",
    }

    def command(workdir):
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        program = [sys.executable, "-m", "experiments.tune"]
        config = "--config=experiments/configs/tune_digits.py"
        return [*program, config, f"--workdir={workdir}", *flags]

    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, env=environment, check=True)

    def lines():
        files = (tmp_path / "killed" / "studies").glob("*/trials_0.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    kills = 0
    for wanted in (1, 10, 20, 30, 40):
        process = subprocess.Popen(command(tmp_path / "killed"), cwd=ROOT, env=environment)
        while process.poll() is None and lines() < wanted:
            time.sleep(0.01)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills == 5
    subprocess.run(command(tmp_path / "killed"), cwd=ROOT, env=environment, check=True)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (killed / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert (killed / "tables.txt").read_bytes() == (whole / "tables.txt").read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": ("adamm",)}, "unknown rule 'adamm'; known: sgd"),
        ({"rules": ()}, "rules must name rules"),
        ({"rules": ("sgd", "sgd")}, "each once"),
        ({"workload": ""}, "workload must name the task"),
        ({"segments": 3}, r"segments \(3\) must divide num_steps \(20\)"),
        ({"metric": "accuracy"}, "metric must be 'error' or 'loss'"),
        ({"shard": 1}, "shard must be from 0 to 0"),
        ({"lanes": -1}, "lanes must not be negative"),
        ({"num_trials": 0}, "num_trials must be a whole number"),
        ({"trials": 3}, "unknown config fields"),
        ({"task": {"name": "image_classifer"}}, "unknown task"),
    ],
)
def test_bad_configs_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        tune.main(make_config(**settings), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()


def test_a_missing_or_wrong_space_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no search space .*sgd.json"):
        tune.main(make_config(spaces=str(tmp_path)), tmp_path / "run", None)
    (tmp_path / "sgd.json").write_text(
        json.dumps({"rule": "sgd", "parameters": {"momentum": {"low": 0.1, "high": 1}}})
    )
    with pytest.raises(ValueError, match=r"sgd.json: .*unknown \['momentum'\]"):
        tune.main(make_config(spaces=str(tmp_path)), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", [tune_digits, tune_fashion_mnist])
def test_the_committed_configs_are_accepted(module):
    config = tune._checked(module.get_config())
    for name in config.rules:
        tune._find(name, ROOT / config.spaces)
    for words in ("python -m experiments.tune", "Run time: about", "Expected"):
        assert words in module.__doc__


def test_every_committed_space_is_one_of_its_rule():
    paths = sorted((ROOT / "experiments/spaces").glob("*/*.json"))
    assert paths
    for path in paths:
        assert load_space(path).rule == path.stem
        tune._find(path.stem, path.parent)
