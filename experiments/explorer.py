r"""A page to play with: how rules move over surfaces, and how long their steps are in a training.

    python -m experiments.explorer --workdir=DIR

Writes explorer.html, one file that any browser opens, with everything in it. All ways are recorded
here, by the library; the page shows them. Another `--config` shows other rules, surfaces or rates.
What is recorded is kept in parts/, so that the same command goes on where it was cut short.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.common.build import load_rule
from experiments.common.explorer_data import record_surface, record_training, styles
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt.figures.explorer import BANDS, MAP_SIDE, write_page
from learned_opt.tasks import SURFACES, Surface

CONFIG = Path(__file__).parent / "configs/explorer/explorer.py"
DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "surfaces": SURFACES,  # names of `tasks.Surface`
        "rules": (("sgd", (0.01, 0.1)), ("adam", (0.01, 0.1))),  # pairs (name, rates)
        "start_side": 4,  # starts on a grid of so many by so many
        "num_steps": 100,
        "training_task": {"name": "image_classifier", "dataset": "digits"},  # of the second tab
        "training_rules": (("adam", 0.01),),  # pairs (name, rate)
        "training_steps": 200,  # of the second tab
    }
)


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Records, or goes on, and writes the page."""
    config = check_fields(config, DEFAULTS)
    check_positive(config, "start_side", "num_steps", "training_steps")
    if not (config.surfaces and config.rules and config.training_rules):
        raise ValueError("surfaces, rules and training_rules must each name at least one")
    surfaces = [Surface(name) for name in config.surfaces]
    for name, *_ in (*config.rules, *config.training_rules):
        load_rule(name)
    workdir = open_workdir(workdir, config)
    (workdir / "parts").mkdir(exist_ok=True)
    work = len(surfaces) * len(config.rules) + len(config.training_rules)
    with Progress("explorer", 0, work) as bar:
        done = 0

        def report() -> None:
            nonlocal done
            done += 1
            bar.update(done, {})

        recorded = {}
        for surface in surfaces:
            record = functools.partial(
                record_surface,
                surface,
                config.rules,
                side=config.start_side,
                num_steps=config.num_steps,
                report=report,
            )
            recorded[surface.name] = _kept(workdir / "parts" / f"{surface.name}.json", record)
        training = _kept(
            workdir / "parts" / "training.json",
            lambda: record_training(
                config.training_task.to_dict(),
                config.training_rules,
                num_steps=config.training_steps,
                seed=config.seed,
                data_dir=data_dir,
                report=report,
            ),
        )
    names = [name for name, _ in config.rules]
    data = {
        "steps": config.num_steps,
        "side": config.start_side,
        "bands": BANDS,
        "map_side": MAP_SIDE,
        "rates": dict(config.rules),
        "styles": styles([*names, *(n for n, _ in config.training_rules if n not in names)]),
        "surfaces": recorded,
        "training": {"steps": config.training_steps, **training},
    }
    page = workdir / "explorer.html"
    write_page(data, page, title="How optimizers move")
    print(f"{page}: {page.stat().st_size / 1e6:.2f} MB; open it in a browser")


def _kept(file: Path, make: Callable[[], Any]) -> Any:
    """What a file holds, made first where there is none."""
    if not file.exists():
        write_json(file, make())
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    launch(main, default_config=CONFIG)
