"""What the case `study` of `scripts/benchmark` measures."""

import functools
import json
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.studies import run_lanes, run_study
from learned_opt.studies.spaces import load_space
from learned_opt.unroll import init_inner, inner_step
from learned_opt.update_rules import hierarchy

ROOT = pathlib.Path(__file__).resolve().parent.parent


def measure(task, quick):
    """Times a study of Adam on a task, and the same trials in Python loops."""
    num_trials, num_steps, segments = (4, 20, 2) if quick else (64, 1000, 10)
    space = load_space(ROOT / "experiments/spaces/mlp_fashion_mnist/initial/adam.json")
    thetas = [space.theta(p, budget=num_steps) for p in space.points(0, num_trials, seed=0)]
    rule = hierarchy.adam()
    settings = dict(num_trials=num_trials, num_steps=num_steps, segments=segments)
    seconds, losses, lanes = time_study(rule, space, task, settings)
    settings = dict(num_steps=num_steps, segments=segments, key=jax.random.key(0))
    loop_seconds, loop_losses = time_loop(rule, thetas, task, compile_each=False, **settings)
    compiling_seconds, _ = time_loop(rule, thetas, task, compile_each=True, **settings)
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= num_trials]
    both = np.isfinite(losses) & np.isfinite(loop_losses)
    return {
        "num_trials": num_trials,
        "num_steps": num_steps,
        "lanes": lanes,
        "study_s": seconds,
        "loop_s": loop_seconds,
        "compiling_loop_s": compiling_seconds,
        "speedup": loop_seconds / seconds,
        "speedup_over_compiling_loop": compiling_seconds / seconds,
        "median_relative_difference_of_losses": float(
            np.median(np.abs(losses - loop_losses)[both] / loop_losses[both])
        ),
        "steps_per_second_by_lanes": {
            n: steps_per_second(rule, thetas[:n], task, num_steps // 10) for n in counts
        },
    }


def lanes_mesh(lanes):
    """As many devices as share the lanes evenly; None for one."""
    count = max(n for n in range(1, jax.device_count() + 1) if lanes % n == 0)
    return jax.make_mesh((count,), ("lanes",), devices=jax.devices()[:count]) if count > 1 else None


def time_study(rule, space, task, settings):
    """Seconds, files and compilation included; the mean loss of each trial; the lanes."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        mesh = lanes_mesh(settings["num_trials"])
        trials = run_study(
            rule, space, task, folder, workload="benchmark", report=None, mesh=mesh, **settings
        )
        seconds = time.perf_counter() - start
        study_file = pathlib.Path(folder) / "study.json"
        lanes = json.loads(study_file.read_text(encoding="utf-8"))["lanes"]
    losses = [[np.nan if x is None else x for x in t["losses"]] for t in trials.values()]
    return seconds, np.mean(losses, axis=1), lanes


def time_loop(rule, thetas, task, *, num_steps, segments, key, compile_each):
    """Seconds and mean losses of the same trials, one after another, each step a jitted call."""
    key_inner, key_run = jax.random.split(key)
    measure = jax.jit(lambda task, params: task.evaluate(params, (), "valid"))

    def one_step(theta, task, state, key):
        return inner_step(rule.transform(theta), task, state, key)

    def trial(step, theta):
        state, losses = init_inner(rule.transform(theta), task, key_inner), []
        for t in range(num_steps):
            state, (loss, _) = step(theta, task, state, jax.random.fold_in(key_run, t))
            losses.append(loss)
            if (t + 1) % (num_steps // segments) == 0:
                jax.block_until_ready(measure(task, state.params))
        return float(np.mean(jax.device_get(losses)))

    start, losses, step = time.perf_counter(), [], jax.jit(one_step)
    for theta in thetas:
        if compile_each:  # hyperparameters are constants of the program, as is usual
            compiled = jax.jit(functools.partial(one_step, theta))
            losses.append(trial(lambda _, *args, compiled=compiled: compiled(*args), theta))
        else:
            losses.append(trial(step, {k: np.float32(v) for k, v in theta.items()}))
    return time.perf_counter() - start, np.array(losses)


def steps_per_second(rule, thetas, task, num_steps):
    """Updates a second of all lanes together, once compiled."""
    stacked = {k: jnp.asarray([t[k] for t in thetas], jnp.float32) for k in thetas[0]}
    settings = dict(num_steps=num_steps, segments=1, mesh=lanes_mesh(len(thetas)))
    run_lanes(rule, stacked, task, jax.random.key(0), **settings)  # compiles
    start = time.perf_counter()
    run_lanes(rule, stacked, task, jax.random.key(0), **settings)
    return len(thetas) * num_steps / (time.perf_counter() - start)
