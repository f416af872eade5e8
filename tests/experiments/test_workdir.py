"""Work directories and how programs end: locks, signals, saves that fail."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments.common.workdir import open_workdir

ROOT = Path(__file__).parents[2]
LONG = {"num_meta_steps": 100_000, "num_tasks": 2, "unroll_length": 5, "horizon": 10}
LONG |= {"curriculum": "()", "validation_problems": 2, "validate_every": 1_000, "save_every": 100}
HOLDER = """
import sys
from ml_collections import ConfigDict
from experiments.common.workdir import open_workdir
open_workdir(sys.argv[1], ConfigDict({}), part=int(sys.argv[2]), parts=int(sys.argv[3]))
print("open", flush=True)
sys.stdin.read()
"""


def train(workdir):
    """Starts a long meta-training and waits for its first checkpoint."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.meta_train",
            "--config=experiments/configs/meta_train/lstm_quadratic.py",
            f"--workdir={workdir}",
            *(f"--config.{name}={value}" for name, value in LONG.items()),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not steps(workdir):
        time.sleep(0.02)
    return process


def steps(workdir):
    return sorted(int(p.name[5:]) for p in (workdir / "checkpoints").glob("step_????????"))


def hold(workdir, part=0, parts=1):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir), str(part), str(parts)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "open\n"
    return process


def test_a_second_process_is_refused_until_the_first_ends_however_it_ends(tmp_path):
    holder = hold(tmp_path)
    try:
        before = {p: p.read_bytes() for p in tmp_path.rglob("*")}
        with pytest.raises(BlockingIOError, match=f"in use by process {holder.pid} on "):
            open_workdir(tmp_path, ConfigDict({}))
        assert {p: p.read_bytes() for p in tmp_path.rglob("*")} == before
        with pytest.raises(BlockingIOError, match="in use by"):  # it does what a part would
            open_workdir(tmp_path, ConfigDict({}), part=1, parts=2)
    finally:
        holder.kill()
        holder.communicate()
    open_workdir(tmp_path, ConfigDict({}))
    open_workdir(tmp_path, ConfigDict({}))  # by the process that has it already


def test_parts_of_a_run_go_on_side_by_side(tmp_path):
    holder = hold(tmp_path, part=0, parts=2)
    try:
        with pytest.raises(BlockingIOError, match=f"in use by process {holder.pid} on "):
            open_workdir(tmp_path, ConfigDict({}), part=0, parts=2)
        with pytest.raises(BlockingIOError, match="in use by another process"):  # the whole run
            open_workdir(tmp_path, ConfigDict({}))
        open_workdir(tmp_path, ConfigDict({}), part=1, parts=2)
    finally:
        holder.kill()
        holder.communicate()


def test_sigterm_saves_and_ends_with_143_and_the_first_of_two_loses_nothing(tmp_path):
    process = train(tmp_path)
    with pytest.raises(BlockingIOError, match=f"process {process.pid} on "):
        open_workdir(tmp_path, ConfigDict({}))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "the same command goes on from the last checkpoint" in errors
    assert steps(tmp_path)[-1] % LONG["save_every"]  # saved where it stood
    assert "Traceback" not in errors


def test_a_failed_save_ends_the_run_at_once_with_one_sentence(tmp_path):
    process = train(tmp_path)
    kept = (tmp_path / "checkpoints").rename(tmp_path / "kept")
    (tmp_path / "checkpoints").write_text("in the way")
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1, errors
    assert errors.splitlines()[-1].startswith("error: checkpoint ")
    assert "could not be written" in errors
    assert list(kept.glob("step_????????"))
