"""Makes a pretrained rule, NAME.npz and its card NAME.json, from a finished meta-training.

    python -m experiments.export_pretrained --workdir=DIR --name=lstm_quadratic \
        --results=RESULTS.json --fails='Diverges on …'

The run must have been made with `experiments/configs/meta_train/NAME.py` as it is: the card says
so, and leaves out where on this machine pictures and texts were read from. With --step_lengths=DIR
its θ is the one that `experiments.step_lengths` made of that run's, with the config of this name.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from experiments.common.build import HAND_DESIGNED, PLACES, make_rule, make_task
from experiments.common.launch import check_fields
from experiments.common.lookup import expand
from experiments.common.meta_config import DEFAULTS
from experiments.common.output import tolerate_encodings
from experiments.common.step_lengths_config import DEFAULTS as STEP_LENGTHS
from experiments.common.step_lengths_config import multiplied
from experiments.common.workdir import write_json
from learned_opt import __version__, evaluation, theta_files
from learned_opt.types import Task, Theta, UpdateRule
from learned_opt.unroll import draw

_PRETRAINED = Path(theta_files.__file__).parent / "pretrained"


def export(
    workdir: Path,
    name: str,
    *,
    results: dict[str, Any],
    fails: list[str],
    tested: Sequence[str] = (),
    attempts: Sequence[str] = (),
    data_dir: str | None = None,
    device: str | None = None,
    step_lengths: Path | None = None,
    output: Path,
) -> dict[str, Any]:
    """Writes `output/NAME.npz` and `output/NAME.json`.

    Args:
      workdir: the work directory of a finished `experiments.meta_train`.
      name: the name of the rule, and of its config file.
      results: what the rule reaches on evaluation; goes into the card as it is.
      fails: sentences on where the rule does not work.
      tested: sentences on the widths, activations and problems that it was tried on.
      attempts: sentences on what helps where it fails.
      data_dir: folder of TFDS data sets, where the run's task reads any.
      device: what the run was made on, for example '2 CPU cores'; by default JAX's name for it.
      step_lengths: the work directory of a finished `experiments.step_lengths`, from that run's θ.
      output: the folder to write to.

    Returns:
      The card.

    Raises:
      FileNotFoundError: the run is not finished.
      ValueError: a run was made with another config than that of this name in
        `experiments/configs/meta_train` or `experiments/configs/step_lengths`, or the step lengths
        are of another θ.
    """
    config, versions, cost = (
        _read(workdir / f"{part}.json") for part in ("config", "versions", "results")
    )
    trained_on = config["task"]
    places = [name for name in PLACES if name in trained_on]
    config["task"] = {name: x for name, x in trained_on.items() if name not in places}
    start, config["start_from"] = config.get("start_from"), ""  # a path, another on every machine
    _check_config(workdir, config, f"meta_train/{name}.py", DEFAULTS)
    theta = theta_files.load_theta(workdir / "theta.npz")
    more: dict[str, Any] = {}
    if step_lengths is not None:
        theta, more = _with_step_lengths(step_lengths, theta, name)
    counted = {}
    if cost.get("ended_above_start") is not None:
        counted["validation_problems_that_end_above_their_start"] = cost["ended_above_start"]
    card = {
        "name": name,
        "rule": config["rule"],
        "task": config["task"] or _mixture(config),
        "command": "python -m experiments.meta_train "
        f"--config=experiments/configs/meta_train/{name}.py --workdir=DIR"
        + "".join(f" --{place}=PATH" for place in places)
        + (" --config.start_from=START/theta.npz" if start else ""),
        "figure": f"docs/responses/{name}_adam.svg",  # of `experiments.responses`
        "seed": config["seed"],
        "versions": {k: v for k, v in versions.items() if k != "platform"}
        | {"learned_opt": __version__},
        "cost": {
            "inner_steps": cost["inner_steps"],
            "minutes": round(cost["minutes"], 1),
            "device": device or ", ".join(cost["devices"]),
        },
        "results": {"best_validation_score": cost["best_validation_score"], **counted, **results},
        **more,
        "tested": list(tested),
        "fails": fails,
        "try": list(attempts),
    }
    # A mixture has no task of its own: what its probe is made of is nearer to what people train.
    measured, where = trained_on, "its own task"
    if not measured:
        probe = config["probe"][0]
        measured, where = probe["task"], f"the first task of its probe ({probe['name']})"
    card |= _measured(make_rule(config["rule"]), theta, make_task(measured, data_dir), where)
    theta_files.save_theta(output / f"{name}.npz", theta, {"name": name, "rule": config["rule"]})
    write_json(output / f"{name}.json", card)
    return card


def _check_config(workdir: Path, config: dict[str, Any], file: str, defaults: ConfigDict) -> None:
    """Refuses a run of another config than the one in a file of `experiments/configs`."""
    module = f"experiments.configs.{file.removesuffix('.py').replace('/', '.')}"
    committed = importlib.import_module(module).get_config()
    wanted = json.loads(json.dumps(check_fields(committed, defaults).to_dict()))
    different = sorted(k for k in wanted.keys() | config.keys() if wanted.get(k) != config.get(k))
    if different:
        raise ValueError(
            f"{workdir} was not made with experiments/configs/{file}: {', '.join(different)} differ"
        )


def _with_step_lengths(workdir: Path, theta: Theta, name: str) -> tuple[Theta, dict[str, Any]]:
    """What `experiments.step_lengths` made of θ, and what a card says of that."""
    config, results = (_read(workdir / f"{part}.json") for part in ("config", "results"))
    config["theta"] = ""  # a path, another on every machine
    _check_config(workdir, config, f"step_lengths/{name}.py", STEP_LENGTHS)
    found = theta_files.load_theta(workdir / "theta.npz")
    factors = results["factors"]
    expected = multiplied(theta, config["parts"], factors)
    if not jax.tree.all(jax.tree.map(lambda x, y: np.allclose(x, y, rtol=1e-5), found, expected)):
        raise ValueError(f"{workdir} has the step lengths of another θ")
    command = (
        f"python -m experiments.step_lengths --config=experiments/configs/step_lengths/{name}.py "
        "--config.theta=TRAINED/theta.npz --workdir=DIR"
    )
    return found, {"step_lengths": {"command": command, "factors": factors}}


def _mixture(config: dict[str, Any]) -> dict[str, Any]:
    """What a mixture was trained on, for a card."""
    parts = ", ".join(part["name"].replace("_", " ") for part in config["estimator"]["parts"])
    return {"name": "mixture", "a mixture of": parts}


def _measured(rule: UpdateRule, theta: Theta, task: Task, where: str) -> dict[str, Any]:
    """How far a step goes and what it costs, on a task."""
    key = jax.random.key(0)
    adam = HAND_DESIGNED["adam"]()
    params = jax.eval_shape(lambda key: draw(task, key)[1], key)
    own, other = (
        evaluation.step_time(r, t, task, key) for r, t in ((rule, theta), (adam, adam.init(key)))
    )
    size = evaluation.state_bytes_per_parameter(rule, theta, params)
    return {
        "typical_step": evaluation.typical_step(rule, theta, task, key),
        "step_cost": f"{own / other:.2g} times Adam's training step on {where}, "
        f"{size:.0f} bytes of state a parameter (Adam: 8)",
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: is that run finished?")
    return json.loads(path.read_text(encoding="utf-8"))


def main(_: list[str]) -> None:
    """Exports with the settings from the command line."""
    tolerate_encodings()
    values = flags.FLAGS
    results = _read(expand(values.results)) if values.results else {}
    card = export(
        expand(values.workdir),
        values.name,
        results=results,
        fails=values.fails,
        tested=values.tested,
        attempts=values["try"].value or (),
        data_dir=values.data_dir,
        device=values.device,
        step_lengths=expand(values.step_lengths) if values.step_lengths else None,
        output=expand(values.output),
    )
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    flags.DEFINE_string("name", None, "name of the pretrained rule and of its config file")
    flags.DEFINE_string("results", None, "JSON file with what the rule reaches")
    flags.DEFINE_multi_string("fails", [], "a sentence on where it fails; may be repeated")
    flags.DEFINE_multi_string("tested", [], "a sentence on what it was tried on; may be repeated")
    flags.DEFINE_multi_string("try", [], "a sentence on what helps there; may be repeated")
    flags.DEFINE_string("device", None, "what the run was made on, for example '2 CPU cores'")
    flags.DEFINE_string("step_lengths", None, "work directory of experiments.step_lengths")
    flags.DEFINE_string("output", str(_PRETRAINED), "folder to write to")
    flags.mark_flags_as_required(["workdir", "name"])
    app.run(main)
