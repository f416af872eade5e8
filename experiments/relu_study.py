r"""Why do rules that were learned on a sigmoid network fail on ReLU networks, and what cures it?

    python -m experiments.relu_study --config=experiments/configs/relu_study/relu_study.py \
        --workdir=DIR

Meta-trains several learners with the same number of inner steps each, and tests them, as they are
and with their steps multiplied by factors, on networks of several activations, depths and widths
beside Adam at its best of a few rates. The same command goes on where it was cut short. Writes
learners/NAME/theta.npz, cells/*.json, results.json, and the tables results.md and the figure
relu_study.svg, of the networks that are finished, into the work directory.
"""

import functools
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.common.build import make_rule, make_task
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.meta_config import DEFAULTS as META
from experiments.common.relu_report import write_report
from experiments.common.workdir import open_workdir, write_json
from learned_opt import evaluation, update_rules
from learned_opt.theta_files import load_theta
from learned_opt.types import Task, Theta, UpdateRule

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "inner_steps": 40_000,  # the budget of each learner, over all of its stages and parts
        # name -> stages: fields of `experiments.meta_train` that differ from `common`, and `share`
        "learners": {},
        "common": {},  # fields of `experiments.meta_train` that all learners share
        "activations": ("sigmoid", "tanh", "relu"),  # cells: each with each of layers and widths
        "layers": (1, 2, 3),  # hidden layers
        "widths": (20, 64, 200),  # units of a hidden layer
        "task": {},  # an image classifier; the cells differ in hidden_sizes and activation
        "extra": (),  # more cells: pairs (name, task)
        "report_steps": (100, 500, 2000),  # where losses are compared
        "max_work": 7e6,  # of one run: parameters × steps; later report steps are left out
        "factors": (1.0, 0.1),  # on the learners' steps
        "adam_rates": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),  # Adam has the best of them in each cell
        "num_seeds": 1,
        "window": 10,  # the loss at a step is the mean over this many last minibatches
        "floor": 1e-3,  # lower losses count as this one
    }
)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with the study."""
    config = check_fields(config, DEFAULTS)
    check_positive(config, "inner_steps", "num_seeds", "window")
    workdir = open_workdir(workdir, config)
    learners = {
        name: _learn(name, stages, config, workdir / "learners" / name, data_dir)
        for name, stages in config.learners.items()
    }
    (workdir / "cells").mkdir(exist_ok=True)
    cells: dict[str, dict[str, Any]] = {}
    for name, settings in _cells(config).items():
        file = workdir / "cells" / f"{name.replace(' ', '_')}.json"
        fresh = not file.exists()
        if fresh:
            found = _test(make_task(settings, data_dir), learners, config)
            write_json(file, found)
            jax.clear_caches()  # programs of a hundred shapes use up the memory maps of a process
            print(f"{name}: {', '.join(found['steps'])} steps", flush=True)
        cells[name] = json.loads(file.read_text(encoding="utf-8"))
        if fresh:
            write_report(config, cells, workdir)
    write_json(workdir / "results.json", cells)
    write_report(config, cells, workdir)
    print(f"tables: {workdir / 'results.md'}   figure: {workdir / 'relu_study.svg'}")


def _cells(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """The test networks: name -> the config of the task; small ones first."""
    grid = itertools.product(config.widths, config.layers, config.activations)
    cells = {
        f"{activation} {layers} x {width}": {
            **config.task,
            "hidden_sizes": (width,) * layers,
            "activation": activation,
        }
        for width, layers, activation in grid
    }
    cells = {name: dict(task) for name, task in config.extra} | cells
    return dict(sorted(cells.items(), key=lambda item: sum(item[1]["hidden_sizes"])))


def _learn(
    name: str, stages: Sequence[Mapping], config: ConfigDict, folder: Path, data_dir: str | None
) -> tuple[UpdateRule, Theta]:
    """Meta-trains a learner by `experiments.meta_train`, one run a stage, each from the last θ."""
    shares = [stage.get("share", 1.0) for stage in stages]
    last = ""
    for n, (stage, share) in enumerate(zip(stages, shares, strict=True)):
        fields = {**config.common, **{k: v for k, v in stage.items() if k != "share"}}
        settings = ConfigDict(META, convert_dict=True)
        for field, value in fields.items():
            settings[field] = ConfigDict(value) if isinstance(value, Mapping) else value
        if settings.estimator.name == "mixture":
            settings.task = ConfigDict()
        num_parts = len(settings.estimator.get("parts", ())) or 1
        steps = num_parts * settings.num_tasks * settings.unroll_length
        settings.num_meta_steps = round(config.inner_steps * share / sum(shares) / steps)
        settings.seed = config.seed
        settings.start_from = last
        stage_folder = folder if n == len(stages) - 1 else folder / f"stage_{n}"
        if not (stage_folder / "results.json").exists():
            print(f"{name}, stage {n + 1} of {len(stages)}", flush=True)
            meta_train(settings, stage_folder, data_dir)
        last = str(stage_folder / "theta.npz")
    rule = _with_factor(json.dumps(settings.rule.to_dict()))
    return rule, load_theta(last, like=jax.eval_shape(rule.init, jax.random.key(0)))


def meta_train(settings: ConfigDict, folder: Path, data_dir: str | None) -> None:
    """Runs `experiments.meta_train` on a config, which is left in the folder's file config.py."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(settings.to_dict()))
    lines = ["from ml_collections import ConfigDict", "", "", "def get_config() -> ConfigDict:"]
    lines.append(f"    return ConfigDict({plain!r})")
    (folder / "config.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "experiments.meta_train", f"--workdir={folder}"]
    command += [f"--config={folder / 'config.py'}"]
    command += [] if data_dir is None else [f"--data_dir={data_dir}"]
    if subprocess.run(command).returncode:
        raise ValueError(f"meta-training in {folder} did not finish: see above")


@functools.cache
def _with_factor(settings: str) -> UpdateRule:
    """A rule whose θ for `transform` is `{'theta': …, 'factor': a factor on its steps}`.

    Learners of the same rule share it, and with it their compiled programs.
    """
    rule = make_rule(json.loads(settings))

    def transform(theta: Theta) -> optax.GradientTransformationExtraArgs:
        return optax.chain(rule.transform(theta["theta"]), optax.scale(theta["factor"]))

    return UpdateRule(rule.init, transform)


def _test(
    task: Task, learners: Mapping[str, tuple[UpdateRule, Theta]], config: ConfigDict
) -> dict[str, Any]:
    """Losses of all rules on one network: label -> step -> [runs], and the losses at the start."""
    key = jax.random.key(config.seed)
    params = jax.eval_shape(lambda key: task.init(key, task.sample(key)), key)
    size = sum(p.size for p in jax.tree.leaves(params))
    steps = [s for s in config.report_steps if s * size <= config.max_work]
    steps = steps or [min(config.report_steps)]
    found: dict[str, Any] = {"parameters": size, "steps": [str(s) for s in steps], "rules": {}}
    adam = update_rules.adam()

    def run(label: str, rule: UpdateRule, theta: Theta) -> None:
        losses = evaluation.evaluate(
            rule, theta, task, key, num_seeds=config.num_seeds, num_steps=max(steps), batch_size=1
        ).losses.astype(np.float64)
        found["start"] = losses[:, 0].tolist()
        found["rules"][label] = {}
        for step in steps:
            so_far = losses[:, : step + 1]
            with np.errstate(over="ignore", invalid="ignore"):
                last = so_far[:, -config.window :].mean(axis=1)
            last = np.where(np.isfinite(so_far).all(axis=1), last, np.inf)
            found["rules"][label][str(step)] = [x if math.isfinite(x) else "inf" for x in last]

    for rate in config.adam_rates:
        run(f"adam {rate:g}", adam, adam.init(key) | {"learning_rate": np.float32(rate)})
    for name, (rule, theta) in learners.items():
        for factor in config.factors:
            label = name if factor == 1 else f"{name}@{factor:g}"
            run(label, rule, {"theta": theta, "factor": np.float32(factor)})
    return found


if __name__ == "__main__":
    launch(main)
