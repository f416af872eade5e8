import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import transfer
from experiments.common.build import make_task
from experiments.common.comparison import Result


def make_config(**settings):
    tuning = {"num_steps": (2,), "num_seeds": 1, "low": 0.1, "high": 0.1, "max_extensions": 0}
    defaults = {
        "task": {
            "name": "image_classifier",
            "dataset": "digits",
            "hidden_sizes": (3,),
            "batch_size": 8,
        },
        "problems": {"two layers": {"hidden_sizes": (3, 3)}},
        "rules": ("sgd",),
        "num_seeds": 2,
        "num_steps": 2,
        "report_steps": (2,),
        "tuning": tuning,
        "sweep": {
            "widths": (2, 4),
            "layers": (1,),
            "num_steps": 2,
            "num_seeds": 2,
            "tuning": tuning,
        },
    }
    return ConfigDict(defaults | settings)


def test_transfer(tmp_path, capsys):
    transfer.main(make_config(), tmp_path / "run", None)
    for name in ("config.json", "versions.json", "metrics.jsonl", "losses.png", "widths.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["problems"]) == ["two layers"]
    assert list(results["sweep"]) == ["1 x 2", "1 x 4"]
    for rows in (*results["problems"].values(), *results["sweep"].values()):
        assert [row["label"] for row in rows] == ["sgd"]
        assert all(0 < row["loss"]["2"]["mean"] < 5 for row in rows)
    row = results["problems"]["two layers"][0]
    assert set(row["test"]["2"]) == {"loss", "accuracy"}
    shown = capsys.readouterr().out
    for text in ("training loss at step 2", "two layers", "SGD", "4 units", "widths.png"):
        assert text in shown


def test_runs_that_end_above_their_start_are_shown():
    loss = {"mean": 3.0, "standard_error": 0.1}
    summary = {"loss": {"2": loss}, "num_seeds": 9, "ended_above_start": 7}
    result = Result("sgd", summary, np.ones((9, 3)))
    table = transfer.problem_table({"wide": [result]}, 2)
    assert list(table.columns[1].cells) == ["3.00 ± 0.10 (7 of 9 ended above start)"]
    table = transfer.sweep_table(
        {(1, 5): [result]}, ConfigDict({"num_steps": 2, "widths": (5,)}), 1
    )
    assert list(table.columns[1].cells) == ["3.000 (7 of 9 ended above start)"]


def test_variants_share_the_data():
    base = make_task(make_config().task)
    other = transfer.variant(base, {"hidden_sizes": (7, 5), "activation": "relu"})
    np.testing.assert_array_equal(other.images["train"], base.images["train"])
    assert (other.network.hidden_sizes, other.network.activation) == ((7, 5), "relu")
    assert (other.batch_size, other.max_pixel) == (8, base.max_pixel)
    np.testing.assert_array_equal(other.labels["valid"], base.labels["valid"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(problems={"x": {"batch_size": 3}}), "not in .'batch_size'."),
        (dict(problems={"x": {"activation": "cube"}}), "unknown activation 'cube'"),
        (dict(problems={"x": {"hidden_sizes": (0,)}}), "hidden_sizes must be positive"),
        (dict(task={"name": "quadratic"}), "needs an image_classifier"),
        (dict(sweep={"widths": (0,)}), "sweep.widths must be whole numbers above 0"),
        (dict(sweep={"depth": 1}), "unknown config fields .'depth'."),
    ],
)
def test_bad_configs_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        transfer.main(make_config(**settings), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
