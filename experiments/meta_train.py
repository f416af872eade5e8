r"""Meta-trains an update rule.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_quadratic.py \
        --workdir=DIR

The same command goes on from the last checkpoint. Writes theta.npz (the best θ by validation),
results.json, metrics.jsonl, TensorBoard events, checkpoints/, config.json, versions.json and the
figure meta_training.png into the work directory.
"""

import functools
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from experiments.common.launch import launch
from experiments.common.lookup import find_file
from experiments.common.meta_setup import prepare, unrolled
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt.checkpoints import Checkpointer
from learned_opt.meta_training import (
    TrainState,
    init_state,
    redraw_problems,
    restart_from_best,
    train,
)
from learned_opt.metrics import MetricsWriter, read_metrics
from learned_opt.theta_files import load_theta, save_theta


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with one meta-training."""
    config, rule, stages, validate = prepare(config, data_dir)
    workdir = open_workdir(workdir, config, part=jax.process_index(), parts=jax.process_count())
    _, meta_optimizer, estimator = stages[0]
    state = init_state(estimator, meta_optimizer, rule, jax.random.key(config.seed))
    if config.start_from:
        theta = load_theta(find_file(config.start_from), like=state.meta.theta)
        state = restart_from_best(
            meta_optimizer, state._replace(best=state.best._replace(theta=theta))
        )
    checkpointer = Checkpointer(workdir / "checkpoints")
    restored = checkpointer.restore_latest(state)
    start, state = restored if restored else (0, state)
    first_process = jax.process_index() == 0
    writer = MetricsWriter(workdir, resume_step=start) if first_process else None
    with Progress(
        "meta-training",
        start,
        config.num_meta_steps,
        quiet=not first_process,
        work=functools.partial(unrolled, [stage for stage, _, _ in stages]),
    ) as bar:
        for stage, meta_optimizer, estimator in stages:
            if stage.restarts and int(state.meta.step) == stage.start:
                state = restart_from_best(meta_optimizer, state)
            if stage.redraws and int(state.meta.step) == stage.start:
                state = redraw_problems(estimator, state)
            state = train(
                estimator,
                meta_optimizer,
                state,
                num_meta_steps=stage.end,
                validate=validate,
                validate_every=config.validate_every,
                validate_start=bool(config.probe),
                patience=config.patience or None,
                log_every=config.log_every,
                write=writer.write if writer else lambda step, metrics: None,
                save=checkpointer.save,
                save_every=config.save_every,
                report=bar.update,
            )
    if writer:
        writer.close()
        _write_results(config, workdir, state)


def _write_results(config: ConfigDict, workdir: Path, state: TrainState) -> None:
    steps = int(state.meta.step)
    metrics = read_metrics(workdir)
    records = [r for r in metrics if "inner_steps" in r]
    at_best = [r for r in metrics if "validation_score" in r and r["step"] == state.best.step]
    results = {
        "best_validation_score": float(state.best.score),
        "best_step": int(state.best.step),
        "ended_above_start": _ended_above_start(at_best[-1]) if at_best else None,
        "num_meta_steps": steps,
        "inner_steps": int(sum(r["inner_steps"] for r in records)),
        "minutes": sum(r["seconds"] for r in records) / 60,
        "devices": [str(device) for device in jax.devices()],
        "skipped_meta_updates": int(state.num_skipped),
        "diverged_inner_problems": int(state.num_diverged),
        "finished": time.strftime("%Y-%m-%d"),
    }
    metadata = {"rule": config.rule.to_dict(), "config": config.to_dict(), "results": results}
    save_theta(workdir / "theta.npz", jax.device_get(state.best.theta), metadata)
    write_json(workdir / "results.json", results)
    from learned_opt.figures import curves

    curves.meta_training(metrics, workdir / "meta_training.png")
    print(
        f"best validation score {results['best_validation_score']:.4g} at meta-update "
        f"{results['best_step']} of {steps}; {results['inner_steps']:,} inner steps in "
        f"{results['minutes']:.1f} minutes; "
        f"{results['skipped_meta_updates']} meta-updates skipped, "
        f"{results['diverged_inner_problems']} inner problems diverged"
    )
    if at_best:
        print(
            f"validation problems that end above their start, with that θ: "
            f"{results['ended_above_start']}"
        )
    print(f"θ: {workdir / 'theta.npz'}   figure: {workdir / 'meta_training.png'}")


def _ended_above_start(record: Mapping[str, float]) -> int:
    """How many validation problems ended above their start, of all parts of a mixture."""
    return sum(int(x) for name, x in record.items() if name.split("/")[-1] == "ended_above_start")


if __name__ == "__main__":
    launch(main)
