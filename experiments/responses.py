r"""What does a rule do? Its steps as a function of the gradients it has seen.

    python -m experiments.responses --config=experiments/configs/responses/responses.py \
        --workdir=DIR

Shows every rule gradients made by hand: constant, a single one, one that begins, turns around,
alternates or drowns in noise, over six decades of size. Writes rules/NAME.svg, one figure a rule;
pairs/ONE_OTHER.svg, two rules side by side; results.json and tables.txt. Rules that treat matrices
in another way than the rest, as Muon and `general` do, are shown on a small matrix and on a vector;
of a rule for each kind of parameter, as `by_label` makes, each is shown by itself.
What is measured is kept in parts/, so that the same command goes on where it was cut short.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.build import load_rule
from experiments.common.comparison import file_label, print_tables
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.names import display_name
from experiments.common.progress import Progress
from experiments.common.workdir import open_workdir, write_json
from learned_opt.figures.responses import Answers, answers
from learned_opt.studies.responses import SIGNALS, noise_response, signal, signal_responses
from learned_opt.types import Theta, UpdateRule

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "rules": ("sgd", "adam"),  # names, or paths of theta.npz files
        "pairs": (),  # of rules named above; a file by its name, DIR/theta.npz by DIR's
        "num_steps": 80,
        "at": 20,  # when an impulse comes, a step begins and a gradient turns around
        "sizes": tuple(10.0**n for n in range(-6, 1)),  # of constant gradients
        "shown_sizes": (1e-6, 1e-4, 1e-2, 1.0),  # in the figure of a rule
        "pair_size": 1e-2,  # in the figures of two
        "noise": (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),  # standard deviation / gradient
        "noise_runs": 32,  # averaged
        "matrix_size": 4,  # side of the matrix that matrix rules are shown
    }
)


class Measured(NamedTuple):
    """A rule on a vector, or on a matrix, or one of its parts.

    Attributes:
      name: the rule's name and, where there are two of it, which: 'general_matrix'.
      label: how it is called in figures.
      rule: the rule's name.
      steps: −u along the gradient, `[signals, sizes, T]`.
      units: by size, the root mean square of the steps in the last half of a constant gradient.
      noise: mean steps at `pair_size`, and their standard errors, `[noise]` each.
    """

    name: str
    label: str
    rule: str
    steps: np.ndarray
    units: np.ndarray
    noise: tuple[np.ndarray, np.ndarray]


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Measures and draws every rule."""
    del data_dir
    config = _checked(config)
    signals = {
        name: signal(name, config.num_steps, at=config.at, seed=config.seed) for name in SIGNALS
    }
    rules = {file_label(name): load_rule(name) for name in config.rules}
    workdir = open_workdir(workdir, config)
    found: list[Measured] = []
    with Progress("responses", 0, len(rules)) as bar:
        for n, (name, (rule, theta)) in enumerate(rules.items(), 1):
            for part in _parts(rule, theta):
                found.append(_measured(name, part, signals, config, workdir))
            bar.update(n, {})
    _draw(found, signals, config, workdir)
    write_json(workdir / "results.json", {m.name: _results(m, config) for m in found})
    print_tables([_table(found, config)], workdir / "tables.txt")
    print(f"figures: {workdir / 'rules'}, {workdir / 'pairs'}")


def _checked(config: ConfigDict) -> ConfigDict:
    config = check_fields(config, DEFAULTS)
    check_positive(config, "num_steps", "noise_runs", "matrix_size")
    if not config.rules:
        raise ValueError("rules must name at least one rule")
    labels = [file_label(name) for name in config.rules]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"rules name {', '.join(twice)} more than once")
    unknown = {name for pair in config.pairs for name in pair} - set(labels)
    if unknown:
        raise ValueError(f"pairs name {', '.join(sorted(unknown))}, which rules does not")
    missing = {config.pair_size, *config.shown_sizes} - set(config.sizes)
    if missing:
        raise ValueError(f"sizes must hold pair_size and shown_sizes, but lacks {sorted(missing)}")
    if not config.noise or config.noise[0] != 0:
        raise ValueError("noise must begin with 0, with which the others are compared")
    return config


def direction(shape: str, size: int) -> np.ndarray:
    """Where gradients point: ones for a vector; for a matrix normal numbers of mean square 1."""
    if shape == "vector":
        return np.ones(size)
    matrix = np.random.default_rng(0).normal(size=(size, size))
    return matrix / np.sqrt(np.mean(matrix**2))


class _Part(NamedTuple):
    """What one figure shows of a rule: all of it, a rule for one label, or what it does to a shape.

    Attributes:
      name: which, empty where it is all of it.
      rule: the rule.
      theta: its θ.
      shape: 'vector' or 'matrix', what it is shown.
    """

    name: str
    rule: UpdateRule
    theta: Theta
    shape: str


def _parts(rule: UpdateRule, theta: Theta, label: str = "") -> list[_Part]:
    if rule.parts:
        return [part for name, own in rule.parts for part in _parts(own, theta[name], name)]
    if rule.coordinatewise:
        return [_Part(label, rule, theta, "vector")]
    shapes = ("matrix", "vector")
    return [_Part(f"{label} {shape}".strip(), rule, theta, shape) for shape in shapes]


def _measured(name: str, part: _Part, signals, config, workdir) -> Measured:
    """Measures a rule, or finds what an earlier call of the same command measured."""
    full_name = "_".join([name, *part.name.split()])
    file = workdir / "parts" / f"{full_name}.npz"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        partial = file.with_suffix(".partial.npz")
        steps, mean, error = _measure(part.rule, part.theta, part.shape, signals, config)
        np.savez(partial, steps=steps, mean=mean, error=error)
        partial.replace(file)
    with np.load(file) as kept:
        steps, mean, error = kept["steps"], kept["mean"], kept["error"]
    constant = steps[list(signals).index("constant")]
    units = np.sqrt(np.mean(constant[:, config.num_steps // 2 :] ** 2, axis=1))
    label = display_name(name) + (f" ({part.name})" if part.name else "")
    return Measured(full_name, label, name, steps, units, (mean, error))


def _measure(rule, theta, shape, signals, config) -> tuple[np.ndarray, ...]:
    d = direction(shape, config.matrix_size)
    steps = -signal_responses(rule, theta, np.stack(list(signals.values())), config.sizes, d)
    mean, error = noise_response(
        rule,
        theta,
        config.noise,
        size=config.pair_size,
        direction=d,
        runs=config.noise_runs,
        num_steps=config.num_steps,
        seed=config.seed,
    )
    return steps, -mean, error


def _answers(m: Measured, size: float, config: ConfigDict, *, summary: bool = True) -> Answers:
    n = list(config.sizes).index(size)
    unit = m.units[n] or 1.0
    if not summary:
        return Answers(m.steps[:, n] / unit, unit)
    base = m.noise[0][0] or 1.0
    noise = (np.asarray(config.noise), m.noise[0] / base, m.noise[1] / abs(base))
    return Answers(m.steps[:, n] / unit, unit, (np.asarray(config.sizes), m.units), noise)


def _draw(found: Sequence[Measured], signals: Any, config: ConfigDict, workdir: Path) -> None:
    for folder in ("rules", "pairs"):
        (workdir / folder).mkdir(exist_ok=True)
    for m in found:
        lines = {
            f"gradient {size:g}": _answers(m, size, config, summary=size == config.shown_sizes[-1])
            for size in config.shown_sizes
        }
        title = f"{m.label}: its steps, by gradient"
        path = workdir / "rules" / f"{m.name}.svg"
        answers(lines, signals, path, title=title, shades_of=m.label)
    for pair in config.pairs:
        chosen = [m for name in pair for m in found if m.rule == name]
        lines = {m.label: _answers(m, config.pair_size, config) for m in chosen}
        title = f"{' beside '.join(map(display_name, pair))}, gradient {config.pair_size:g}"
        answers(lines, signals, workdir / "pairs" / f"{'_'.join(pair)}.svg", title=title)


def summary(m: Measured, config: ConfigDict) -> dict[str, float]:
    """What the figures show, in numbers; steps in units of those under a constant gradient.

    - `step`: the unit, at `pair_size`;
    - `slope`: of log step over log gradient, 1 for gradient descent, 0 where size plays no part;
    - `memory`: updates until half of what an impulse moves in all has been moved;
    - `overshoot`: the longest step after a gradient begins;
    - `turn`: updates after a flip until the steps follow it;
    - `alternating`: root mean square of the steps under alternating gradients, last half;
    - `noise`: the mean step in the largest noise over that without.
    """
    n = list(config.sizes).index(config.pair_size)
    by_signal = dict(zip(SIGNALS, m.steps[:, n] / (m.units[n] or 1.0), strict=True))
    moved = np.cumsum(np.abs(by_signal["impulse"][config.at :]))
    after_flip = by_signal["flip"][config.at :] < 0
    last = by_signal["alternating"][config.num_steps // 2 :]
    return {
        "step": float(m.units[n]),
        "slope": float(np.polyfit(np.log(config.sizes), np.log(m.units + 1e-30), 1)[0]),
        "memory": int(np.argmax(moved >= moved[-1] / 2)) + 1,
        "overshoot": float(by_signal["step"][config.at :].max()),
        "turn": int(np.argmax(after_flip)) + 1 if after_flip.any() else float("inf"),
        "alternating": float(np.sqrt(np.mean(last**2))),
        "noise": float(m.noise[0][-1] / (m.noise[0][0] or 1.0)),
    }


def _results(m: Measured, config: ConfigDict) -> dict[str, Any]:
    rounded = lambda x: [float(f"{v:.4g}") for v in x]  # noqa: E731
    n = list(config.sizes).index(config.pair_size)
    return {
        **{key: float(f"{value:.4g}") for key, value in summary(m, config).items()},
        "step_by_size": rounded(m.units),
        "mean_step_by_noise": rounded(m.noise[0]),
        "standard_errors": rounded(m.noise[1]),
        "steps": {s: rounded(m.steps[i, n]) for i, s in enumerate(SIGNALS)},
    }


def _table(found: Sequence[Measured], config: ConfigDict) -> Table:
    table = Table(title=f"answers to gradients of {config.pair_size:g}; see `summary`")
    table.add_column("rule")
    for column in summary(found[0], config):
        table.add_column(column, justify="right")
    for m in found:
        table.add_row(m.label, *(f"{value:.3g}" for value in summary(m, config).values()))
    return table


if __name__ == "__main__":
    launch(main)
