import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import export_pretrained
from experiments.common.build import make_rule
from experiments.common.launch import check_fields
from experiments.common.meta_config import DEFAULTS
from experiments.common.step_lengths_config import DEFAULTS as STEP_LENGTHS
from experiments.common.step_lengths_config import multiplied
from experiments.common.workdir import open_workdir, write_json
from experiments.configs.meta_train import lstm_cifar10, lstm_quadratic, lstm_style
from experiments.configs.step_lengths import lstm_cifar10 as step_lengths_config
from experiments.export_pretrained import export
from learned_opt import __version__
from learned_opt.theta_files import load_theta, save_theta

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def finished(tmp_path):
    """The work directory of a meta-training as it is when finished, and its θ."""
    config = check_fields(lstm_quadratic.get_config(), DEFAULTS)
    workdir = open_workdir(tmp_path / "run", config)
    theta = make_rule(config.rule).init(jax.random.key(3))
    save_theta(workdir / "theta.npz", theta, {"rule": config.rule.to_dict()})
    results = {
        "ended_above_start": 2,
        "best_validation_score": 0.05,
        "inner_steps": 51_200_000,
        "minutes": 12.3456,
        "devices": ["cpu:0", "cpu:1"],
    }
    write_json(workdir / "results.json", results)
    return workdir, theta


def test_from_the_command_line(finished, tmp_path):
    workdir, theta = finished
    (tmp_path / "numbers.json").write_text('{"loss at step 100": 0.04}')
    (tmp_path / "out").mkdir()
    run = [sys.executable, "-m", "experiments.export_pretrained", f"--workdir={workdir}"]
    run += ["--name=lstm_quadratic", f"--results={tmp_path / 'numbers.json'}"]
    run += ["--fails=Diverges on others.", "--fails=Slow.", f"--output={tmp_path / 'out'}"]
    subprocess.run(run, check=True, cwd=ROOT, capture_output=True)
    card = json.loads((tmp_path / "out" / "lstm_quadratic.json").read_text())
    assert card["cost"] == {"inner_steps": 51_200_000, "minutes": 12.3, "device": "cpu:0, cpu:1"}
    assert card["results"] == {
        "best_validation_score": 0.05,
        "validation_problems_that_end_above_their_start": 2,
        "loss at step 100": 0.04,
    }
    assert card["fails"] == ["Diverges on others.", "Slow."]
    assert "platform" not in card["versions"] and card["versions"]["learned_opt"] == __version__
    assert card["rule"]["name"] == "lstm" and card["seed"] == 0
    exported = load_theta(tmp_path / "out" / "lstm_quadratic.npz", like=theta)
    jax.tree.map(np.testing.assert_array_equal, exported, theta)


def test_where_it_started_is_named_and_its_path_left_out(finished, tmp_path, monkeypatch):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"start_from": "/a/theta.npz"}))
    monkeypatch.setattr(export_pretrained, "make_task", lambda task, data_dir: None)
    monkeypatch.setattr(export_pretrained, "_measured", lambda *args: {})
    card = export(workdir, "lstm_quadratic", results={}, fails=[], output=tmp_path)
    assert card["command"].endswith("--workdir=DIR --config.start_from=START/theta.npz")
    assert "/a/theta" not in json.dumps(card)


def test_step_lengths_go_into_the_card(tmp_path, monkeypatch):
    name = "lstm_cifar10"
    config = check_fields(lstm_cifar10.get_config(), DEFAULTS)
    trained = open_workdir(tmp_path / "trained", config)
    theta = make_rule(config.rule).init(jax.random.key(3))
    theta = jax.tree.map(lambda x: x + 0.1, theta)
    save_theta(trained / "theta.npz", theta, {"rule": config.rule.to_dict()})
    results = {"best_validation_score": 0.1, "inner_steps": 1, "minutes": 1.0, "devices": ["cpu"]}
    write_json(trained / "results.json", results)
    lengths = check_fields(step_lengths_config.get_config(), STEP_LENGTHS)
    lengths.theta = str(trained / "theta.npz")
    found = open_workdir(tmp_path / "lengths", lengths)
    factors = {"conv": 2.0, "rest": 0.5}
    longer = multiplied(theta, lengths.parts, factors)
    save_theta(found / "theta.npz", longer, {"rule": config.rule.to_dict()})
    write_json(found / "results.json", {"factors": factors})
    monkeypatch.setattr(export_pretrained, "make_task", lambda task, data_dir: None)
    monkeypatch.setattr(export_pretrained, "_measured", lambda *args: {})
    settings = dict(results={}, fails=[], output=tmp_path, step_lengths=found)
    card = export(trained, name, **settings)
    assert card["step_lengths"]["factors"] == factors
    assert "configs/step_lengths/lstm_cifar10.py" in card["step_lengths"]["command"]
    assert str(tmp_path) not in json.dumps(card)
    exported = load_theta(tmp_path / "lstm_cifar10.npz", like=theta)
    conv, rest = (exported[k]["output"]["kernel"] for k in ("conv", "rest"))
    np.testing.assert_allclose(conv, 2 * theta["conv"]["output"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(rest, theta["rest"]["output"]["kernel"] / 2, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, exported["conv"]["cells"], theta["conv"]["cells"])

    save_theta(found / "theta.npz", theta, {"rule": config.rule.to_dict()})
    with pytest.raises(ValueError, match="has the step lengths of another θ"):
        export(trained, name, **settings)
    changed = json.loads((found / "config.json").read_text()) | {"num_seeds": 2}
    write_json(found / "config.json", changed)
    with pytest.raises(ValueError, match=r"step_lengths/lstm_cifar10.py: num_seeds differ"):
        export(trained, name, **settings)


def test_where_its_data_lay_is_left_out(tmp_path, monkeypatch):
    config = check_fields(lstm_style.get_config(), DEFAULTS)
    config.task.content_dir = str(tmp_path / "photographs")
    workdir = open_workdir(tmp_path / "run", config)
    theta = make_rule(config.rule).init(jax.random.key(3))
    save_theta(workdir / "theta.npz", theta, {"rule": config.rule.to_dict()})
    results = {"best_validation_score": 0.1, "inner_steps": 1, "minutes": 1.0, "devices": ["cpu"]}
    write_json(workdir / "results.json", results)
    tasks: list[dict] = []
    monkeypatch.setattr(export_pretrained, "make_task", lambda task, data_dir: tasks.append(task))
    monkeypatch.setattr(export_pretrained, "_measured", lambda *args: {})
    card = export(workdir, "lstm_style", results={}, fails=[], output=tmp_path)
    assert card["command"].endswith("lstm_style.py --workdir=DIR --content_dir=PATH")
    assert tasks[0]["content_dir"] == config.task.content_dir  # it is measured with them
    for path in tmp_path.glob("lstm_style.*"):
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_run_of_another_config_is_refused(finished):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text())
    write_json(workdir / "config.json", config | {"seed": 5, "horizon": 40})
    with pytest.raises(ValueError, match=r"lstm_quadratic.py: horizon, seed differ"):
        export(workdir, "lstm_quadratic", results={}, fails=[], output=workdir)


def test_an_unfinished_run_is_refused(finished):
    workdir, _ = finished
    (workdir / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match="results.json is missing"):
        export(workdir, "lstm_quadratic", results={}, fails=[], output=workdir)
