"""The meta_train program as its users start it."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags

from experiments import meta_train
from experiments.common import meta_setup
from experiments.common.launch import check_fields
from experiments.common.meta_config import DEFAULTS
from experiments.common.workdir import open_workdir
from experiments.configs.meta_train import lstm_mnist, lstm_quadratic
from learned_opt.meta_training import init_state, redraw_problems
from learned_opt.metrics import read_metrics
from learned_opt.tasks import Quadratic
from learned_opt.theta_files import load_theta
from learned_opt.update_rules import lstm, sgd

ROOT = Path(__file__).parents[2]
TINY = {
    "num_meta_steps": 12,
    "curriculum": "((6, {'unroll_length': 10}), (8, {'learning_rate': 1e-3, 'weight_power': 1.0}))",
    "num_tasks": 4,
    "unroll_length": 5,
    "horizon": 10,
    "validate_every": 4,
    "validation_problems": 8,
    "log_every": 2,
    "save_every": 2,
    "rule.hidden_sizes": "(3,)",
    "task.num_dims": 3,
}


def command(workdir, *extra, config="lstm_quadratic", **changes):
    settings = {k: v for k, v in (TINY | changes).items() if v is not None}
    return [
        sys.executable,
        "-m",
        "experiments.meta_train",
        f"--config=experiments/configs/meta_train/{config}.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
        *extra,
    ]


def environment(**changes):
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | changes


def start(*args, **kwargs):
    return subprocess.run(
        command(*args, **kwargs), cwd=ROOT, env=environment(), capture_output=True, text=True
    )


def theta_bits(workdir):
    theta = load_theta(Path(workdir) / "theta.npz")
    return np.concatenate([np.ravel(x) for x in _leaves(theta)]).tobytes()


def _leaves(tree):
    return [x for v in tree.values() for x in _leaves(v)] if isinstance(tree, dict) else [tree]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    run = start(workdir)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "best validation score" in run.stdout
    return workdir


def test_leaves_everything_behind(finished):
    for name in ("theta.npz", "results.json", "config.json", "versions.json", "metrics.jsonl"):
        assert (finished / name).stat().st_size > 0
    assert (finished / "meta_training.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished / "tensorboard").iterdir())
    results = json.loads((finished / "results.json").read_text())
    assert results["num_meta_steps"] == 12
    assert results["inner_steps"] == 6 * 4 * 5 + 6 * 4 * 10
    records = read_metrics(finished)
    assert [r["step"] for r in records if "meta_loss" in r] == [2, 4, 6, 8, 10, 12]
    scores = {r["step"]: r["validation_score"] for r in records if "validation_score" in r}
    assert list(scores) == [4, 6, 8, 12]  # every 4 updates, and at the end of each stage
    assert results["best_validation_score"] == min(scores.values())
    above = {r["step"]: r["ended_above_start"] for r in records if "validation_score" in r}
    assert above.keys() == scores.keys() and all(0 <= n <= 8 for n in above.values())
    assert results["ended_above_start"] == above[results["best_step"]]


def test_validation_counts_the_runs_that_end_above_their_start():
    config = lstm_quadratic.get_config()
    config.update(validation_problems=8, validation_window=1)
    tasks = {"": Quadratic(3)}
    for rate, number in [(0.01, 0), (-0.01, 8)]:
        validate = meta_setup._validation(sgd(), tasks, check_fields(config, DEFAULTS))
        score, metrics = validate({"learning_rate": jnp.float32(rate)})
        assert np.isfinite(score) and metrics == {"ended_above_start": number}


def test_killed_at_any_moment_it_ends_with_the_same_bits(finished, tmp_path):
    workdir = tmp_path / "killed"
    checkpoints, steps_at_kill = workdir / "checkpoints", []
    for wanted in (2, 8, 10):  # kill -9 soon after these checkpoints appear
        process = subprocess.Popen(
            command(workdir), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
        )
        while process.poll() is None and _newest(checkpoints) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps_at_kill.append(_newest(checkpoints))
    # A checkpoint cut in half: named, skipped, and the one before it used.
    newest = max(checkpoints.glob("step_????????"))
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    run = start(workdir)
    assert run.returncode == 0, run.stderr[-3000:]
    assert newest.name in run.stderr
    assert theta_bits(workdir) == theta_bits(finished)
    without_clock = [
        [
            {k: v for k, v in r.items() if k not in ("seconds", "inner_steps_per_second")}
            for r in read_metrics(d)
        ]
        for d in (workdir, finished)
    ]
    assert without_clock[0] == without_clock[1]
    assert steps_at_kill[0] >= 2


@pytest.mark.slow
def test_a_mixture_killed_five_times_ends_with_the_same_bits(tmp_path):
    settings = {
        "config": "lstm_mixture",
        "task.num_dims": None,
        "curriculum": None,
        "num_tasks": 2,
        "validation_problems": 2,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = start(whole, **settings)
    assert run.returncode == 0, run.stderr[-3000:]
    names = {name for record in read_metrics(whole) for name in record}
    for part in ("mlp", "conv", "quadratics"):
        assert {f"{part}/meta_loss", f"{part}/validation_loss"} <= names
        assert f"{part}/ended_above_start" in names
    _kill_often(killed, settings)
    assert theta_bits(killed) == theta_bits(whole)


@pytest.mark.slow
def test_two_lstms_on_growing_horizons_killed_five_times_end_with_the_same_bits(tmp_path):
    curriculum = "((4, {'horizon': 20}), (8, {'horizon': 40, 'unroll_length': 10}))"
    settings = {
        "config": "lstm_cifar10",
        "task.num_dims": None,
        "rule.hidden_sizes": None,
        "task.task.dataset": "digits",
        "task.task.side": 8,
        "task.task.batch_size": 4,
        "curriculum": curriculum,
        "probe": "()",
        "num_tasks": 2,
        "validation_problems": 2,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = start(whole, **settings)
    assert run.returncode == 0, run.stderr[-3000:]
    _kill_often(killed, settings)
    assert theta_bits(killed) == theta_bits(whole)


def _kill_often(workdir, settings):
    """Five kill −9, soon after checkpoints appear, and then a run to the end."""
    for wanted in (2, 4, 6, 8, 10):
        process = subprocess.Popen(
            command(workdir, **settings), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
        )
        while process.poll() is None and _newest(workdir / "checkpoints") < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(workdir, **settings).returncode == 0


def _newest(checkpoints):
    steps = [int(p.name[5:]) for p in checkpoints.glob("step_????????")]
    return max(steps, default=0)


def test_the_same_command_on_a_finished_run_changes_nothing(finished):
    before = theta_bits(finished)
    assert start(finished).returncode == 0
    assert theta_bits(finished) == before


def test_another_config_is_refused_and_nothing_is_lost(finished):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    run = start(finished, learning_rate=0.5)
    assert run.returncode == 1
    assert "belongs to another config: learning_rate is 0.003 there and 0.5 here" in run.stderr
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def config_of(**changes):
    config = lstm_quadratic.get_config()
    for name, value in (TINY | changes).items():
        node, *rest = name.split(".")
        value = ast.literal_eval(value) if isinstance(value, str) and "(" in value else value
        if rest:
            config[node][rest[0]] = value
        else:
            config[node] = value
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule.name": "ltsm"}, "unknown rule 'ltsm'; known: sgd"),
        ({"rule.sizes": (3,)}, "lstm has no argument sizes"),
        ({"task.name": "quadratics"}, "unknown task 'quadratics'; known: quadratic"),
        ({"task.family": "cubic"}, "cubic"),
        ({"rule.preprocess": "log"}, "unknown preprocess 'log'"),
        ({"num_tasks": 0}, "num_tasks must be a whole number of at least 1, got 0"),
        ({"num_meta_steps": -5}, "num_meta_steps must be a whole number of at least 1, got -5"),
        ({"horizon": 12}, r"horizon \(12\) must be a multiple of unroll_length \(5\)"),
        ({"task.num_dims": 0}, "num_dims"),
        ({"rule.hidden_sizes": (0,)}, "hidden_sizes must be positive integers"),
        ({"curriculum": ((50, {"unroll_length": 10}),)}, "between 0 and num_meta_steps"),
        (
            {"curriculum": ((6, {"seed": 1}),)},
            "curriculum cannot change seed; it can horizon, unroll_length",
        ),
        ({"curriculum": ((6, 10),)}, r"curriculum must be pairs \(step, \{field: value, …\}\)"),
        ({"curriculum": ((6, {"learning_rate": 0.0}),)}, "learning_rate must be positive"),
        ({"weight_power": -1.0}, "weight_power must be finite and not negative"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"num_devices": 3}, r"num_devices \(3\) must"),
        ({"num_taskz": 3}, r"unknown config fields \['num_taskz'\]; known: \['block_size'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(changes, message, tmp_path):
    flags.FLAGS.mark_as_parsed()
    with pytest.raises(ValueError, match=message):
        meta_train.main(config_of(**changes), tmp_path / "run", None)
    assert not (tmp_path / "run").exists()


def test_errors_end_in_one_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a directory")
    for arguments, message, code in [
        (command(file), "is a file, not a directory", 1),
        (command(tmp_path / "run", num_taskz=3), "unknown config fields ['num_taskz']", 1),
        (command(tmp_path / "run", config="none"), "none.py", 2),
        (command(tmp_path / "run")[:4], "workdir", 1),
    ]:
        run = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True)
        assert message in run.stderr, run.stderr[-2000:]
        assert "Traceback" not in run.stderr
        assert run.returncode == code
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_work_directory_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be written to"):
        open_workdir(tmp_path / "run", config_of())


def test_growing_horizons_start_with_fresh_problems():
    config = config_of(curriculum=((4, {"horizon": 20}), (8, {"unroll_length": 10})))
    stages = meta_setup._stages(meta_setup._checked(config))
    assert [stage.settings.horizon for stage in stages] == [10, 20, 20]
    assert [stage.redraws for stage in stages] == [False, True, False]
    estimators = [
        meta_setup._make_estimator(stage.settings, {"": Quadratic(3)}, lstm((2,)), None)
        for stage in stages
    ]
    state = init_state(estimators[0], optax.sgd(0.0), lstm((2,)), jax.random.key(0))
    after = redraw_problems(estimators[1], state)
    problems, redrawn = state.meta.estimator_state, after.meta.estimator_state
    assert problems.inner_step.tolist() == [0, 0, 5, 5]  # staggered over 10 steps
    assert redrawn.inner_step.tolist() == [0, 5, 10, 15]  # over 20
    assert not np.any(problems.inner.instance["W"] == redrawn.inner.instance["W"])
    chex.assert_trees_all_equal(after.meta.theta, state.meta.theta)
    with pytest.raises(ValueError, match=r"horizon \(12\) must be a multiple of unroll_length"):
        config = config_of(curriculum=((4, {"horizon": 12}),))
        for stage in meta_setup._stages(meta_setup._checked(config)):
            meta_setup._make_estimator(stage.settings, {"": Quadratic(3)}, lstm((2,)), None)


def test_the_work_of_a_curriculum_is_its_inner_steps():
    stages = meta_setup._stages(meta_setup._checked(lstm_mnist.get_config()))
    done = [meta_setup.unrolled(stages, step) for step in (0, 5_000, 5_001, 9_800)]
    assert done == [0, 100_000, 100_100, 580_000]  # of 4 problems: 2.32 million
