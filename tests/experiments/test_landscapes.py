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


def test_a_panel_a_rule_and_surface_with_its_rate(tmp_path, monkeypatch):
    drawn = {}

    def keep(panels, path, *, columns):
        drawn[path.stem] = [(p.surface.name, p.label, p.title, p.side) for p in panels], columns

    monkeypatch.setattr(landscapes.plots, "trajectories", keep)
    landscapes.main(make_config(rules=("sgd", "lstm_quadratic")), tmp_path / "run", None)
    panels, columns = drawn["overview"]
    assert columns == 2 and [panel[:2] for panel in panels] == [
        ("saddle", "SGD"), ("ravine", "SGD"), ("saddle", "lstm_quadratic"),
        ("ravine", "lstm_quadratic"),
    ]  # fmt: skip
    assert [panel[3] for panel in panels] == ["SGD", "", "lstm_quadratic", ""]
    row = json.loads((tmp_path / "run/results.json").read_text())[2]
    titles = [panel[2] for panel in panels]
    assert titles[0].startswith("saddle\nrate ") and "leaves at" in titles[0]
    assert titles[1] == f"ravine\nrate {row['learning_rate']:.2g}: loss {row['final_loss']:.3g}"
    assert titles[2].startswith("as trained: ")
    assert [panel[1] for panel in drawn["ravine"][0]] == ["SGD", "lstm_quadratic"]


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
