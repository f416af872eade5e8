"""The file of many studies' trials against the trials that were written."""

import json
from pathlib import Path

import numpy as np
import pytest

from learned_opt import studies
from learned_opt.studies import read_trials_table, write_trials_table

ROOT = Path(__file__).parents[2]


def trial(index, point, losses, valid, reported, diverged_at=None):
    return {
        "index": index,
        "point": point,
        "hyperparameters": {name.split("/")[0]: 3 * value for name, value in point.items()},
        "losses": losses,
        "heldout": {"valid": valid},
        "reported": reported,
        "diverged_at": diverged_at,
    }


# Studies of other rules, metrics and numbers of segments; numbers that are exact in float32.
STUDIES = {
    ("quadratics", "final", "sgd"): {
        0: trial(0, {"learning_rate": 0.1}, [4.0, 2.5], {"loss": [3.0, 2.0]}, {"loss": 2.25}),
        3: trial(3, {"learning_rate": 1e7}, [None, None], {"loss": [1.0, None]}, {"loss": None}, 7),
    },
    ("mlp", "final", "adam"): {
        0: trial(
            0,
            {"eps": 1e-9, "learning_rate/eps": 1 / 3},
            [1.0, 0.5, 0.25],
            {"loss": [1.0, 1.0, None], "accuracy": [0.5, 0.0, 1.0]},
            {"loss": 0.125, "accuracy": 0.75},
        )
    },
    ("mlp", "learned", "lstm_mnist"): {
        1: trial(1, {}, [2.0], {"loss": [2.0], "accuracy": [0.25]}, {"loss": 2, "accuracy": 0.0}, 0)
    },
}


def test_what_is_read_is_what_was_written(tmp_path):
    path = tmp_path / "trials.npz"
    write_trials_table(path, STUDIES)
    found = read_trials_table(path)
    assert found == STUDIES
    assert list(found) == list(STUDIES)
    name = ("mlp", "final", "adam")
    np.testing.assert_array_equal(studies.scores(found[name], metric="error"), [0.0])


def test_the_columns_are_as_documented(tmp_path):
    write_trials_table(tmp_path / "trials.npz", STUDIES)
    with np.load(tmp_path / "trials.npz", allow_pickle=False) as file:
        columns = dict(file)
    assert columns["rule"].tolist() == ["sgd", "adam", "lstm_mnist"]
    assert columns["study"].tolist() == [0, 0, 1, 2]
    assert columns["diverged_at"].tolist() == [-1, 7, -1, 0]
    np.testing.assert_array_equal(columns["point:learning_rate"], [0.1, 1e7, np.inf, np.inf])
    np.testing.assert_array_equal(columns["reported:loss"], [2.25, np.nan, 0.125, 2.0])
    expected = [[np.inf] * 3, [np.inf] * 3, [0.5, 0.0, 1.0], [0.25, np.inf, np.inf]]
    np.testing.assert_array_equal(columns["heldout:valid:accuracy"], expected)
    assert columns["losses"].dtype == np.float32
    assert columns["hyperparameters:eps"].dtype == np.float64


def test_the_committed_table_gives_the_committed_winners():
    """The best of each study by its validation split are those of which the summary tells."""
    table = read_trials_table(ROOT / "docs/studies/trials.npz")
    summary = json.loads((ROOT / "docs/studies/summary.json").read_text())["workloads"]
    assert {workload for workload, _, _ in table} == set(summary)
    for (workload, level, rule), trials in table.items():
        assert level and len(trials) == summary[workload][rule]["num_trials"]
        diverged = np.mean(~np.isfinite(studies.scores(trials)))
        if level in ("initial", "final", "learned"):
            assert diverged == pytest.approx(summary[workload][rule]["divergence_rate"])


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no trials to write"):
        write_trials_table(tmp_path / "trials.npz", {("a", "final", "sgd"): {}})
    colon = {0: trial(0, {"a:b": 1.0}, [1.0], {"loss": [1.0]}, {"loss": 1.0})}
    with pytest.raises(ValueError, match="must not have a colon, got a:b"):
        write_trials_table(tmp_path / "trials.npz", {("a", "final", "sgd"): colon})
    with pytest.raises(FileNotFoundError):
        read_trials_table(tmp_path / "none.npz")
    for content in (b"", b"index,rule\n", (json.dumps({"index": 0}) + "\n").encode()):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ValueError, match="bad.npz is no table of trials"):
            read_trials_table(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", values=np.arange(3))
    with pytest.raises(ValueError, match="other.npz is no table of trials"):
        read_trials_table(tmp_path / "other.npz")
