r"""Makes the steps of a learned rule longer or shorter, part by part: how far do they go best?

    python -m experiments.step_lengths --config=experiments/configs/step_lengths/lstm_cifar10.py \
        --workdir=DIR

Meta-gradients that take gradients as inputs (`TruncatedBPTT`, `second_order=False`) do not see that
another step brings other gradients: a rule that they have trained may well point the right way and
go too short or too far. This multiplies parts of θ, the output layers of LSTMs perhaps, by factors
and keeps those with the lowest mean training loss. It goes by coordinate descent on a geometric
grid: factor after factor becomes larger, or else smaller, notch by notch, as long as that helps,
until no single notch does. All are tried on the same problems, drawn from the task, with the same
starting points and minibatches.

Each trial is kept in trials.json, so that the same command goes on where it was cut short. Writes
theta.npz, results.json, tables.txt and the figure step_lengths.svg into the work directory.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Table

from experiments.common.build import make_rule, make_task
from experiments.common.comparison import (
    mean_and_error,
    number,
    percent,
    plus_minus,
    print_tables,
)
from experiments.common.launch import check_fields, check_positive, launch
from experiments.common.lookup import find_file
from experiments.common.step_lengths_config import DEFAULTS, multiplied
from experiments.common.workdir import open_workdir, write_json
from learned_opt.evaluation import evaluate
from learned_opt.figures.style import COLORS, make_panels, save
from learned_opt.theta_files import load_metadata, load_theta, save_theta
from learned_opt.types import Theta

Notches = tuple[int, ...]  # of each part: its factor is notch ** this


def main(config: ConfigDict, workdir: Path, data_dir: str | None) -> None:
    """Runs or goes on with one search."""
    config = _checked(config)
    source = find_file(config.theta)
    metadata = load_metadata(source)
    if not isinstance(metadata.get("rule"), dict):
        raise ValueError(f"{source} does not say which rule its θ is for")
    rule = make_rule(metadata["rule"])
    theta = load_theta(source, like=jax.eval_shape(rule.init, jax.random.key(0)))
    parts = dict(config.parts)
    _check_parts(theta, parts)
    task = make_task(config.task, data_dir)
    workdir = open_workdir(workdir, config)
    key = jax.random.fold_in(jax.random.key(config.seed), 1_000_033)  # of no other program

    def factors(notches: Notches) -> dict[str, float]:
        return {part: config.notch**n for part, n in zip(parts, notches, strict=True)}

    def losses(notches: Notches) -> list[float]:
        chosen = factors(notches)
        with percent(_named(chosen)) as progress:
            found = evaluate(
                rule,
                multiplied(theta, parts, chosen),
                task,
                key,
                num_seeds=config.num_seeds,
                num_steps=config.num_steps,
                progress=lambda done: progress(done, config.num_seeds),
            )
        return found.losses[:, :-1].astype(np.float64).mean(axis=1).tolist()

    trials = _Trials(workdir / "trials.json", losses)
    best = descend(trials.mean, len(parts), config.max_notches)
    chosen = factors(best)
    scores = {n: np.array(values) for n, values in trials.losses.items()}
    before = (0,) * len(parts)
    results = {
        "theta": str(config.theta),
        "factors": {part: float(f"{factor:.6g}") for part, factor in chosen.items()},
        "on_edge": max(map(abs, best)) == config.max_notches,
        "mean_loss": mean_and_error(scores[best]),
        "mean_loss_before": mean_and_error(scores[before]),
        "difference": mean_and_error(scores[best] - scores[before]),
        "trials": [
            {"factors": factors(n), "mean_loss": number(values.mean())}
            for n, values in scores.items()
        ],
    }
    write_json(workdir / "results.json", results)
    kept = {name: value for name, value in config.to_dict().items() if name != "theta"}  # a path
    metadata["step_lengths"] = {"factors": results["factors"], "config": kept}
    save_theta(workdir / "theta.npz", multiplied(theta, parts, chosen), metadata)
    print_tables([_table(results)], workdir / "tables.txt")
    _draw(scores, best, parts, config.notch, workdir / "step_lengths.svg")
    print(f"{_named(chosen)}; θ: {workdir / 'theta.npz'}   figure: {workdir / 'step_lengths.svg'}")


def descend(score: Callable[[Notches], float], num_parts: int, most: int) -> Notches:
    """A low score by coordinate descent from zero: no change of one number by one is better.

    Part after part goes up, or else down, for as long as that lowers the score.

    Args:
      score: of whole numbers, one a part; not finite is worst.
      num_parts: how many there are.
      most: none of them goes beyond this, up or down.
    """

    def ranked(notches: Notches) -> float:
        value = score(notches)
        return value if np.isfinite(value) else np.inf

    best: Notches = (0,) * num_parts
    lowest = ranked(best)
    before = None
    while best != before:
        before = best
        for k in range(num_parts):
            for change in (1, -1):
                start = best
                while abs(best[k] + change) <= most:
                    following = (*best[:k], best[k] + change, *best[k + 1 :])
                    value = ranked(following)
                    if not value < lowest:
                        break
                    best, lowest = following, value
                if best != start:
                    break
    return best


class _Trials:
    """Losses of the runs of each trial, kept in a file."""

    def __init__(self, path: Path, run: Callable[[Notches], list[float]]):
        """Reads what an earlier call of the same command kept."""
        self._path, self._run = path, run
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        self.losses: dict[Notches, list[float]] = {
            tuple(trial["notches"]): [float(loss) for loss in trial["losses"]] for trial in kept
        }

    def mean(self, notches: Notches) -> float:
        if notches not in self.losses:
            self.losses[notches] = self._run(notches)
            rows = [
                {"notches": list(n), "losses": [number(x) for x in values]}
                for n, values in self.losses.items()
            ]
            write_json(self._path, rows)
        return float(np.mean(self.losses[notches]))


def _checked(config: ConfigDict) -> ConfigDict:
    config = check_fields(config, DEFAULTS)
    check_positive(config, "num_steps", "num_seeds", "max_notches")
    if not config.theta:
        raise ValueError("theta must name the theta.npz of a meta-training")
    if not 1 < config.notch < np.inf:
        raise ValueError(f"notch must be above 1, got {config.notch}")
    if not config.parts:
        raise ValueError("parts must name at least one part of θ")
    for part, pattern in config.parts.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"parts.{part} must be a regular expression, got {pattern!r}: {error}"
            ) from None
    return config


def _check_parts(theta: Theta, parts: Mapping[str, str]) -> None:
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(theta)]
    for path in paths:
        having = [part for part, pattern in parts.items() if re.search(pattern, path)]
        if len(having) > 1:
            raise ValueError(f"parts {' and '.join(having)} both have the leaf {path} of θ")
    for part, pattern in parts.items():
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"parts.{part}={pattern!r} is found in no path of θ: {', '.join(paths)}"
            )


def _named(factors: Mapping[str, float]) -> str:
    return ", ".join(f"{part} ×{factor:.3g}" for part, factor in factors.items())


def _table(results: Mapping[str, Any]) -> Table:
    table = Table(title="Mean training loss, by factor on the steps of each part")
    for part in results["factors"]:
        table.add_column(part, justify="right")
    table.add_column("mean loss", justify="right")
    for trial in sorted(results["trials"], key=lambda t: float(t["mean_loss"])):
        factors = (f"{factor:.3g}" for factor in trial["factors"].values())
        table.add_row(*factors, f"{float(trial['mean_loss']):.4f}")
    table.caption = f"best − as it was: {plus_minus(results['difference'])}"
    return table


def _draw(
    scores: Mapping[Notches, np.ndarray],
    best: Notches,
    parts: Mapping[str, str],
    notch: float,
    path: Path,
) -> None:
    """A panel a part: how much worse than the best another factor is, the others as they are."""
    figure, axes = make_panels(
        len(parts), xlabel="", ylabel="mean loss, above the best one's", sharey=True
    )
    for k, (axis, part) in enumerate(zip(axes, parts, strict=True)):
        line = {
            n[k]: values - scores[best]
            for n, values in sorted(scores.items())
            if n[:k] + n[k + 1 :] == best[:k] + best[k + 1 :] and np.isfinite(values).all()
        }
        factors = [notch**n for n in line]
        middle = np.array([values.mean() for values in line.values()])
        error = np.array([float(mean_and_error(x)["standard_error"]) for x in line.values()])
        axis.fill_between(
            factors, middle - error, middle + error, color=COLORS[3], alpha=0.25, lw=0
        )
        axis.plot(factors, middle, "o-", color=COLORS[3], markersize=4)
        axis.axvline(1, color="0.5", linewidth=0.8, linestyle="--")
        axis.annotate("as it was", (1, 0.97), xycoords=("data", "axes fraction"), xytext=(3, 0),
                      textcoords="offset points", va="top", fontsize=8, color="0.4")  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"×{x:g}")
        axis.set_xlabel(f"factor on the steps of {part!r}")
    save(figure, path)


if __name__ == "__main__":
    launch(main)
