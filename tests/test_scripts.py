"""The scripts, at sizes that show that they work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def benchmark(*args: str) -> list[dict]:
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    run = [sys.executable, str(ROOT / "scripts" / "benchmark"), *args]
    # In a test the interpreter is the right one, whether it is a virtual environment's or not.
    program = f"import runpy, sys; sys.argv = {run[1:]}; sys.base_prefix = ''; "
    program += f"runpy.run_path({run[1]!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_benchmark_of_the_meta_gradient():
    (row,) = benchmark("--quick", "meta_gradient")
    assert list(row) == [
        "case",
        "inner_steps_per_second",
        "bound_inner_steps_per_second",
        "fraction_of_bound",
        "peak_rss_mib",
        "compile_s",
        "device",
    ]
    assert row["case"] == "meta_gradient"
    ratio = row["inner_steps_per_second"] / row["bound_inner_steps_per_second"]
    assert row["fraction_of_bound"] == pytest.approx(ratio, rel=2e-3)
    assert 50 < row["peak_rss_mib"] < 2000
    assert 0 < row["compile_s"] < 100


def test_benchmark_of_a_step_and_of_the_import():
    rows = {row["case"]: row for row in benchmark("--quick", "step", "import")}
    assert set(rows) == {"step", "import"}
    step = rows["step"]
    assert step["lstm"]["state_bytes_per_parameter"] == 4 * 80
    assert step["adam"]["state_bytes"] >= 2 * 4 * step["num_parameters"]
    # At least the state is read and written.
    assert step["lstm"]["bytes_accessed"] >= 2 * step["lstm"]["state_bytes"]
    assert rows["import"]["learned_opt_s"] > 0


@pytest.mark.slow
def test_benchmark_of_a_training_step():
    (row,) = benchmark("--quick", "train_step")
    for net in ("mlp", "conv"):
        assert row[net]["lstm_ms"] > row[net]["adam_ms"] > 0


@pytest.mark.slow
def test_benchmark_of_the_general_rule():
    (row,) = benchmark("--quick", "general")
    assert row["4x64x64"]["ratio_to_muon"] > 0
    assert row["training_step"]["ratio_to_muon"] > 0


@pytest.mark.slow
def test_benchmark_of_a_guard():
    (row,) = benchmark("--quick", "guard")
    sizes = row["784-4-10"]
    for name in ("adam", "muon", "general", "lstm"):
        both = sizes[f"{name}_ms"] + sizes["adam_ms"]
        once = sizes[f"guarded_{name}_ms"] / (both - sizes["sgd_ms"])
        assert sizes[f"{name}_ratio"] == pytest.approx(once, rel=0.05)
        assert sizes[f"{name}_ratio_of_steps"] == pytest.approx(
            sizes[f"guarded_{name}_ms"] / both, rel=0.05
        )


@pytest.mark.slow
def test_benchmark_of_a_conv_net_in_a_compiled_loop():
    (row,) = benchmark("--quick", "conv")
    rates = row["evaluate_steps_per_second"], row["python_loop_steps_per_second"]
    assert min(rates) > 0 and row["ratio"] == pytest.approx(rates[0] / rates[1], rel=2e-3)


@pytest.mark.slow
def test_benchmark_of_a_study():
    (case,) = benchmark("--quick", "study")
    row = case["4 units"]
    assert row["median_relative_difference_of_losses"] < 1e-4
    assert row["speedup"] > 0 and set(row["steps_per_second_by_lanes"]) == {"1", "2", "4"}


def test_benchmark_names_its_cases():
    run = [sys.executable, str(ROOT / "scripts" / "benchmark"), "speed"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown case 'speed'; known: meta_gradient, step" in done.stderr
