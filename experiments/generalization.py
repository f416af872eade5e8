r"""The generalization lab: what the training loss does not tell.

    python -m experiments.generalization --config=experiments/configs/generalization/NAME.py \
        --workdir=DIR

Runs the experiment that `config.experiment` names. The same command goes on where it was cut short.
Writes results.json, its figures and the answer, README.md, into the work directory.
"""

import importlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.common.launch import check_fields, launch
from experiments.common.workdir import open_workdir, rounded, write_json

# name -> a module with
#   DEFAULTS: ConfigDict, the fields of its configs beside `experiment`;
#   run(config, workdir, data_dir) -> results, plain JSON, kept in files of `workdir` as it goes on;
#   draw(results, path), which writes its figures into that folder;
#   report(results) -> the answer, in Markdown.
EXPERIMENTS: dict[str, str] = {
    "batch_size": "experiments.lab.batch_size",
    "bias_variance": "experiments.lab.bias_variance",
    "break_even": "experiments.lab.break_even",
    "cross_validation": "experiments.lab.cross_validation",
    "early_stopping": "experiments.lab.early_stopping",
    "ensembles": "experiments.lab.ensembles",
    "epsilon": "experiments.lab.epsilon",
    "momentum": "experiments.lab.momentum",
    "regularizers": "experiments.lab.regularizers",
}


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with an experiment, and writes its results, figures and answer."""
    name = config.get("experiment")
    experiment = find_experiment(name)
    known = ConfigDict({**experiment.DEFAULTS, "experiment": name}, convert_dict=True)
    config = check_fields(config, known)
    workdir = open_workdir(workdir, config)
    results = rounded(experiment.run(config, workdir, data_dir))
    write_json(workdir / "results.json", results, indent=None)
    experiment.draw(results, workdir)
    (workdir / "README.md").write_text(experiment.report(results), encoding="utf-8")
    print(f"answer: {workdir / 'README.md'}")


def find_experiment(name: Any) -> Any:
    """The module of an experiment.

    Raises:
      ValueError: no experiment of that name.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; known: {', '.join(sorted(EXPERIMENTS))}")
    return importlib.import_module(EXPERIMENTS[name])


if __name__ == "__main__":
    launch(main)
