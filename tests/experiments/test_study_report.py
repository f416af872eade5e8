"""The report of tuning studies: its numbers from the raw trials, and its page."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import tune
from experiments.study_report import make_report
from learned_opt.studies import read_trials_table
from learned_opt.studies.spaces import load_space

ROOT = Path(__file__).parents[2]
RULES = ("sgd", "momentum", "adam")


def run_studies(workdir, workload, task, rules, **settings):
    config = {
        "workload": workload,
        "task": task,
        "rules": rules,
        "spaces": str(ROOT / "experiments/spaces" / workload),
        "levels": ("learning_rate", "momentum"),
        "num_trials": 8,
        "num_steps": 20,
        "segments": 4,
        "lanes": 8,
        "winner_seeds": 4,
    }
    tune.main(ConfigDict(config | settings), workdir, None)
    return workdir


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    digits = {"name": "image_classifier", "dataset": "digits", "hidden_sizes": (4,)}
    quadratic = {"name": "quadratic", "num_dims": 3}
    return [
        run_studies(folder / "a", "mlp_digits", digits, (*RULES, "lstm_mnist")),
        run_studies(folder / "b", "quadratics", quadratic, RULES, metric="loss", num_seeds=4),
    ]


@pytest.fixture(scope="module")
def report(workdirs, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    return make_report(workdirs, output), output


def trials(workdir, level, rule):
    lines = (workdir / "studies" / level / rule / "trials_0.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_numbers_are_those_of_the_trials(report, workdirs):
    summary, _ = report
    rng = np.random.default_rng(0)
    for workdir, workload in zip(workdirs, ("mlp_digits", "quadratics"), strict=True):
        best = {}
        for rule in ("momentum", "adam"):
            found = trials(workdir, "momentum", rule)
            if workload == "mlp_digits":
                valid = np.array([1 - t["heldout"]["valid"]["accuracy"][-1] for t in found])
                test = np.array([1 - t["reported"]["accuracy"] for t in found])
            else:
                valid = np.array([t["heldout"]["valid"]["loss"][-1] or np.inf for t in found])
                test = np.array([t["reported"]["loss"] or np.inf for t in found])
            drawn = rng.integers(0, 8, (20_000, 8))
            best[rule] = test[drawn[np.arange(20_000), np.argmin(valid[drawn], axis=1)]]
        median, low, high = summary["arrows"][workload]["momentum ⊆ adam"]["tuning"]
        difference = best["adam"] - best["momentum"]
        for share, value in ((0.5, median), (0.05, low), (0.95, high)):
            assert np.mean(difference < value - 1e-9) - 0.02 <= share
            assert share <= np.mean(difference <= value + 1e-9) + 0.02
        assert summary["arrows"][workload]["momentum ⊆ adam"]["answer"] in (
            "never worse",
            "unclear",
            "worse",
        )


def test_smaller_spaces_are_not_run_twice(workdirs):
    # SGD has no momentum: its study of the learning rate counts on the next level too.
    assert not (workdirs[0] / "studies/momentum/sgd").exists()
    results = json.loads((workdirs[0] / "results.json").read_text())["levels"]
    assert results["momentum"]["sgd"] == results["learning_rate"]["sgd"]
    assert "lstm_mnist" in results["momentum"] and "lstm_mnist" not in results["learning_rate"]


def test_the_page_is_self_contained_and_the_trials_lie_beside_it(report, workdirs):
    _, output = report
    page = (output / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    for words in ("Is a more general rule", "Do rankings change", "Steps and time", "lstm_mnist"):
        assert words in page
    # Digits: 3 rules, and 2 again with momentum, and the learned rule; quadratics the same less it.
    table = read_trials_table(output / "trials.npz")
    assert len(table) == (3 + 2 + 1) + (3 + 2)
    for (workload, level, rule), found in table.items():
        workdir = workdirs[("mlp_digits", "quadratics").index(workload)]
        assert list(found.values()) == trials(workdir, level, rule)
    assert json.loads((output / "summary.json").read_text())["targets"]["quadratics"]["target"] > 0


def test_the_suggested_space_can_be_searched_next(workdirs):
    paths = list((workdirs[0] / "suggested_spaces/momentum").glob("*.json"))
    assert {path.stem for path in paths} == {"momentum", "adam"}
    for path in paths:
        assert load_space(path).rule == path.stem


def test_bad_input_is_refused(workdirs, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no results.json; run experiments.tune"):
        make_report([tmp_path], tmp_path / "out")
    with pytest.raises(ValueError, match="each workload may be there once"):
        make_report([workdirs[0], workdirs[0]], tmp_path / "out")
    (tmp_path / "results.json").write_text('{"levels": {"final"')
    with pytest.raises(ValueError, match="results.json is damaged"):
        make_report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_as_its_users_start_it(workdirs, tmp_path):
    command = [sys.executable, "-m", "experiments.study_report", f"--output={tmp_path / 'r'}"]
    run = subprocess.run(
        [*command, f"--workdirs={workdirs[0]},{workdirs[1]}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "momentum ⊆ adam: the general rule is" in run.stdout
    run = subprocess.run(
        [*command, f"--workdirs={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1 and run.stderr.startswith("error: ")
