"""Compares update rules on a task: learned ones as they are, hand-designed ones tuned first.

    python -m experiments.compare --config=experiments/configs/compare/quadratic.py --workdir=DIR

Every rule meets the same fresh problems, which neither tuning nor meta-training has seen. The same
command goes on where it was cut short. Writes results.json, tables.txt, metrics.jsonl, TensorBoard
events, config.json, versions.json and the figures losses.png and tuning.png into the work
directory. With `test_every` progress.png takes the place of losses.png: training and test curves
against updates and seconds.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.build import make_task
from experiments.common.comparison import (
    TUNING,
    Result,
    check_comparison,
    compare_rules,
    device_mesh,
    draw_losses,
    draw_tuning,
    find_rules,
    plus_minus,
    print_tables,
)
from experiments.common.launch import check_positive, launch
from experiments.common.names import display_name, with_unit
from experiments.common.workdir import open_workdir, write_json
from learned_opt.evaluation import ended_above_start
from learned_opt.figures.labels import MOST_LINES
from learned_opt.figures.progress import Progress, progress_curves
from learned_opt.metrics import MetricsWriter

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "task": {},
        "rules": ("sgd", "adam"),  # hand-designed, pretrained, or paths of theta.npz files
        "num_seeds": 64,
        "num_steps": 100,
        "report_steps": (100,),  # numbers of updates to report losses at
        "test_every": 0,  # updates between two points of test curves; 0 draws none
        "tuning": TUNING,  # of learning rates, see `experiments.common.comparison`
    }
)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with one comparison."""
    config = check_comparison(config, DEFAULTS)
    every = config.test_every
    if every:
        check_positive(config, "test_every")
    mesh = device_mesh()
    entries = find_rules(config.rules, config.tuning.num_steps)
    task = make_task(config.task, data_dir)
    workdir = open_workdir(workdir, config)
    results = compare_rules(
        task,
        entries,
        jax.random.key(config.seed),
        num_seeds=config.num_seeds,
        num_steps=config.num_steps,
        report_steps=config.report_steps,
        tuning_config=config.tuning,
        folder=workdir / "rules",
        test_steps=range(0, config.num_steps + 1, every) if every else (),
        mesh=mesh,
    )
    write_json(workdir / "results.json", [result.summary for result in results])
    with MetricsWriter(workdir) as writer:
        for step in range(config.num_steps + 1):
            means = {r.label: r.losses[:, step].astype(np.float64).mean() for r in results}
            writer.write(step, {f"{label}/loss": mean for label, mean in means.items()})
    results = [r._replace(label=display_name(r.label)) for r in results]
    parts = (config.task.get(name, "") for name in ("name", "dataset", "family"))
    title = " ".join(filter(None, parts)).replace("_", " ")
    if every:
        figure = draw_progress(results, title, workdir)
    else:
        ylabel = with_unit("training loss", config.task.name)
        figure = draw_losses(results, title, config.report_steps, workdir, ylabel=ylabel)
    draw_tuning(results, title, workdir)
    print_tables([loss_table(results), cost_table(results)], workdir / "tables.txt")
    for line in verdicts(results):
        print(line)
    print(f"figures: {figure}, {workdir / 'tuning.png'}")


def draw_progress(results: Sequence[Result], title: str, workdir: Path) -> Path:
    """Draws training and test curves against updates and seconds; returns the figure's path.

    Of six rules at most: learned ones first, then those tuned ones that end with the lowest losses.
    The tables have all.
    """
    order = sorted(results, key=lambda r: ("tuning" in r.summary, _final_loss(r)))
    shown = {r.label for r in order[:MOST_LINES]}
    left_out = len(results) - len(shown)
    title += f", {results[0].summary['num_seeds']} runs, mean ± standard error"
    if left_out:
        more = "rule that ends" if left_out == 1 else "rules that end"
        title += f"\n({left_out} tuned {more} higher: see the tables)"
    rules = {
        r.label: Progress(r.losses, r.summary["ms_per_step"] / 1000, _test_curves(r.summary))
        for r in results
        if r.label in shown
    }
    path = workdir / "progress.png"
    progress_curves(rules, path, title=title)
    return path


def _final_loss(result: Result) -> float:
    """The mean training loss over the last twentieth of the run; infinity where it diverged."""
    last = result.losses[:, -max(1, result.losses.shape[1] // 20) :].astype(np.float64)
    return float(last.mean()) if np.isfinite(last).all() else math.inf


def _test_curves(summary: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, ...]]:
    """For each test metric: numbers of updates, means and standard errors."""
    steps = np.array([int(step) for step in summary["test"]])
    metrics = next(iter(summary["test"].values()))
    return {
        metric: (
            steps,
            *(
                np.array([float(at[metric][part]) for at in summary["test"].values()])
                for part in ("mean", "standard_error")
            ),
        )
        for metric in metrics
    }


def loss_table(results: Sequence[Result]) -> Table:
    """Training losses, and how the learning rate was found."""
    table = Table(title="training loss: mean over runs ± standard error")
    table.add_column("rule")
    for step in results[0].summary["loss"]:
        table.add_column(f"step {step}", justify="right")
    for step in results[0].summary["sum_of_losses"]:
        table.add_column(f"sum of {step}", justify="right")
    table.add_column("diverged", justify="right")
    table.add_column("ended above start", justify="right")
    table.add_column("learning rate", justify="right")
    for result in results:
        summary = result.summary
        tuned = summary.get("tuning")
        rate = f"{tuned['learning_rate']:.3g}" if tuned else "–"
        if tuned and tuned["on_edge"]:
            rate += f" ({tuned['on_edge']} edge of the grid)"
        table.add_row(
            result.label,
            *map(plus_minus, summary["loss"].values()),
            *map(plus_minus, summary["sum_of_losses"].values()),
            f"{summary['diverged']} of {summary['num_seeds']}",
            f"{summary['ended_above_start']} of {summary['num_seeds']}",
            rate,
        )
    return table


def cost_table(results: Sequence[Result]) -> Table:
    """Metrics on the test split, and what a step costs."""
    # Quadratics have nothing held out: their test loss is the loss.
    heldout = any(
        list(metrics) != ["loss"]
        or not math.isclose(
            float(metrics["loss"]["mean"]), float(r.summary["loss"][step]["mean"]), rel_tol=1e-4
        )
        for r in results
        for step, metrics in _reported(r.summary).items()
    )
    title = "test split: mean over runs ± standard error; cost" if heldout else "cost"
    table = Table(title=title)
    table.add_column("rule")
    for step, metrics in _reported(results[0].summary).items() if heldout else ():
        for metric in metrics:
            table.add_column(f"test {metric}, step {step}", justify="right")
    table.add_column("ms a step", justify="right")
    table.add_column("state, bytes a parameter", justify="right")
    for result in results:
        test = _reported(result.summary).values() if heldout else ()
        table.add_row(
            result.label,
            *(plus_minus(value) for metrics in test for value in metrics.values()),
            f"{result.summary['ms_per_step']:.3g}",
            f"{result.summary['state_bytes_per_parameter']:.3g}",
        )
    return table


def _reported(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The test metrics at the report steps alone."""
    return {step: metrics for step, metrics in summary["test"].items() if step in summary["loss"]}


def verdicts(results: Sequence[Result]) -> list[str]:
    """For each report step: the best learned rule against the best hand-designed one, paired."""
    lines = []
    results_of = {r.label: r for r in results}
    for step in results[0].summary["loss"]:
        columns = {r.label: r.losses[:, int(step)].astype(np.float64) for r in results}
        tuned = {r.label for r in results if "tuning" in r.summary}
        means = {k: float(v.mean()) for k, v in columns.items() if np.isfinite(v).all()}
        learned = [k for k in means if k not in tuned]
        designed = [k for k in means if k in tuned]
        if not learned or not designed:
            continue
        a, b = min(learned, key=means.__getitem__), min(designed, key=means.__getitem__)
        difference = columns[a] - columns[b]
        error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
        worse = {k: int(ended_above_start(results_of[k].losses).sum()) for k in (a, b)}
        word = "below" if difference.mean() < 0 else "above"
        lines.append(
            f"step {step}: {a} {means[a]:.4g} is {abs(difference.mean()):.2g} ± {error:.1g} {word} "
            f"{b} {means[b]:.4g}, the best hand-designed rule here"
            + "".join(
                f"; {k} ended above its start in {n} of {len(difference)} runs"
                for k, n in worse.items()
                if n
            )
        )
    return lines


if __name__ == "__main__":
    launch(main)
