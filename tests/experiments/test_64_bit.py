"""Programs in 64-bit mode: JAX_ENABLE_X64=1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = {
    "meta_train": (
        "meta_train/lstm_mixture.py",
        {"num_meta_steps": 2, "num_tasks": 2, "validation_problems": 2, "horizon": 20},
    ),
    "compare": (
        "compare/quadratic.py",
        {"num_seeds": 3, "rules": "('adam','lstm_quadratic')", "tuning.num_seeds": 1},
    ),
    "tune": (
        "tune/cnn_mnist.py",
        {
            "task.dataset": "digits",
            "num_trials": 2,
            "num_steps": 5,
            "rules": "('adam','lstm_mnist')",
            "winner_seeds": 2,
        },
    ),
    "landscapes": ("landscapes/surfaces.py", {"num_steps": 5}),
}


@pytest.mark.slow
@pytest.mark.parametrize("program", RUNS)
def test_runs_in_64_bit_mode(program, tmp_path):
    config, changes = RUNS[program]
    command = [sys.executable, "-m", f"experiments.{program}", f"--workdir={tmp_path / 'run'}"]
    command += [f"--config=experiments/configs/{config}"]
    command += [f"--config.{name}={value}" for name, value in changes.items()]
    environment = os.environ | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
