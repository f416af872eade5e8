"""The tune program as its users start it."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import tune
from experiments.common import find_studies
from experiments.common.build import make_task
from learned_opt.unroll import draw

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
        "levels": ("initial",),
        "num_trials": 6,
        "num_steps": 20,
        "segments": 2,
        "lanes": 3,
        "winner_seeds": 3,
    }
    return ConfigDict(defaults | settings)


def results(workdir, level="initial"):
    return json.loads((workdir / "results.json").read_text())["levels"][level]


def test_tune(tmp_path, capsys):
    tune.main(make_config(rules=("sgd", "adam", "lstm_mnist")), tmp_path, None)
    found = results(tmp_path)
    assert list(found) == ["sgd", "adam", "lstm_mnist"]
    for name, result in found.items():
        level = "learned" if name == "lstm_mnist" else "initial"
        folder = tmp_path / "studies" / level / name
        lines = (folder / "trials_0.jsonl").read_text().splitlines()
        trials = [json.loads(line) for line in lines]
        assert [t["index"] for t in trials] == list(range(6))
        scores = [1 - t["heldout"]["valid"]["accuracy"][-1] for t in trials]
        assert result["best"]["index"] == int(np.argmin(scores))
        test = [1 - t["reported"]["accuracy"] for t in trials]
        assert result["best_of_k"]["mean"][-1] == pytest.approx(test[int(np.argmin(scores))])
        assert result["best_of_k"]["mean"][0] == pytest.approx(np.mean(test))
        assert len(result["winner"]["test_error"]) == 3
        assert np.shape(result["winner"]["losses"]) == (3, 2)
    assert (tmp_path / "best_of_k.png").stat().st_size > 0
    shown = capsys.readouterr().out
    assert "test error, %" in shown and "lstm_mnist (untuned)" in shown
    assert "Adam (Choi et al.)" in shown


@pytest.mark.slow
def test_runs_stop_early_with_patience(tmp_path):
    settings = {"rules": ("sgd",), "num_steps": 60, "segments": 20, "num_trials": 8, "lanes": 8}
    tune.main(make_config(patience=1, **settings), tmp_path / "patient", None)
    tune.main(make_config(**settings), tmp_path / "whole", None)
    patient, whole = (results(tmp_path / name)["sgd"] for name in ("patient", "whole"))
    lines = (tmp_path / "whole/studies/initial/sgd/trials_0.jsonl").read_text().splitlines()
    for line, score in zip(lines, patient["scores"], strict=True):
        valid = json.loads(line)["heldout"]["valid"]
        stop = next((n for n in range(1, 20) if valid["loss"][n] >= min(valid["loss"][:n])), 20)
        best = int(np.argmin(valid["loss"][:stop]))
        assert score == pytest.approx(1 - valid["accuracy"][best], abs=1e-6)
    assert patient["scores"] != whole["scores"]  # else this tests nothing
    with pytest.raises(ValueError, match="belongs to another config"):
        tune.main(make_config(patience=2, **settings), tmp_path / "patient", None)


def test_runs_that_end_above_their_start_are_counted(tmp_path, capsys):
    """Losses that leap up at once and then fall, above their start all the while."""
    space = {
        "rule": "sgd",
        "parameters": {"learning_rate": {"low": 1.0, "high": 3.0, "scale": "log"}},
        "fixed": {"decay_steps/budget": 0.5, "decay_factor": 0.01},
    }
    (tmp_path / "initial").mkdir()
    (tmp_path / "initial/sgd.json").write_text(json.dumps(space), encoding="utf-8")
    task = {"name": "quadratic", "num_dims": 3}
    config = make_config(task=task, metric="loss", spaces=str(tmp_path), rules=("sgd",))
    tune.main(config, tmp_path / "run", None)
    lines = (tmp_path / "run/studies/initial/sgd/trials_0.jsonl").read_text().splitlines()
    trials = [json.loads(line) for line in lines]
    assert any(t["losses"][0] > t["losses"][1] for t in trials)
    quadratic = make_task(task)
    instance, params = draw(quadratic, jax.random.split(jax.random.key(0))[0])
    start = float(quadratic.evaluate(params, instance, "valid")["loss"])
    count = sum(t["heldout"]["valid"]["loss"][-1] > start for t in trials)
    result = results(tmp_path / "run")["sgd"]
    assert result["ended_above_start"] == count > 0
    assert result["winner"]["ended_above_start"] > 0
    assert f"{count} of 6" in capsys.readouterr().out


@pytest.mark.slow
def test_extending_keeps_the_trials(tmp_path):
    tune.main(make_config(num_trials=3, rules=("sgd",)), tmp_path, None)
    before = (tmp_path / "studies/initial/sgd/trials_0.jsonl").read_bytes()
    tune.main(make_config(num_trials=6, rules=("sgd",)), tmp_path, None)
    after = (tmp_path / "studies/initial/sgd/trials_0.jsonl").read_bytes()
    assert after.startswith(before) and len(after.splitlines()) == 6


@pytest.mark.slow
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
        "levels": "('initial',)",
        "winner_seeds": 2,
        "lanes": 3,
        "task.hidden_sizes": "(4,)",
    }

    def command(workdir):
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        program = [sys.executable, "-m", "experiments.tune"]
        config = "--config=experiments/configs/tune/digits.py"
        return [*program, config, f"--workdir={workdir}", *flags]

    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, env=environment, check=True)

    def lines():
        files = (tmp_path / "killed" / "studies").glob("*/*/trials_0.jsonl")
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
        ({"rules": ()}, "rules must be names"),
        ({"rules": ("sgd", "sgd")}, "each once"),
        ({"levels": ("initial", "initial")}, "levels must be names, each once"),
        ({"num_seeds": 0}, "num_seeds must be a whole number"),
        ({"lanes": 0, "num_devices": 2}, "set lanes, a multiple of num_devices"),
        ({"task": {"name": "quadratic"}}, "digits has no accuracy: set metric to 'loss'"),
        ({"task": {"name": "language_model"}}, "needs text_file: --text_file"),
        ({"workload": ""}, "workload must name the task"),
        ({"segments": 3}, r"segments \(3\) must divide num_steps \(20\)"),
        ({"metric": "accuracy"}, "metric must be 'error' or 'loss'"),
        ({"shard": 1}, "shard must be from 0 to 0"),
        ({"patience": -1}, "patience must not be negative, got -1"),
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
    with pytest.raises(FileNotFoundError, match="there is no search space .*initial/sgd.json"):
        tune.main(make_config(spaces=str(tmp_path)), tmp_path / "run", None)
    (tmp_path / "initial").mkdir()
    (tmp_path / "initial/sgd.json").write_text(
        json.dumps({"rule": "sgd", "parameters": {"momentum": {"low": 0.1, "high": 1}}})
    )
    with pytest.raises(ValueError, match=r"sgd.json: .*unknown \['momentum'\]"):
        tune.main(make_config(spaces=str(tmp_path)), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "experiments/configs/tune").glob("*.py")))
def test_the_committed_configs_are_accepted(path):
    module = importlib.import_module(f"experiments.configs.tune.{path.stem}")
    config = tune._checked(module.get_config())
    config.spaces = str(ROOT / config.spaces)
    assert [len(found) for found in tune.find_studies(config).values()]
    for words in ("python -m experiments.tune", f"configs/tune/{path.name}", "Run time: about"):
        assert words in module.__doc__
    for words in ("RULES", "RUNTIME"):
        assert words not in module.__doc__


def test_every_committed_space_is_one_of_its_rule():
    paths = sorted((ROOT / "experiments/spaces").glob("*/*/*.json"))
    assert paths
    for path in paths:
        find_studies.with_space(path.stem, path.parent.name, path)


def test_the_knobs_of_a_learned_rule_are_searched_where_they_have_a_space():
    config = make_config(rules=("general", "lstm_mnist"), levels=("final",))
    (found,) = find_studies.find_studies(config).values()
    general, untuned = found
    assert general.theta is None and "learning_rate" in general.space.parameters
    assert untuned.theta is not None and not untuned.space.parameters


def test_all_trials_diverged_is_said_and_nothing_is_lost(tmp_path):
    spaces = tmp_path / "spaces"
    (spaces / "initial").mkdir(parents=True)
    rates = {"learning_rate": {"low": 1e37, "high": 1e38, "scale": "log"}}
    fixed = {"decay_steps": 1, "decay_factor": 1}
    space = {"rule": "sgd", "parameters": rates, "fixed": fixed}
    (spaces / "initial/sgd.json").write_text(json.dumps(space))
    task = {"name": "quadratic", "num_dims": 3}
    config = make_config(spaces=str(spaces), rules=("sgd",), task=task, metric="loss")
    with pytest.raises(FloatingPointError, match="initial/sgd: all 6 trials diverged; lower the"):
        tune.main(config, tmp_path / "run", None)
    kept = (tmp_path / "run/studies/initial/sgd/trials_0.jsonl").read_text().splitlines()
    assert len(kept) == 6 and all(json.loads(line)["diverged_at"] is not None for line in kept)


def test_a_truncated_file_is_mended(tmp_path):
    config = make_config(rules=("sgd",))
    tune.main(config, tmp_path, None)
    whole = (tmp_path / "results.json").read_bytes()
    file = tmp_path / "studies/initial/sgd/trials_0.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    tune.main(config, tmp_path, None)
    assert (tmp_path / "results.json").read_bytes() == whole


def test_another_space_in_the_folder_is_refused(tmp_path):
    tune.main(make_config(rules=("sgd",)), tmp_path, None)
    spaces = tmp_path / "spaces/initial"
    spaces.mkdir(parents=True)
    moved = json.loads((ROOT / "experiments/spaces/mlp_digits/initial/sgd.json").read_text())
    moved["parameters"]["learning_rate"]["high"] = 20.0
    (spaces / "sgd.json").write_text(json.dumps(moved))
    with pytest.raises(ValueError, match="spaces is .* there and .* here; choose another"):
        tune.main(make_config(rules=("sgd",), spaces=str(spaces.parent)), tmp_path, None)


def test_any_text_file(tmp_path):
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 30)
    settings = {
        "num_trials": 5, "num_steps": 4, "segments": 2, "winner_seeds": 1, "rules": "('sgd',)",
        "task.hidden_size": 4, "task.length": 8, "task.batch_size": 2,
    }  # fmt: skip
    command = [sys.executable, "-m", "experiments.tune", f"--workdir={tmp_path / 'run'}"]
    command += ["--config=experiments/configs/tune/char_lstm.py"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and "needs text_file: --text_file" in run.stderr
    command.append(f"--text_file={tmp_path / 'text.txt'}")
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert results(tmp_path / "run", "final")["sgd"]["winner"]["test_error"]
