"""From a config of a meta-training to its rule, its stages with their estimators, and its score."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.common.build import make_estimator, make_rule, make_task
from experiments.common.launch import check_fields, check_positive, start_devices
from experiments.common.meta_config import DEFAULTS
from experiments.common.probe import make_probe
from learned_opt.evaluation import evaluate
from learned_opt.meta_training import Mixture
from learned_opt.types import Estimator, Task, Theta, UpdateRule

# What a curriculum can change. A learning rate starts afresh from the best θ, and a horizon with
# problems that are drawn afresh, staggered over it.
IN_STAGES = (
    "horizon",
    "unroll_length",
    "replay_fraction",
    "weight_power",
    "learning_rate",
    "final_learning_rate",
)


class Prepared(NamedTuple):
    """What a config describes.

    Attributes:
      config: the config, with its defaults.
      rule: the rule to train.
      stages: each stage with its meta-optimizer and its estimator.
      validate: θ -> its score and metrics.
    """

    config: ConfigDict
    rule: UpdateRule
    stages: list[tuple["Stage", optax.GradientTransformation, Estimator]]
    validate: Callable[[Theta], tuple[float, dict[str, float]]]


def prepare(config: ConfigDict, data_dir: str | None) -> Prepared:
    """Checks a config, and makes all that its meta-training needs."""
    config = _checked(config)
    mesh = start_devices(config.num_tasks, config.num_devices)
    rule = make_rule(config.rule)
    tasks = _make_tasks(config, data_dir)
    stages = [
        (stage, _meta_optimizer(stage), _make_estimator(stage.settings, tasks, rule, mesh))
        for stage in _stages(config)
    ]
    return Prepared(config, rule, stages, _validation(rule, tasks, config, data_dir))


def _checked(config: ConfigDict) -> ConfigDict:
    config = check_fields(config, DEFAULTS)
    check_positive(
        config,
        "num_meta_steps",
        "num_tasks",
        "unroll_length",
        "horizon",
        "validate_every",
        "validation_problems",
        "validation_window",
        "log_every",
        "save_every",
    )
    for stage in _stages(config):
        for name in ("learning_rate", "final_learning_rate"):
            rate = stage.settings[name]
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(f"{name} must be positive, got {rate}")
    if config.clip_norm < 0 or config.patience < 0:
        raise ValueError("clip_norm and patience must not be negative")
    return config


class Stage(NamedTuple):
    """A part of the training with settings of its own.

    Attributes:
      start: the meta-update that it starts from.
      end: the one that it ends at.
      settings: the config as it is then.
      restarts: whether it goes on from the best θ so far with a fresh meta-optimizer.
      redraws: whether its problems are drawn afresh.
      schedule: the start and the end of its learning rate schedule.
    """

    start: int
    end: int
    settings: ConfigDict
    restarts: bool
    redraws: bool
    schedule: tuple[int, int]


def _stages(config: ConfigDict) -> list[Stage]:
    """The stages of a curriculum; one that names a learning rate restarts the schedule."""
    try:
        entries = [(0, {}), *((step, dict(changes)) for step, changes in config.curriculum)]
    except (TypeError, ValueError):
        raise ValueError(
            f"curriculum must be pairs (step, {{field: value, …}}), got {config.curriculum!r}"
        ) from None
    starts = [step for step, _ in entries]
    if starts != sorted(set(starts)) or starts[-1] >= config.num_meta_steps:
        raise ValueError(
            f"the steps of curriculum must increase and lie between 0 and num_meta_steps "
            f"({config.num_meta_steps}), got {starts[1:]}"
        )
    unknown = {name for _, changes in entries for name in changes} - set(IN_STAGES)
    if unknown:
        raise ValueError(
            f"curriculum cannot change {', '.join(sorted(unknown))}; it can {', '.join(IN_STAGES)}"
        )
    restarts = [step == 0 or "learning_rate" in changes for step, changes in entries]
    bounds = [start for start, restart in zip(starts, restarts, strict=True) if restart]
    bounds.append(config.num_meta_steps)
    stages: list[Stage] = []
    for n, (start, changes) in enumerate(entries):
        settings = (stages[-1].settings if stages else config).copy_and_resolve_references()
        settings.update(changes)
        schedule = next(
            pair for pair in zip(bounds, bounds[1:], strict=False) if pair[0] <= start < pair[1]
        )
        end = starts[n + 1] if n + 1 < len(starts) else config.num_meta_steps
        stages.append(
            Stage(start, end, settings, n > 0 and restarts[n], "horizon" in changes, schedule)
        )
    return stages


def unrolled(stages: Sequence[Stage], step: int) -> float:
    """Inner steps of each problem up to a meta-update."""
    return float(
        sum(s.settings.unroll_length * (min(step, s.end) - min(step, s.start)) for s in stages)
    )


def _meta_optimizer(stage: Stage) -> optax.GradientTransformation:
    """Adam with a cosine schedule over the stages that share it."""
    first, last = stage.schedule
    settings = stage.settings
    schedule = optax.cosine_decay_schedule(
        settings.learning_rate,
        last - first,
        alpha=settings.final_learning_rate / settings.learning_rate,
    )
    clip = settings.clip_norm
    clipping = optax.clip_by_global_norm(clip) if clip else optax.identity()
    return optax.chain(clipping, optax.adam(schedule))


def _make_tasks(config: ConfigDict, data_dir: str | None) -> dict[str, Task]:
    """The task of each part of a mixture, by its name; else the one task, without a name."""
    if config.estimator.name != "mixture":
        return {"": make_task(config.task, data_dir)}
    if config.task:
        raise ValueError("a mixture has a task in each of its parts: leave the field task empty")
    unknown = set(config.estimator) - {"name", "parts", "each", "scaling", "decay"}
    if unknown:
        raise ValueError(f"a mixture has no field {', '.join(sorted(unknown))}")
    parts = config.estimator.get("parts", ())
    for part in parts:
        missing = {"name", "task"} - set(part)
        unknown = set(part) - {"name", "task", "weight", "estimator", *_OF_ESTIMATORS}
        if missing or unknown:
            raise ValueError(
                f"a part of a mixture has the fields name, task, weight, estimator, "
                f"{', '.join(_OF_ESTIMATORS)}; missing: {sorted(missing)}, unknown: "
                f"{sorted(unknown)}"
            )
    return {part["name"]: make_task(part["task"], data_dir) for part in parts}


_OF_ESTIMATORS = (  # fields that an estimator, also of a part of a mixture, is made with
    "num_tasks",
    "unroll_length",
    "horizon",
    "second_order",
    "mapping",
    "block_size",
    "replay_fraction",
    "weight_power",
    "segment_loss",
    "meta_loss",
)


def _make_estimator(
    settings: ConfigDict, tasks: Mapping[str, Task], rule: UpdateRule, mesh: Mesh | None
) -> Estimator:
    offered = {name: settings[name] for name in _OF_ESTIMATORS} | {"rule": rule, "mesh": mesh}
    config = settings.estimator
    if config.name != "mixture":
        return make_estimator(config, offered | {"task": tasks[""]})
    parts = []
    for part in config.get("parts", ()):
        own = {name: part[name] for name in _OF_ESTIMATORS if name in part}
        kind = part.get("estimator", config.get("each", {"name": "truncated_bptt"}))
        estimator = make_estimator(kind, offered | own | {"task": tasks[part["name"]]})
        parts.append((estimator, part.get("weight", 1.0)))
    choices = {name: config[name] for name in ("scaling", "decay") if name in config}
    return Mixture(parts, tuple(part["name"] for part in config.get("parts", ())), **choices)


def _validation(
    rule: UpdateRule, tasks: Mapping[str, Task], config: ConfigDict, data_dir: str | None = None
):
    """The score of a θ: the probe's, or the mean final loss on problems that training never draws.

    Of a mixture: the geometric mean over its parts of (final loss / loss at the start), weighted as
    they are, so that losses of every size count alike; 1 is no progress.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 1_000_003)
    if config.probe:
        return make_probe(rule, config.probe, key, data_dir, config.task)
    parts = {part["name"]: part for part in config.estimator.get("parts", ())}

    def final(theta: Theta, name: str) -> tuple[float, float, dict[str, float]]:
        result = evaluate(
            rule,
            theta,
            tasks[name],
            key,
            num_seeds=config.validation_problems,
            num_steps=parts[name].get("horizon", config.horizon) if name else config.horizon,
        )
        last = result.losses[:, -config.validation_window :]
        worse = {"ended_above_start": float(result.ended_above_start.sum())}
        return float(np.mean(last)), float(np.mean(result.losses[:, 0])), worse

    def validate(theta: Theta) -> tuple[float, dict[str, float]]:
        if not parts:
            last, _, metrics = final(theta, "")
            return last, metrics
        found = {name: final(theta, name) for name in tasks}
        ratios = {name: last / first for name, (last, first, _) in found.items()}
        weights = [parts[name].get("weight", 1.0) for name in ratios]
        with np.errstate(invalid="ignore", divide="ignore"):
            score = np.exp(np.average(np.log(list(ratios.values())), weights=weights))
        metrics = {}
        for name, (last, _, others) in found.items():
            metrics |= {f"{name}/{k}": x for k, x in (others | {"validation_loss": last}).items()}
        return float(score), metrics

    return validate
