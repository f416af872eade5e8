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
        assert summary["arrows"][workload]["momentum ⊆ adam"]["answer"] in summary["verdicts"]


@pytest.fixture(scope="module")
def initial(tmp_path_factory):
    """A study in an initial space, with an edge: SGD's best rate is at the end of a range."""
    folder = tmp_path_factory.mktemp("initial")
    spaces = folder / "spaces/initial"
    spaces.mkdir(parents=True)
    for rule in ("sgd", "momentum"):
        source = ROOT / "experiments/spaces/quadratics/initial" / f"{rule}.json"
        space = json.loads(source.read_text())
        if rule == "sgd":
            space["parameters"]["learning_rate"] |= {"low": 1e-9, "high": 1e-8}
        (spaces / f"{rule}.json").write_text(json.dumps(space))
    quadratic = {"name": "quadratic", "num_dims": 3}
    settings = {"levels": ("initial",), "metric": "loss", "spaces": str(folder / "spaces")}
    return run_studies(
        folder / "a", "quadratics", quadratic, ("sgd", "momentum"), num_trials=32, **settings
    )


def test_numbers_of_initial_spaces_and_edges_are_marked(initial, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n\n<!-- winners -->\nold\n<!-- end -->\n\nkept\n")
    summary = make_report([initial], tmp_path)
    sgd, momentum = (summary["workloads"]["quadratics"][rule] for rule in ("sgd", "momentum"))
    assert sgd["space"] == momentum["space"] == "initial"
    assert sgd["best_trial_on_edge"]["learning_rate"] == "high"
    assert summary["arrows"]["quadratics"]["sgd ⊆ momentum"]["marks"] == "†‡"
    page = (tmp_path / "report.html").read_text()
    cell = re.search(r"<td>([^<]*±[^<]*)</td>", page)[1]
    assert cell.endswith("†‡")  # SGD's, on the edge
    assert "<b>" not in page.split("<table>")[1].split("</table>")[0]  # no best among such
    assert re.search(r"<i>[^<]*±[^<]*</i> †", page)  # Momentum's
    assert "quadratics †‡: test loss" in page  # a figure's title
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("# Mine\n\n<!-- winners -->\n\n| workload | SGD | Momentum |")
    assert readme.endswith("<!-- end -->\n\nkept\n") and "old" not in readme
    assert re.search(r"\| [\d.]+ ± [\d.e-]+ †‡ \| \*[\d.]+ ± [\d.e-]+\* †‡? \| – \|", readme)


def test_a_part_of_a_page_that_no_command_makes(initial, tmp_path):
    (tmp_path / "README.md").write_text("<!-- losers -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="has the part losers; a report has winners, marks"):
        make_report([initial], tmp_path)


def test_smaller_spaces_are_not_run_twice(workdirs):
    # SGD has no momentum: its study of the learning rate counts on the next level too.
    assert not (workdirs[0] / "studies/momentum/sgd").exists()
    results = json.loads((workdirs[0] / "results.json").read_text())["levels"]
    assert results["momentum"]["sgd"] == results["learning_rate"]["sgd"]
    assert "lstm_mnist" in results["momentum"] and "lstm_mnist" not in results["learning_rate"]


def test_the_page_is_self_contained_and_the_trials_lie_beside_it(report, workdirs):
    _, output = report
    page = (output / "report.html").read_text()
    sources = re.findall(r'src="([^"]{0,40})', page)
    assert sources and all(source.startswith("data:image/svg+xml,<svg ") for source in sources)
    links = re.findall(r'href="([^"]*)"', page)
    assert {"trials.npz", "summary.json"} <= set(links)  # linked, not inlined
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert len(anchors) == 6 and anchors == set(re.findall(r'<h2 id="([^"]*)"', page))
    for words in ("Is a more general rule", "Do rankings change", "Steps and time", "lstm_mnist"):
        assert words in page
    assert "never worse" not in page
    # 150 kB a workload of 50 trials; of these 8 trials less.
    assert len(page.encode()) < 250_000
    assert {path.name for path in output.iterdir()} == {
        "report.html", "summary.json", "trials.npz", "best_of_k.svg", "arrows.svg", "rankings.svg",
    }  # fmt: skip
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
    assert "Momentum ⊆ Adam" in run.stdout
    run = subprocess.run(
        [*command, f"--workdirs={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1 and run.stderr.startswith("error: ")
