"""What the case `general` of `scripts/benchmark` measures."""

import time

import jax
import jax.numpy as jnp
import optax
from benchmark_guard import training_step  # the file beside this one

from learned_opt.update_rules import learned_muon


def measure(task, quick):
    """The general rule against optax.contrib.muon and Adam: 4 matrices of 512², a training step.

    The rules take turns, so that what else the machine does meets them alike; of each the fastest
    counts.
    """
    rule = learned_muon()
    transforms = {
        "general": rule.transform(rule.init(jax.random.key(0))),
        "muon": optax.contrib.muon(0.03),
        "adam": optax.adam(1e-3),
    }
    side = 64 if quick else 512
    params = [jax.random.normal(jax.random.key(n), (side, side)) for n in range(4)]
    updates = {name: _update(tx, params) for name, tx in transforms.items()}
    steps = {name: training_step(tx, task, jax.random.key(0)) for name, tx in transforms.items()}
    found = {f"4x{side}x{side}": _times(updates, quick), "training_step": _times(steps, quick)}
    for row in found.values():
        row["ratio_to_muon"] = row["general_ms"] / row["muon_ms"]
    return found


def _times(calls, quick):
    times = {name: [] for name in calls}
    for _ in range(2 if quick else 15):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {f"{name}_ms": 1e3 * min(found) for name, found in times.items()}


def _update(tx, params):
    update = jax.jit(tx.update)
    grads, state = jax.tree.map(jnp.sin, params), tx.init(params)
    call = lambda: jax.block_until_ready(update(grads, state, params))  # noqa: E731
    call()
    return call
