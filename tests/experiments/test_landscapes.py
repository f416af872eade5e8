import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import landscapes
from learned_opt.metrics import read_metrics


def make_config(**settings):
    defaults = {
        "surfaces": ("saddle", "ravine"),
        "rules": ("sgd", "adam"),
        "num_steps": 30,
        "tuning": {"num_steps": (30,), "num_seeds": 1, "low": 0.01, "high": 1.0, "window": 15,
                   "split": ""},
    }  # fmt: skip
    return ConfigDict(defaults | settings)


def test_landscapes(tmp_path, capsys):
    workdir = tmp_path / "run"
    landscapes.main(make_config(), workdir, None)
    for name in ("overview", "saddle", "ravine", "losses"):
        assert (workdir / f"{name}.png").stat().st_size > 0
    rows = json.loads((workdir / "results.json").read_text())
    assert [(r["surface"], r["rule"]) for r in rows] == [
        ("saddle", "sgd"),
        ("saddle", "adam"),
        ("ravine", "sgd"),
        ("ravine", "adam"),
    ]
    # On the surface without a minimum a rule has the learning rate of the ravine.
    assert rows[0]["learning_rate"] == rows[2]["learning_rate"]
    assert rows[0]["distance_to_a_minimum"] == "nan"
    assert rows[2]["distance_to_a_minimum"] == pytest.approx(
        np.hypot(*rows[2]["final_point"]), rel=1e-5
    )
    assert rows[2]["final_loss"] < 0.2
    assert len(read_metrics(workdir)) == 31
    shown = capsys.readouterr().out
    assert "loss after 30 updates" in shown and "leaves at" in shown and "Adam" in shown


def test_a_way_that_ends_above_its_start_says_so():
    way = landscapes.Way("ravine", "sgd", None, np.zeros((31, 2)), np.linspace(1.0, 2.0, 31))
    assert landscapes.outcome(way) == "2, above its start"
    assert landscapes.outcome(way._replace(losses=way.losses[::-1])) == "1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(surfaces=("hill",)), "unknown surface 'hill'"),
        (dict(surfaces=()), "at least one surface"),
        (dict(tune_unbounded_on="saddle"), "a surface that has a minimum"),
        (dict(num_steps=0), "num_steps must be a whole number"),
        (dict(rules=("adamm",)), "unknown rule 'adamm'"),
    ],
)
def test_bad_configs_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        landscapes.main(make_config(**settings), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
