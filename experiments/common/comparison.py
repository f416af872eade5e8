"""Rules side by side on one task: tuned, run on the same problems, measured. Shared by experiments.

What is finished is kept in a folder, so that the same command goes on where it was cut short.
"""

import contextlib
import functools
import json
import math
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from experiments.common.build import HAND_DESIGNED, load_rule
from experiments.common.launch import check_fields, check_positive
from experiments.common.progress import Progress
from experiments.common.workdir import write_json
from learned_opt import evaluation
from learned_opt.figures import curves
from learned_opt.figures.labels import MOST_LINES
from learned_opt.figures.style import base
from learned_opt.studies import digest, tuning
from learned_opt.types import Key, Task, Theta, UpdateRule

TUNING = {
    "num_steps": (100,),  # updates in a tuning run; hand-designed rules are tuned once for each
    "num_seeds": 8,
    "low": 1e-3,  # the grid of learning rates; it grows where the best lies on its edge
    "high": 1.0,
    "per_decade": 8,
    "max_extensions": 3,  # decades by which it may grow
    "split": "valid",  # its loss after the last update is the score; '' scores by minibatch losses
    "window": 1,  # ... after this many last updates
}


class Entry(NamedTuple):
    """A rule in a comparison.

    Attributes:
      label: what tables and figures call it.
      rule: the update rule.
      theta: its θ; for a hand-designed rule, before tuning.
      tuned_for: updates in a tuning run, or None where there is nothing to tune.
    """

    label: str
    rule: UpdateRule
    theta: Theta
    tuned_for: int | None


class Result(NamedTuple):
    """What a comparison found for one rule.

    Attributes:
      label: as in `Entry`.
      summary: everything but the curves, as it goes into `results.json`.
      losses: `[num_seeds, num_steps + 1]`, see `Evaluation`.
    """

    label: str
    summary: dict[str, Any]
    losses: np.ndarray


def check_tuning(config: ConfigDict) -> ConfigDict:
    """Fills in and checks the settings of tuning.

    Raises:
      ValueError: an unknown field or a value out of range.
    """
    config = check_fields(config, ConfigDict(TUNING))
    check_positive(config, "num_seeds", "per_decade", "window")
    if not config.num_steps or not all(isinstance(n, int) and n > 0 for n in config.num_steps):
        raise ValueError(f"tuning.num_steps must be whole numbers above 0, got {config.num_steps}")
    if config.per_decade < 4:
        raise ValueError(f"per_decade must be at least 4 to be fair, got {config.per_decade}")
    return config


def check_comparison(config: ConfigDict, defaults: ConfigDict) -> ConfigDict:
    """Fills in and checks a comparison's config.

    Raises:
      ValueError: an unknown field, or a value out of range.
    """
    config = check_fields(config, defaults)
    config.tuning = check_tuning(config.tuning)
    check_positive(config, "num_seeds", "num_steps")
    config.report_steps = tuple(sorted(set(config.report_steps)))
    if not config.report_steps:
        raise ValueError("report_steps must name at least one number of updates")
    for step in config.report_steps:
        if not 0 <= step <= config.num_steps:
            raise ValueError(f"report step {step} is not in 0 … {config.num_steps} (num_steps)")
    return config


def device_mesh() -> jax.sharding.Mesh | None:
    """A mesh of this process's devices to spread runs over; None where there is one device.

    On CPU every core is made a device of its own, unless JAX's devices have been started already.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if jax.config.values["jax_num_cpu_devices"] < 0:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores or 1)
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("runs",), devices=devices) if len(devices) > 1 else None


def find_rules(names: Sequence[str], tuned_for: Sequence[int]) -> list[Entry]:
    """Finds the rules of a comparison; every hand-designed one appears once for each `tuned_for`.

    Args:
      names: see `experiments.common.build.load_rule`.
      tuned_for: updates in a tuning run.

    Raises:
      ValueError: no name at all, an unknown one, or one that is there twice.
      FileNotFoundError: a path that does not exist.
    """
    if not names:
        raise ValueError("rules must name at least one rule")
    entries = []
    for name in names:
        rule, theta = load_rule(name)
        if name not in HAND_DESIGNED:
            entries.append(Entry(file_label(name), rule, theta, None))
            continue
        for steps in tuned_for:
            label = name if len(tuned_for) == 1 else f"{name} (tuned for {steps})"
            entries.append(Entry(label, rule, theta, steps))
    labels = [entry.label for entry in entries]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"rule {label!r} is there twice")
    return entries


def file_label(name: str) -> str:
    """What a rule is called: a run's theta.npz by its folder, another file by its own name."""
    path, ending, factor = name.partition(".npz")
    if not ending:
        return name
    return (
        (Path(path).parent.name if Path(path).name == "theta" else "") or Path(path).name
    ) + factor


def compare_rules(
    task: Task,
    entries: Sequence[Entry],
    key: Key,
    *,
    num_seeds: int,
    num_steps: int,
    report_steps: Sequence[int],
    tuning_config: ConfigDict,
    folder: Path,
    test_steps: Sequence[int] = (),
    mesh: jax.sharding.Mesh | None = None,
    title: str = "",
    measure: bool = True,
) -> list[Result]:
    """Tunes, runs and measures rules on one task, all on the same problems.

    Args:
      task: the task.
      entries: the rules, from `find_rules`.
      key: where the problems come from; tuning draws others than evaluation.
      num_seeds: evaluation runs.
      num_steps: updates in an evaluation run.
      report_steps: numbers of updates to report losses at.
      tuning_config: as `TUNING`.
      folder: where finished rules are kept.
      test_steps: more numbers of updates to evaluate on the test split at.
      mesh: the devices to spread the runs over, or None.
      title: goes in front of the progress display.
      measure: whether to time steps and evaluate on the test split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for entry in entries:
        name = re.sub(r"[^\w@.]+", "_", entry.label).strip("_")
        identity = digest(entry.theta)
        result = _load(folder / name, entry.label, identity)
        if result is None:
            theta, found = entry.theta, None
            if entry.tuned_for is not None:
                with percent(f"{title}{entry.label}: tuning") as progress:
                    tuned = tune(entry, task, key, tuning_config, mesh, progress)
                    theta, found = tuned.theta, describe(tuned)
            with percent(f"{title}{entry.label}: evaluation") as progress:
                evaluated = evaluation.evaluate(
                    entry.rule,
                    theta,
                    task,
                    key,
                    num_seeds=num_seeds,
                    num_steps=num_steps,
                    eval_steps=(*report_steps, *test_steps) if measure else (),
                    splits=("test",),
                    mesh=mesh,
                    progress=functools.partial(progress, total=num_seeds),
                )
            summary = summarize(entry, found, evaluated, report_steps)
            if measure:
                summary |= _cost(entry.rule, theta, task, key)
            result = Result(entry.label, summary, evaluated.losses)
            _save(folder / name, result, identity)
        results.append(result)
    return results


def tune(
    entry: Entry,
    task: Task,
    key: Key,
    config: ConfigDict,
    mesh: jax.sharding.Mesh | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuning.Tuned:
    """Finds a hand-designed rule's learning rate by the settings of `TUNING`."""
    assert entry.tuned_for is not None
    return tuning.tune(
        entry.rule,
        task,
        key,
        num_steps=entry.tuned_for,
        num_seeds=config.num_seeds,
        low=config.low,
        high=config.high,
        per_decade=config.per_decade,
        split=config.split or None,
        window=config.window,
        max_extensions=config.max_extensions,
        mesh=mesh,
        progress=progress,
    )


def summarize(
    entry: Entry,
    tuned: dict[str, Any] | None,
    evaluated: evaluation.Evaluation,
    report_steps: Sequence[int],
) -> dict[str, Any]:
    """Means over runs, with standard errors, at the report steps.

    Args:
      entry: the rule.
      tuned: what tuning found, from `describe`, or None.
      evaluated: the runs.
      report_steps: numbers of updates.
    """
    losses = evaluated.losses.astype(np.float64)
    heldout = evaluated.heldout.get("test", {})
    summary: dict[str, Any] = {
        "label": entry.label,
        "tuned_for": entry.tuned_for,
        "num_seeds": len(losses),
        "diverged": int(evaluated.diverged.sum()),
        "ended_above_start": int(evaluated.ended_above_start.sum()),
        "loss": {str(s): mean_and_error(losses[:, s]) for s in report_steps},
        # Losses at steps 0 … s − 1, as in the paper's meta-loss.
        "sum_of_losses": {
            str(s): mean_and_error(losses[:, :s].sum(axis=1)) for s in report_steps if s
        },
        "test": {
            str(step): {metric: mean_and_error(values[:, n]) for metric, values in heldout.items()}
            for n, step in enumerate(evaluated.eval_steps)
            if heldout
        },
    }
    if tuned is not None:
        summary["tuning"] = tuned
    return summary


def describe(tuned: tuning.Tuned) -> dict[str, Any]:
    """What tuning found, as it goes into `results.json`."""
    return {
        tuned.name: tuned.value,
        "score": number(tuned.score),
        "on_edge": tuned.on_edge,
        "grid": tuned.grid.tolist(),
        "scores": [number(score) for score in tuned.scores],
    }


def _cost(rule: UpdateRule, theta: Theta, task: Task, key: Key) -> dict[str, float]:
    params = jax.eval_shape(lambda key: task.init(key, task.sample(key)), key)
    return {
        "ms_per_step": 1000 * evaluation.step_time(rule, theta, task, key),
        "state_bytes_per_parameter": evaluation.state_bytes_per_parameter(rule, theta, params),
    }


def mean_and_error(values: np.ndarray) -> dict[str, float | str]:
    """Of one number a run, as it goes into `results.json`."""
    values = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # diverged runs are reported as such
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return {
            "mean": number(values.mean()),
            "standard_error": number(error),
            "median": number(np.median(values)),
        }


def number(value: float) -> float | str:
    """A float that JSON can hold: 'nan', 'inf' and '-inf' where it is not finite."""
    return float(value) if math.isfinite(value) else str(float(value))


def _save(path: Path, result: Result, identity: str) -> None:
    np.save(path.with_name(f"{path.name}.npy"), result.losses)
    write_json(path.with_name(f"{path.name}.json"), {"theta": identity, "summary": result.summary})


def _load(path: Path, label: str, identity: str) -> Result | None:
    try:
        kept = json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))
        losses = np.load(path.with_name(f"{path.name}.npy"))
    except (OSError, ValueError):
        return None
    if kept["theta"] != identity:
        return None
    worse = int(evaluation.ended_above_start(losses).sum())  # not kept by earlier versions
    return Result(label, kept["summary"] | {"ended_above_start": worse}, losses)


@contextlib.contextmanager
def percent(title: str) -> Iterator[Callable[..., None]]:
    """Shows the share done, of a total that may grow."""
    with Progress(f"{title}, percent", 0, 100) as bar:

        def update(done: int, total: int) -> None:
            bar.update(100 * done // total, {})

        yield update


def draw_losses(
    results: Sequence[Result],
    title: str,
    marks: Sequence[int],
    workdir: Path,
    ylabel: str = "training loss",
    more: Mapping[str, Mapping[str, np.ndarray]] = MappingProxyType({}),
) -> Path:
    """Draws the loss curves, six at most: the title names the tuned rules that are left out.

    Those are first a rule's other tunings than the one that ends lowest, then what ends highest.

    Args:
      results: from `compare_rules`.
      title: of the figure.
      marks: numbers of updates to mark.
      workdir: the folder for the figure.
      ylabel: what the losses are.
      more: panels beside that of the losses, title -> label -> `[num_seeds, num_steps + 1]`.

    Returns:
      The path of losses.png.
    """
    num_seeds, path = results[0].summary["num_seeds"], workdir / "losses.png"
    last = {r.label: float(np.nan_to_num(r.losses[:, -1].mean(), nan=np.inf)) for r in results}
    tuned = [r.label for r in results if "tuning" in r.summary]
    tuned.sort(key=lambda label: -last[label])
    best = {base(label): label for label in tuned}  # the last one, which ends lowest
    others = [label for label in tuned if label != best[base(label)]]
    in_turn = [*others, *(label for label in tuned if label not in others)]
    left_out = in_turn[: max(0, len(results) - MOST_LINES)]
    heading = f"{title}, {num_seeds} runs"
    if left_out:
        heading += "\n" + textwrap.fill(f"not drawn: {', '.join(left_out)}", 60)
    panels = {heading: {r.label: r.losses for r in results}, **more}
    curves.loss_curves(
        {
            name: {label: losses for label, losses in lines.items() if label not in left_out}
            for name, lines in panels.items()
        },
        path,
        ylabel=f"{ylabel}, mean ± standard error",
        marks=marks,
    )
    return path


def draw_tuning(results: Sequence[Result], title: str, workdir: Path) -> None:
    """Draws the scores of tuning, tuning.png, where any rule was tuned."""
    searches = {r.label: r.summary["tuning"] for r in results if "tuning" in r.summary}
    if searches:
        curves.tuning_curves(
            {
                label: (s["grid"], np.asarray(s["scores"], np.float64))
                for label, s in searches.items()
            },
            workdir / "tuning.png",
            title=title,
        )


def print_tables(tables: Sequence[Table], path: Path) -> None:
    """Prints tables as wide as they are, and writes them to a text file as well."""
    width = 200
    with path.open("w", encoding="utf-8") as file:
        written = Console(file=file, width=width)
        shown = Console(width=width) if not Console().is_terminal else Console()
        for table in tables:
            shown.print(table)
            written.print(table)


def plus_minus(value: dict[str, Any]) -> str:
    """A mean and its standard error, to the digits that matter."""
    mean, error = float(value["mean"]), float(value["standard_error"])
    if not math.isfinite(mean):
        return "diverged"
    if abs(mean) >= 1e6:
        return f"{mean:.2g}"
    places = 3 if error == 0 else max(0, min(5, 1 - math.floor(math.log10(error))))
    return f"{mean:.{places}f} ± {error:.{places}f}"
