r"""What is each number of θ worth? Meta-trainings that each hold one number as it starts.

    python -m experiments.ablation --config=experiments/configs/meta_train/general.py \
        --config.num_meta_steps=1000 --workdir=DIR

Meta-trains once with all of θ, and once for each of its leaves with that leaf held at its value at
the start, all with the same seed and budget; and scores the θ that all of them gave with one leaf
at a time put back to its start. The estimator still perturbs a leaf that is held, so that one
compiled program serves all runs; the scores are of θ itself. The config is one of
`experiments.meta_train`, with a probe and without a curriculum. The same command goes on after the
runs that are finished. Writes runs/NAME.json, results.json and the table results.md.
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from experiments.common.launch import launch
from experiments.common.meta_setup import Prepared, prepare
from experiments.common.workdir import open_workdir, write_json
from learned_opt.meta_training import init_state, train
from learned_opt.types import Theta

ALL = "all"


class HeldState(NamedTuple):
    """State of `held`: which leaves move, as 0 or 1, and the state within."""

    moves: Any
    inner: optax.OptState


def held(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Zero updates for the leaves whose `moves` in the state is 0."""

    def init(theta: Theta) -> HeldState:
        return HeldState(jax.tree.map(jnp.ones_like, theta), inner.init(theta))

    def update(grads, state, theta=None):
        grads = jax.tree.map(jnp.multiply, grads, state.moves)
        updates, within = inner.update(grads, state.inner, theta)
        return jax.tree.map(jnp.multiply, updates, state.moves), HeldState(state.moves, within)

    return optax.GradientTransformation(init, update)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with the ablation."""
    prepared = prepare(config, data_dir)
    config = prepared.config
    if config.curriculum or not config.probe:
        raise ValueError("an ablation needs a config with a probe and without a curriculum")
    workdir = open_workdir(workdir, config)
    (workdir / "runs").mkdir(exist_ok=True)
    optimizer = held(prepared.stages[0][1])
    start = prepared.rule.init(_theta_key(config.seed))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(start)]
    runs = {}
    for name in (ALL, *names):
        file = workdir / "runs" / f"{name.strip('[]').replace(chr(39), '')}.json"
        if not file.exists():
            write_json(file, _train(prepared, optimizer, name))
        runs[name] = json.loads(file.read_text(encoding="utf-8"))
        print(f"held {name}: {runs[name]['score']:.5f}", flush=True)
    file = workdir / "runs" / "put_back.json"
    if not file.exists():
        write_json(file, _put_back(prepared, start, runs[ALL]["theta"]))
    put_back = json.loads(file.read_text(encoding="utf-8"))
    write_json(workdir / "results.json", {"held": runs, "put_back": put_back})
    table = _table(runs, put_back)
    (workdir / "results.md").write_text(table, encoding="utf-8")
    print(table)


def _theta_key(seed: int) -> jax.Array:
    """Where `init_state` draws θ from."""
    return jax.random.split(jax.random.key(seed), 3)[0]


def _train(prepared: Prepared, optimizer: optax.GradientTransformation, name: str) -> dict:
    """One meta-training with a leaf held, or with none for `ALL`."""
    config, rule, ((_, _, estimator),), validate = prepared
    state = init_state(estimator, optimizer, rule, jax.random.key(config.seed))
    moves = jax.tree.map_with_path(
        lambda path, x: jnp.full_like(x, jax.tree_util.keystr(path) != name), state.meta.theta
    )
    opt_state = state.meta.opt_state._replace(moves=moves)
    state = state._replace(meta=state.meta._replace(opt_state=opt_state))
    clock = time.perf_counter()
    scores: dict[int, float] = {}

    def write(step: int, metrics: dict[str, float]) -> None:
        if "validation_score" in metrics:
            scores[step] = metrics["validation_score"]

    state = train(
        estimator,
        optimizer,
        state,
        num_meta_steps=config.num_meta_steps,
        validate=validate,
        validate_every=config.validate_every,
        validate_start=name == ALL,
        log_every=config.log_every,
        write=write,
    )
    theta = jax.tree.map(lambda x: x.tolist(), jax.device_get(state.best.theta))
    return {
        "score": float(state.best.score),
        "step": int(state.best.step),
        "scores": scores,
        "theta": theta,
        "seconds": time.perf_counter() - clock,
    }


def _put_back(prepared: Prepared, start: Theta, found: Any) -> dict[str, float]:
    """The score of θ with one leaf at a time as it started, without any training after it."""
    theta = jax.tree.map(lambda x, found: jnp.asarray(found, x.dtype), start, found)
    scores = {}
    for path, _ in jax.tree.leaves_with_path(start):
        name = jax.tree_util.keystr(path)
        changed = jax.tree.map_with_path(
            lambda path, first, x, name=name: first if jax.tree_util.keystr(path) == name else x,
            start,
            theta,
        )
        scores[name] = prepared.validate(changed)[0]
    return scores


def _table(runs: dict[str, Any], put_back: dict[str, float]) -> str:
    """The scores as a table, the most costly removal first."""
    lines = [
        "| held in θ | score, trained without it | at meta-update | score, put back afterwards |",
        "|---|---|---|---|",
        f"| nothing | {runs[ALL]['score']:.4f} | {runs[ALL]['step']} | |",
    ]
    names = sorted(put_back, key=lambda name: -runs[name]["score"])
    lines += [
        f"| {name.strip('[]').replace(chr(39), '')} | {runs[name]['score']:.4f} | "
        f"{runs[name]['step']} | {put_back[name]:.4f} |"
        for name in names
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    launch(main)
