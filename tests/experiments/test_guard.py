import json

import pytest
from ml_collections import ConfigDict

from experiments import guard
from experiments.common import guard_tasks
from experiments.common.launch import check_fields
from experiments.configs.guard import five as committed

PROBLEM = {"name": "quadratic", "num_dims": 3}


def test_the_committed_config_is_accepted():
    config = check_fields(committed.get_config(), guard.DEFAULTS)
    assert len(config.problems) == 5
    command = "python -m experiments.guard --config=experiments/configs/guard/five.py"
    for words in (command, "Run time", "Expected"):
        assert words in committed.__doc__


def test_compares_a_guarded_rule_with_its_fallback(tmp_path, capsys):
    settings = {"problems": {"a bowl": PROBLEM}, "rule": "sgd", "num_seeds": 2, "num_steps": 12}
    guard.main(ConfigDict(settings), tmp_path, None)
    (found,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8")).values()
    assert set(found) == {"fallback", "rule", "guarded"}
    for part in found.values():
        assert len(part["final"]) == 2 and len(part["losses"][0]) == 12
    assert [report["steps"] for report in found["guarded"]["report"]] == [12, 12]
    assert found["guarded"]["final"] == pytest.approx(found["rule"]["final"])  # no duel is over yet
    text = (tmp_path / "tables.txt").read_text(encoding="utf-8")
    assert "a bowl" in text and "guarded / fallback" in text
    (tmp_path / "tables.txt").unlink()
    guard.main(ConfigDict(settings), tmp_path, None)  # nothing is run again
    assert (tmp_path / "tables.txt").read_text(encoding="utf-8") == text
    assert "a bowl" in capsys.readouterr().out


def test_diabetes_is_standardized():
    task = guard_tasks.diabetes()
    assert task.data["train"]["x"].shape == (442, 10)
    assert float(abs(task.data["train"]["y"].mean())) < 1e-5
