"""The leaderboard's page, of runs whose scores are known; and the stability program."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import leaderboard_report, stability
from experiments.common.workdir import write_json

ROOT = Path(__file__).parents[2]
POINTS = 10
LOSSES = {  # rule -> its test loss; Adam's training loss is a straight line
    "adam": 1.0,
    "adamw_cosine": 0.8,
    "muon_cosine": 0.5,
    "general": 0.4,
    "general_default": 0.8,
}


def write_rule(folder, workload, rule, *, test, curves, factor=1, task="task"):
    """An outcome, and cells of two searched seeds and a third one at the first rate."""
    points = POINTS * factor
    lines = [{"task": task, "num_steps": 20, "rule": rule, "adam_factor": factor}]
    for n, curve in enumerate(curves):
        for seed in (0, 1, 2) if n == 0 else (0, 1):
            train = list(curve[: points + 1] if seed < 2 else curve[: POINTS + 1])
            cell = {"rate": 10.0**-n, "weight_decay": 0.0, "seed": seed, "train": train}
            lines.append(cell | {"valid": test + n, "test": test + n, "errors": None})
    path = folder / "cells" / workload / f"{rule}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = {"rate": 1.0, "weight_decay": 0.0, "on_edge": False, "factor": factor}
    outcome |= {"num_steps": 20, "points": POINTS, "state_bytes": 8, "parameter_bytes": 4}
    path = folder / "outcomes" / workload / f"{rule}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, outcome)


def write_board(folder, rules=LOSSES, workloads=("a", "b")):
    line = list(1 - np.arange(4 * POINTS + 1) / (5 * POINTS))
    for workload in workloads:
        for rule in rules:
            curves = [line, [1.0] * len(line)]
            if rule != "adam":  # what Adam has after twice as many steps; and its other rate less
                curves = [[line[2 * POINTS]] * (POINTS + 1), [line[3 * POINTS]] * (POINTS + 1)]
            factor = 4 if rule == "adam" else 1
            write_rule(folder, workload, rule, test=LOSSES[rule], curves=curves, factor=factor)
    (folder / "timing").mkdir()
    times = {"adam": [3.0, 2.0], "general": [4.0, 9.0]}
    write_json(folder / "timing" / "a_1.json", {"workload": "a", "milliseconds": times})


def test_the_page_says_what_the_runs_say(tmp_path):
    write_board(tmp_path / "board")
    summary = leaderboard_report.make_report([tmp_path / "board"], tmp_path / "page")
    general = summary["rules"]["general"]
    assert general["heldout"]["adam"] == pytest.approx((2.5, 2.5, 2.5))
    assert general["heldout"]["muon_cosine"].value == pytest.approx(1.25)
    assert general["better"]["adam"] == 1.0
    # Adam's smoothed line lags behind, so that the loss is reached a little later than at 2 × T.
    assert 2.0 < general["speed_up"].value < 2.2
    assert 3.0 < general["speed_up_by_training"].value < 3.2
    assert summary["rules"]["adam"]["speed_up"].value == pytest.approx(1.0)
    assert general["step_time"] == 2.0 and general["state"] == 2.0
    wanted = summary["requirements"]
    best = "default rate: held-out loss of the best of Adam, AdamW and Muon / its own"
    assert wanted[best].value == pytest.approx(0.5 / 0.8)
    assert wanted["default rate: workloads that end worse than Adam at its best"] == []
    assert wanted["its speed-up / that of Muon, cosine"].value == pytest.approx(1.0)
    page = (tmp_path / "page/README.md").read_text()
    assert "| general | 2." in page and "**0.400 ± 0.000**" in page
    for name in re.findall(r"\]\((\S+?)\)", page):
        assert (tmp_path / "page" / name).exists()
    with np.load(tmp_path / "page/results.npz") as results:
        assert results["train"].shape == (10, 3, POINTS + 1)


def test_curves_have_the_units_of_their_tasks(tmp_path, monkeypatch):
    folder = tmp_path / "board"
    line = list(1 - np.arange(4 * POINTS + 1) / (5 * POINTS))
    for workload, task in (("a", "image_classifier"), ("b", "autoencoder"), ("c", "mine")):
        for rule, factor in (("adam", 4), ("general", 1)):
            curves = [line[: factor * POINTS + 1]] * 2
            write_rule(
                folder, workload, rule, test=1.0, curves=curves, factor=factor, task={"name": task}
            )
    drawn = []
    figures = leaderboard_report.figures
    monkeypatch.setattr(figures, "curves", lambda panels, *a, **k: drawn.extend(panels))
    leaderboard_report.make_report([folder], tmp_path / "page")
    assert drawn == ["a [nats]", "b [mean squared error]", "c"]


def test_work_directories_are_put_together_and_unfinished_rules_named(tmp_path):
    write_board(tmp_path / "one", rules=["adam", "adamw_cosine"])
    write_board(tmp_path / "two", rules=["general"])
    write_board(tmp_path / "three", rules=["muon_cosine"], workloads=["a"])
    folders = [tmp_path / name for name in ("one", "two", "three")]
    summary = leaderboard_report.make_report(folders, tmp_path / "page")
    assert list(summary["rules"]) == ["adam", "adamw_cosine", "general"]
    assert summary["unfinished"] == ["muon_cosine"]


@pytest.mark.parametrize("problem", ["nothing", "no adam", "other settings", "damaged"])
def test_bad_input_is_one_sentence(tmp_path, problem):
    folder = tmp_path / "board"
    folder.mkdir()
    if problem == "no adam":
        write_board(folder, rules=["general"])
    elif problem != "nothing":
        write_board(folder, rules=["adam", "general"])
    if problem == "other settings":
        line = [1.0] * (POINTS + 1)
        write_rule(folder, "a", "general", test=1.0, curves=[line], task="other")
    if problem == "damaged":
        (folder / "outcomes/a/general.json").write_text("{")
    expected = {
        "nothing": "has no finished results; run experiments.leaderboard",
        "no adam": "has no results of adam, which speed-ups are over",
        "other settings": "has other settings of a than other results have",
        "damaged": "general.json is damaged; delete it and run the leaderboard again",
    }
    with pytest.raises((ValueError, OSError), match=expected[problem]):
        leaderboard_report.make_report([folder], tmp_path / "page")
    if problem == "nothing":
        command = [sys.executable, "-m", "experiments.leaderboard_report", f"--workdirs={folder}"]
        command += [f"--output={tmp_path / 'page'}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("error: ") and expected[problem] in done.stderr


def test_stability_counts_what_fails(tmp_path, capsys):
    quadratic = {"task": {"name": "quadratic", "num_dims": 2}, "num_steps": 40}
    config = {
        "workloads": {"quadratic": quadratic},
        "rules": {
            "sound": {"rule": "nag", "rates": (1e-2,)},
            "diverges": {"rule": "nag", "rates": (1e3,)},
            "climbs": {"rule": "adam", "rates": (1e3,)},
        },
        "num_seeds": 3,
        "points": 4,
    }
    stability.main(ConfigDict(config), tmp_path / "s", None)
    found = json.loads((tmp_path / "s/stability.json").read_text())
    counts = {r: [x["quadratic"][k] for k in ("diverged", "ended_above_start")]
              for r, x in found.items()}  # fmt: skip
    assert counts == {"sound": [0, 0], "diverges": [3, 0], "climbs": [0, 3]}
    cells = (tmp_path / "s/cells/quadratic/sound.jsonl").read_bytes()
    stability.main(ConfigDict(config), tmp_path / "s", None)
    assert (tmp_path / "s/cells/quadratic/sound.jsonl").read_bytes() == cells
    write_board(tmp_path / "board")
    leaderboard_report.make_report([tmp_path / "board"], tmp_path / "page", [tmp_path / "s"])
    assert "| diverges | 3 + 0 | 3 of 3 |" in (tmp_path / "page/README.md").read_text()
    two = ConfigDict(config | {"rules": {"a": {"rule": "adam", "rates": (0.1, 1.0)}}})
    with pytest.raises(ValueError, match="must have one rate"):
        stability.main(two, tmp_path / "t", None)
