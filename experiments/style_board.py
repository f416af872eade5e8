r"""Optimizers on neural style transfer, on photographs that nothing was tuned or trained on.

    python -m experiments.style_board --config=experiments/configs/style_board/church_64.py \
        --content_dir=DIR --workdir=DIR

Hand-designed rules, L-BFGS among them, are tuned on contents of the split valid; then every rule
paints the same contents of the split test. The same command goes on where it was cut short. Writes
results.json, tables.txt, rules/, config.json, versions.json and the figures losses.png, tuning.png
and pictures.png into the work directory.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.build import make_task
from experiments.common.comparison import (
    TUNING,
    Entry,
    Result,
    check_comparison,
    describe,
    device_mesh,
    draw_losses,
    draw_tuning,
    find_rules,
    mean_and_error,
    percent,
    plus_minus,
    print_tables,
    summarize,
    tune,
)
from experiments.common.launch import launch
from experiments.common.names import display_name
from experiments.common.progress import Progress
from experiments.common.style_runs import Runs, run_contents
from experiments.common.workdir import open_workdir, write_json
from learned_opt.evaluation import Evaluation
from learned_opt.figures import pictures
from learned_opt.studies import digest
from learned_opt.studies.statistics import paired_difference
from learned_opt.tasks import StyleTransfer
from learned_opt.types import Theta

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "task": {"name": "style_transfer"},
        "rules": ("adam", "lbfgs"),  # the others are compared with the first
        "rates": {},  # rule -> (lowest, highest) learning rate at first, else those of tuning
        "num_seeds": 100,  # contents, the first of the split test; one run each
        "num_steps": 128,
        "report_steps": (16, 32, 128),  # steps in the tables and in the picture
        "shown": (0,),  # the numbers of contents in the figure of pictures
        # of learning rates
        "tuning": TUNING | {"num_steps": (128,), "num_seeds": 4, "per_decade": 4, "split": ""},
    }
)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with a board."""
    config = check_comparison(config, DEFAULTS)
    config.shown = tuple(sorted(set(config.shown)))
    if not config.shown or config.shown[0] < 0 or config.shown[-1] >= config.num_seeds:
        raise ValueError(f"shown must name contents, 0 … {config.num_seeds - 1}: {config.shown}")
    mesh = device_mesh()
    entries = find_rules(config.rules, config.tuning.num_steps)
    task, valid = (_task(config, split, data_dir) for split in ("test", "valid"))
    if config.num_seeds > len(task.contents):
        raise ValueError(
            f"num_seeds is {config.num_seeds}, but there are {len(task.contents)} test contents: "
            "name a folder that has more, --content_dir=DIR, or lower it"
        )
    folder = open_workdir(workdir, config) / "rules"
    folder.mkdir(exist_ok=True)
    results, runs = [], {}
    for entry in entries:
        theta, tuned = _tuned(entry, valid, config, folder / f"{entry.label}.json", mesh)
        with Progress(f"{entry.label}: contents", 0, config.num_seeds) as bar:
            found = run_contents(
                entry.rule,
                theta,
                task,
                num_contents=config.num_seeds,
                num_steps=config.num_steps,
                marks=config.report_steps,
                shown=config.shown,
                file=folder / f"{entry.label}.npz",
                identity=digest(theta),
                mesh=mesh,
                progress=lambda done, bar=bar: bar.update(done, {}),  # type: ignore[misc]
            )
        evaluated = Evaluation(found.losses, {}, ())
        summary = summarize(entry, tuned, evaluated, config.report_steps)
        summary["gradients"] = float(found.gradients[:, -1].mean())
        results.append(Result(display_name(entry.label), summary, found.losses))
        runs[display_name(entry.label)] = found
    write_json(workdir / "results.json", [result.summary for result in results])
    styles, size = _styles(config), f"{task.contents.shape[1]} × {task.contents.shape[2]}"
    lowest = np.min([r.losses.min(axis=1, keepdims=True) for r in results], axis=0)
    excess = {r.label: r.losses - lowest for r in results}
    more = {"above the lowest loss that\nany rule found on the content": excess}
    title = f"{styles}\n{size}"
    draw_losses(results, title, config.report_steps, workdir, ylabel="loss", more=more)
    draw_tuning(results, title, workdir)
    _show(runs, task, config, workdir / "pictures.png")
    print_tables(
        [board_table(results, runs, config.report_steps, f"{styles}, {size}")],
        workdir / "tables.txt",
    )
    print(f"figures: {', '.join(str(path) for path in sorted(workdir.glob('*.png')))}")


def _task(config: ConfigDict, split: str, data_dir: str | None) -> StyleTransfer:
    name = config.task.get("name")
    if name != "style_transfer":
        raise ValueError(f"this board is of the task 'style_transfer', got {name!r}")
    task = make_task({**config.task, "split": split}, data_dir)
    assert isinstance(task, StyleTransfer)
    return task


def _tuned(
    entry: Entry,
    task: StyleTransfer,
    config: ConfigDict,
    file: Path,
    mesh: jax.sharding.Mesh | None,
) -> tuple[Theta, dict[str, Any] | None]:
    """A rule's θ, tuned where there is something to tune, and what tuning found."""
    if entry.tuned_for is None:
        return entry.theta, None
    if not file.exists():
        settings = config.tuning.copy_and_resolve_references()
        settings.low, settings.high = config.rates.get(
            entry.label, (config.tuning.low, config.tuning.high)
        )
        with percent(f"{entry.label}: tuning") as progress:
            key = jax.random.key(config.seed)
            write_json(file, describe(tune(entry, task, key, settings, mesh, progress)))
    found = json.loads(file.read_text(encoding="utf-8"))
    return {**entry.theta, "learning_rate": jnp.float32(found["learning_rate"])}, found


def _styles(config: ConfigDict) -> str:
    """The names of the styles, for people."""
    style = config.task.get("style") or "styles of a folder"
    return ", ".join((style,) if isinstance(style, str) else style).replace("_", " ")


def _show(runs: Mapping[str, Runs], task: StyleTransfer, config: ConfigDict, path: Path) -> None:
    """Draws some contents, their styles, and what every rule has made of them."""
    marks = list(config.report_steps)
    contents, styles = np.asarray(task.contents), np.asarray(task.styles)
    pictures.style_grid(
        [(contents[n], styles[n % len(styles)]) for n in config.shown],
        {
            label: [(found.pictures[k], found.losses[n, marks]) for k, n in enumerate(config.shown)]
            for label, found in runs.items()
        },
        marks,
        path,
    )


def board_table(
    results: Sequence[Result], runs: Mapping[str, Runs], steps: Sequence[int], title: str
) -> Table:
    """Losses at the report steps, and how much higher than the first rule's they are in the end.

    A line search takes more than one gradient a step: a second row of such a rule has, at step s,
    what it had reached when it had taken s gradients.
    """
    first, last = results[0], steps[-1]
    table = Table(title=f"{title}: mean loss over {first.summary['num_seeds']} contents")
    for name in ("rule", *(f"step {step}" for step in steps)):
        table.add_column(name, justify="left" if name == "rule" else "right")
    table.add_column(f"above {first.label} at {last}, 90 % interval", justify="right")
    table.add_column("gradients a step", justify="right")
    table.add_column("learning rate", justify="right")

    def above(losses: np.ndarray) -> str:
        if len(losses) < 2:
            return "–"
        found = paired_difference(losses, first.losses[:, last])
        return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"

    for result in results:
        tuned, found = result.summary.get("tuning"), runs[result.label]
        rate = f"{tuned['learning_rate']:.3g}" if tuned else "–"
        if tuned and tuned["on_edge"]:
            rate += f" ({tuned['on_edge']} edge of the grid)"
        per_step = result.summary["gradients"] / (result.losses.shape[1] - 1)
        table.add_row(
            result.label,
            *map(plus_minus, result.summary["loss"].values()),
            "–" if result is first else above(result.losses[:, last]),
            f"{per_step:.3g}",
            rate,
        )
        if per_step > 1:
            columns = [found.at_gradients(step) for step in steps]
            table.add_row(
                f"{result.label}, by gradients",
                *(plus_minus(mean_and_error(column)) for column in columns),
                above(columns[-1]),
                "",
                "",
            )
    return table


if __name__ == "__main__":
    launch(main)
