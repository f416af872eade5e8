"""What all programs share: encodings of the output, paths, seeds."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from experiments import compare, inclusion, landscapes, study_report, transfer, tune
from experiments.common import meta_config
from experiments.common.launch import check_fields
from experiments.common.lookup import expand
from learned_opt.studies.spaces import Range, SearchSpace
from learned_opt.tasks import datasets

ROOT = Path(__file__).parents[2]
PROGRAM = """
from rich.table import Table
from experiments.common.comparison import print_tables
from experiments.common.launch import launch
from experiments.common.workdir import open_workdir
from learned_opt.metrics import MetricsWriter, read_metrics

def experiment(config, workdir, data_dir):
    workdir = open_workdir(workdir, config)
    table = Table("rule", title="θ: 1 ± 2")
    print_tables([table], workdir / "tables.txt")
    with MetricsWriter(workdir) as writer:
        writer.write(0, {"θ": 1.0})
    assert read_metrics(workdir) == [{"step": 0, "θ": 1.0}]
    print(f"θ in {workdir}, data in {data_dir}")

launch(experiment)
"""


def run(*arguments, **changes):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | changes,
        capture_output=True,
        text=True,
    )


def test_output_in_ascii_and_paths_with_a_tilde(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    done = run(
        *("-X", "utf8=0", str(program), "--config=experiments/configs/compare/digits.py"),
        *("--workdir=~/results", "--data_dir=~/data"),
        PYTHONIOENCODING="ascii",
        LC_ALL="C",
        PYTHONCOERCECLOCALE="0",
        HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert f"? in {tmp_path}/results, data in {tmp_path}/data" in done.stdout
    tables = (tmp_path / "results" / "tables.txt").read_text(encoding="utf-8")
    assert "θ: 1 ± 2" in tables
    assert run("scripts/benchmark", "--help", PYTHONIOENCODING="ascii").returncode == 0


def test_the_report_of_studies_is_told_in_ascii(monkeypatch, tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    arrow = {"special": "sgd", "general": "momentum", "marks": "", "answer": "better"}
    found = {"arrows": {"θ": {"sgd ⊆ momentum": arrow}}, "reversals": {}}
    monkeypatch.setattr(study_report, "make_report", lambda workdirs, output: found)
    monkeypatch.setattr(study_report, "WORKDIRS", SimpleNamespace(value=[str(tmp_path)]))
    monkeypatch.setattr(study_report, "OUTPUT", SimpleNamespace(value=str(tmp_path)))
    study_report.main(["study_report"])
    stream.flush()
    assert b"?: SGD ? Momentum: the general rule is better" in stream.buffer.getvalue()


def test_a_user_without_a_home_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without an entry in passwd
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match="~/x: this user has no home folder"):
        expand("~/x")
    with pytest.raises(FileNotFoundError, match="this user has none; set data_dir"):
        datasets.prepare_dataset("mnist")
    assert expand("/a/b") == Path("/a/b")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40, True])
def test_seeds_that_are_none_are_refused_everywhere(seed):
    message = f"seed must be a whole number from 0 to 4294967295, got {seed}"
    for program in (compare, inclusion, landscapes, meta_config, transfer, tune):
        with pytest.raises(ValueError, match=message):
            check_fields(ConfigDict({"seed": seed}), program.DEFAULTS)
    space = SearchSpace("sgd", {"learning_rate": Range(0.1, 1.0)})
    with pytest.raises(ValueError, match=message):
        space.points(0, 1, seed=seed)
