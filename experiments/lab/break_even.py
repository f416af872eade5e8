"""Step times against the time of the gradient, and the trainings that pay for meta-training.

The gradient's time is that of a whole step of SGD, whose update is all but free. What is measured
is processor time, to which other programs add nothing, and rules take turns.
"""

import functools
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.common.answer_page import answer_page, table
from experiments.common.build import load_rule, make_task
from experiments.common.launch import check_positive
from experiments.common.names import display_name
from experiments.common.workdir import kept
from learned_opt.figures.style import KNOWN_STYLES, LEARNED_STYLES, make_panels, save
from learned_opt.studies import break_even, break_even_interval
from learned_opt.studies.costs import least_gradient, step_time
from learned_opt.studies.runs import Optimizer, step_times

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "task": {
            "name": "image_classifier", "dataset": "mnist", "hidden_sizes": (512, 512),
            "activation": "relu", "batch_size": 1,
        },
        # sizes of minibatches: the gradient's time grows with them
        "batches": (16, 64, 256, 1024, 4096),
        "turns": 7,  # rounds of timing; the median counts
        "steps_timed": 3,  # in each turn
        # docs/leaderboard/summary.json: `general` at its default rate against Adam at its best
        "speed_up": (2.622, 2.423, 2.838),
        "leaderboard_step_time": 2.685,  # over Adam's
        "meta_training": 900.0,  # seconds, compilation included: docs/general.md
        "run": 60.0,  # seconds of a run with Adam that are supposed
        "baseline_runs": 7,  # rates that the leaderboard tries for Adam
    }
)  # fmt: skip
_RULES = ("sgd", "adam", "general")
_BLACK, _ORANGE = LEARNED_STYLES["general"][0], KNOWN_STYLES["adam"][0]


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Times the rules for each batch, and counts trainings."""
    check_positive(config, "turns", "steps_timed", "baseline_runs")
    if not config.batches:
        raise ValueError("batches must have at least one batch size")
    settings = {"meta_training": config.meta_training, "run": config.run}
    speed_up = tuple(config.speed_up)
    break_even_interval(  # refuses bad costs before anything is timed
        **settings, speed_up=speed_up, step_time=config.leaderboard_step_time
    )
    times = {
        str(batch): kept(
            workdir / "cells" / f"batch_{batch}.json",
            functools.partial(_timed, batch, config, data_dir),
        )
        for batch in config.batches
    }
    found = {batch: _ratios(cell) for batch, cell in times.items()}
    for cell in found.values():
        for name, runs in (("tuned", config.baseline_runs), ("known", 1)):
            cell[name] = break_even_interval(
                **settings, speed_up=speed_up, step_time=cell["step"][0],
                baseline_runs=runs,
            )  # fmt: skip
    adams = found[str(min(config.batches))]["adams"][0]
    adams = min(max(adams, 0.0), 1.0)
    return {
        **settings,
        "speed_up": list(config.speed_up),
        "leaderboard_step_time": config.leaderboard_step_time,
        "baseline_runs": config.baseline_runs,
        "turns": config.turns,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "hidden_sizes": list(config.task.hidden_sizes),
        "dataset": config.task.dataset,
        "batches": found,
        "adams_update": adams,
        "least": [least_gradient(s, baseline_update=adams) for s in config.speed_up],
    }


def _timed(batch: int, config: ConfigDict, data_dir: str | None) -> dict[str, list[float]]:
    task = make_task(config.task.to_dict() | {"batch_size": batch}, data_dir)
    found = step_times(
        {name: _optimizer(name) for name in _RULES}, task, jax.random.key(config.seed),
        num_steps=config.steps_timed, repeats=config.turns, clock=time.process_time,
    )  # fmt: skip
    print(
        f"batch {batch}:",
        *(f"{n} {1e3 * np.median(x):.3g} ms" for n, x in found.items()),
        flush=True,
    )
    return found


def _optimizer(name: str) -> Optimizer:
    rule, theta = load_rule(name)
    return Optimizer(lambda *_: rule.transform(theta))


def _ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians over turns, with the lowest and the highest quarter; milliseconds of the fastest."""
    sgd, adam, general = (np.array(seconds[name]) for name in _RULES)
    update = np.maximum(general - sgd, 1e-3 * sgd)
    quantities = {"gradient": sgd / update, "step": general / adam, "adams": (adam - sgd) / update}
    return {
        "milliseconds": {name: 1e3 * min(found) for name, found in seconds.items()},
        **{n: np.quantile(x, [0.5, 0.25, 0.75]).tolist() for n, x in quantities.items()},
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """What a step costs, and the number of trainings, against the time of the gradient."""
    figure, (left, right) = make_panels(
        2, xlabel="time of the gradient / time of general's own update", ylabel=""
    )
    cells = list(results["batches"].values())
    adams = results["adams_update"]
    x = np.geomspace(min(0.03, *(c["gradient"][1] for c in cells)), 30, 400)
    ratios = np.array([step_time(g, baseline_update=adams) for g in x])
    value, low, high = results["speed_up"]
    left.plot(x, ratios, color=_BLACK, linewidth=1.5)
    left.axhspan(low, high, color=_ORANGE, alpha=0.35, linewidth=0)
    left.axhline(value, color=_ORANGE, linewidth=1.2)
    left.text(
        x[-1], high * 1.04, f"{value:.2f} times fewer steps", ha="right", va="bottom", fontsize=8
    )
    left.text(x[0], 1.4, "below the band\nseconds are saved", fontsize=8, va="center")
    for batch, cell in results["batches"].items():
        _point(left, cell["gradient"], cell["step"])
        left.annotate(
            f"batch {int(batch):,}", (cell["gradient"][0], cell["step"][0]), (6, 3),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    left.set(title="1. How long a step of general takes", ylabel="step time / Adam's step time")
    left.set(xscale="log", yscale="log")
    _draw_trainings(right, results, x, ratios)
    for axis in (left, right):
        axis.title.set_fontsize(10)
        axis.xaxis.label.set_fontsize(9)
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter(lambda value, _: f"{value:g}")
            scale.set_minor_formatter(lambda *_: "")
    left.set_yticks([1, 2, 3, 5, 10, 20])
    left.set_ylim(0.9, 1.6 * ratios.max())
    save(figure, path / "break_even.svg")


def _draw_trainings(axis: Any, results: dict[str, Any], x: np.ndarray, ratios: np.ndarray) -> None:
    settings = {"meta_training": results["meta_training"], "run": results["run"]}
    runs = results["baseline_runs"]
    for number, dash, text in (
        (runs, "solid", f"Adam tries {runs} rates"),
        (1, (0, (5, 2)), "Adam's best rate is known"),
    ):
        bands = np.array(
            [
                [
                    break_even(**settings, speed_up=s, step_time=r, baseline_runs=number)
                    for s in results["speed_up"]
                ]
                for r in ratios
            ]
        )
        middle, worst, best = (np.where(np.isfinite(b), b, np.nan) for b in bands.T)
        inside = np.isfinite(best)
        axis.fill_between(
            x[inside], best[inside], np.where(np.isfinite(worst), worst, 1e9)[inside],
            color=_BLACK, alpha=0.15, linewidth=0,
        )  # fmt: skip
        axis.plot(x, middle, color=_BLACK, linestyle=dash, linewidth=1.6)
        axis.text(x[-1], middle[-1] / 1.15, text, ha="right", va="top", fontsize=8)
    never = results["least"][0]
    axis.axvline(never, color="0.6", linewidth=0.8, linestyle=(0, (2, 2)))
    axis.text(
        never / 1.2, 700, "← never, if Adam's\nbest rate is known", ha="right", va="top", fontsize=8
    )
    for cell in results["batches"].values():
        for name in ("tuned", "known"):
            if cell[name][0] is not None:
                _point(axis, cell["gradient"], [1e9 if n is None else n for n in cell[name]])
    axis.set(
        title="2. After how many trainings it pays", ylabel="trainings (a run with Adam: 1 minute)"
    )
    axis.set(xscale="log", yscale="log", ylim=(1, 1000))


def _point(axis: Any, across: list[float], up: list[float]) -> None:
    """A dot at the medians, with quartiles."""
    ends = [[[v[0] - v[1]], [v[2] - v[0]]] for v in (across, up)]
    axis.errorbar(
        [across[0]], [up[0]], xerr=ends[0], yerr=ends[1], fmt="o", color=_BLACK, markersize=5,
        elinewidth=1,
    )  # fmt: skip


def report(results: dict[str, Any]) -> str:
    """The answer and the tables."""
    cells = results["batches"]
    first, last = list(cells.items())[0], list(cells.items())[-1]
    known = [batch for batch, cell in cells.items() if cell["known"][0] is not None]
    tuned = [batch for batch, cell in cells.items() if cell["tuned"][0] is not None]
    value, low, high = results["speed_up"]
    least, most, fewest = results["least"]
    runs = results["baseline_runs"]
    update = [c["milliseconds"]["general"] - c["milliseconds"]["sgd"] for c in cells.values()]
    rates = f"{runs} rates"
    setting = (
        f"A perceptron with hidden layers of {' and '.join(map(str, results['hidden_sizes']))} "
        f"units on {display_name(results['dataset'])}: whole training steps of SGD, Adam and "
        f"`general`, in milliseconds of processor time, {results['turns']} turns. The gradient's "
        "time is that of SGD's step. The speed-up is that of the "
        f"[leaderboard](../../leaderboard/README.md), {value:.2f} [{low:.2f}, {high:.2f}] at the "
        "default rate; it comes from ten other workloads and is supposed to hold here. "
        f"Meta-training takes {results['meta_training'] / 60:.0f} minutes, compilation included "
        f"([how](../../general.md)), and one run with Adam {results['run']:.0f} seconds."
    )
    answer = (
        f"**A step of `general` takes {first[1]['step'][0]:.3g} times as long as Adam's with "
        f"batches of {int(first[0]):,} and {last[1]['step'][0]:.3g} times with {int(last[0]):,}.** "
        f"Its own update takes {min(update):.0f} to {max(update):.0f} ms whatever the batch; the "
        "gradient, which every rule has to wait for, grows with it. **What decides is the time of "
        "the gradient over that of the update: where the gradient takes more than "
        f"{least:.2f} [{fewest:.2f}, {most:.2f}] times as long as the update, the step "
        "costs less than the speed-up saves, and meta-training pays in the end"
        f"{_from(known)} even against an Adam whose best rate is known.** Where the gradient is "
        "cheaper it never does, however many the trainings. An Adam that has to try "
        f"{rates} is passed much earlier{_from(tuned)}. Whoever takes θ as it comes pays nothing "
        "for meta-training, and the same bounds say whether a single training is quicker. All of "
        "this counts seconds to the same training loss; the lower losses after as many steps are "
        "not in it."
    )
    rows = []
    for batch, cell in cells.items():
        times = [f"{cell['milliseconds'][rule]:.3g}" for rule in _RULES]
        ratios = [f"{a:.3g} [{b:.3g}, {c:.3g}]" for a, b, c in (cell["gradient"], cell["step"])]
        counts = [_written(cell[name]) for name in ("tuned", "known")]
        rows.append([f"{int(batch):,}", *times, *ratios, *counts])
    head = [
        "batch", *(f"{display_name(rule)}, ms" for rule in _RULES), "gradient / update",
        "step / Adam's", f"trainings, if Adam tries {rates}", "if Adam's best rate is known",
    ]  # fmt: skip
    steps = "\n\n".join(
        [
            "## Steps, and the trainings after which it pays",
            "Times are those of the fastest turn, ratios medians with quartiles over turns; "
            "trainings with their range over the interval of the speed-up.",
            table(head, rows),
        ]
    )
    lengths = {"a second": 1, "a minute": 60, "an hour": 3600}
    counted = [
        [
            _written(
                break_even_interval(
                    results["meta_training"], seconds, speed_up=tuple(results["speed_up"]),
                    step_time=results["leaderboard_step_time"], baseline_runs=number,
                )
            )
            for seconds in lengths.values()
        ]
        for number in (runs, 1)
    ]  # fmt: skip
    board = "\n\n".join(
        [
            "## On the leaderboard's networks",
            f"There a step takes {results['leaderboard_step_time']:.2f} times Adam's, the median "
            "of three workloads. Trainings after which it pays, if one run with Adam takes",
            table(
                ["", *lengths],
                [
                    [f"Adam tries {rates}", *counted[0]],
                    ["Adam's best rate is known", *counted[1]],
                ],
            ),
        ]
    )
    question = "What does a step cost, and when is meta-training worth it?"
    return answer_page(question, "break_even", setting, answer, steps, board)


def _from(batches: list[str]) -> str:
    """Where it pays, among the batches that were timed."""
    return f" (here from batches of {int(batches[0]):,} on)" if batches else " (nowhere here)"


def _written(numbers: Sequence[float | None]) -> str:
    """The number of trainings with its interval."""
    text = ["never" if n is None or math.isinf(n) else f"{n:,.0f}" for n in numbers]
    return text[0] if len(set(text)) == 1 else f"{text[0]} [{text[1]}, {text[2]}]"
