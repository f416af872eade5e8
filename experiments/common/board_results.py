"""What a finished leaderboard says: its runs, read from work directories, made into scores."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learned_opt.studies import leaderboard
from learned_opt.studies.leaderboard import Estimate
from learned_opt.studies.rate_search import read_cells

RULES = (  # the order in which they are shown
    "adam", "adamw_cosine", "nag_cosine", "muon_cosine", "schedule_free_adamw", "celo2_cosine",
    "lstm_mnist", "lstm_mnist_guarded", "general", "general_default", "general_guarded",
)  # fmt: skip
REFERENCE = "adam"  # speed-ups are over its rates
HAND_DESIGNED = ("adam", "adamw_cosine", "muon_cosine")  # the default rate meets the best of these


class Result(NamedTuple):
    """One rule on one workload, at its best rate.

    Attributes:
      outcome: what `experiments.leaderboard` says of the search.
      train: training losses `[seeds, points + 1]`, NaN once diverged.
      valid: validation losses at the end `[seeds]`.
      test: test losses `[seeds]`.
      errors: test errors `[seeds]`; NaN for tasks without.
      curves: (rate, weight decay) -> training losses `[search seeds, factor × points + 1]`, of all
        that were tried.
    """

    outcome: dict[str, Any]
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    errors: np.ndarray
    curves: dict[tuple[float, float], np.ndarray]


class Board(NamedTuple):
    """Results of a leaderboard.

    Attributes:
      results: workload -> rule -> `Result`.
      milliseconds: workload -> rule -> the time of a step over Adam's in the same process, and in
        milliseconds; each the fastest of its turns.
      tasks: workload -> the name of its task; "" where that is not known.
    """

    results: dict[str, dict[str, Result]]
    milliseconds: dict[str, dict[str, tuple[float, float]]]
    tasks: dict[str, str]

    @property
    def rules(self) -> list[str]:
        """The rules that have a result on every workload, in the order of the board."""
        first, *rest = self.results.values()
        return [rule for rule in first if all(rule in found for found in rest)]

    @property
    def unfinished(self) -> list[str]:
        """The rules that have results on some of the workloads."""
        names = dict.fromkeys(rule for found in self.results.values() for rule in found)
        return [rule for rule in names if rule not in self.rules]


def read_board(workdirs: Sequence[str | os.PathLike]) -> Board:
    """Reads the work directories of `experiments.leaderboard` as one board.

    Args:
      workdirs: the directories; where several have a result, the first one's is taken.

    Raises:
      FileNotFoundError: there is no finished result.
      ValueError: a file is damaged, or two directories have runs of different settings.
    """
    found: dict[str, dict[str, Result]] = {}
    times: dict[str, dict[str, tuple[float, float]]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for workdir in map(Path, workdirs):
        for path in sorted(workdir.glob("outcomes/*/*.json")):
            workload, rule = path.parent.name, path.stem
            if rule in found.get(workload, {}):
                continue
            identity, result = _read(path, workdir / "cells" / workload / f"{rule}.jsonl")
            shared = {k: v for k, v in identity.items() if k not in ("rule", "adam_factor")}
            if settings.setdefault(workload, shared) != shared:
                raise ValueError(f"{path} has other settings of {workload} than other results have")
            found.setdefault(workload, {})[rule] = result
        for path in sorted(workdir.glob("timing/*.json")):
            timing = json.loads(path.read_text(encoding="utf-8"))
            fastest = {r: float(np.min(x)) for r, x in timing["milliseconds"].items()}
            of_adam = fastest.get(REFERENCE)
            if of_adam:
                entry = {rule: (x / of_adam, x) for rule, x in fastest.items()}
                times.setdefault(timing["workload"], {}).update(entry)
    if not found:
        where = ", ".join(map(str, workdirs)) or "no directory"
        raise FileNotFoundError(f"{where} has no finished results; run experiments.leaderboard")
    ordered = {
        workload: {rule: found[workload][rule] for rule in _in_order(found[workload], RULES)}
        for workload in sorted(found)
    }
    tasks = {workload: _task_name(settings[workload].get("task")) for workload in ordered}
    return Board(ordered, times, tasks)


def _task_name(task: Any) -> str:
    return str(task.get("name", "")) if isinstance(task, Mapping) else ""


def _in_order(names: Mapping[str, Any], order: Sequence[str]) -> list[str]:
    return [n for n in order if n in names] + [n for n in names if n not in order]


def _read(path: Path, cells_file: Path) -> tuple[dict[str, Any], Result]:
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
        points, rate, decay = (outcome[name] for name in ("points", "rate", "weight_decay"))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; delete it and run the leaderboard again") from None
    identity, cells = read_cells(cells_file)
    best = [cells[key] for key in sorted(cells) if key[:2] == (rate, decay)]
    if not best:
        raise ValueError(f"{cells_file} has no run of the best rate; delete it and run it again")
    train = _array([cell["train"][: points + 1] for cell in best])
    columns = {name: _array([cell[name] for cell in best]) for name in ("valid", "test", "errors")}
    curves: dict[tuple[float, float], list[Any]] = {}
    first = min(sum(key[:2] == other[:2] for other in cells) for key in cells)  # searched from
    for key, cell in sorted(cells.items()):
        if len(curves.setdefault(key[:2], [])) < first:
            curves[key[:2]].append(cell["train"])
    result = Result(outcome, train, **columns, curves={r: _array(c) for r, c in curves.items()})
    return identity, result


def _array(values: Any) -> np.ndarray:
    return np.array(values, float)  # None becomes NaN


class SpeedUps(NamedTuple):
    """Speed-ups over Adam's envelope, of workloads whose training loss is not saturated.

    Attributes:
      values: rule -> workload -> `[seeds]`, at the rate with the best validation loss.
      by_training: the same at the rate with the best training loss, `[search seeds]`.
      capped: rule -> workload -> '≥', '≤' or '' for the mean over seeds.
      saturated: the workloads that are left out.
    """

    values: dict[str, dict[str, np.ndarray]]
    by_training: dict[str, dict[str, np.ndarray]]
    capped: dict[str, dict[str, str]]
    saturated: list[str]


def all_speed_ups(board: Board) -> SpeedUps:
    """The speed-ups of every rule on every workload.

    Raises:
      ValueError: Adam is not on the board.
    """
    values: dict[str, dict[str, np.ndarray]] = {rule: {} for rule in board.rules}
    by_training: dict[str, dict[str, np.ndarray]] = {rule: {} for rule in board.rules}
    capped: dict[str, dict[str, str]] = {rule: {} for rule in board.rules}
    left_out = []
    for workload, results in board.results.items():
        if REFERENCE not in results:
            raise ValueError(f"{workload} has no results of {REFERENCE}, which speed-ups are over")
        points = results[REFERENCE].outcome["points"]
        reference = leaderboard.envelope(results[REFERENCE].curves, points)
        if leaderboard.saturated(reference, points):
            left_out.append(workload)
            continue
        for rule in board.rules:
            found = leaderboard.speed_ups(results[rule].train, reference, points)
            values[rule][workload] = found.values
            tried = [curves[:, : points + 1] for curves in results[rule].curves.values()]
            best = min(tried, key=lambda curves: mean_loss(curves[:, -1]))
            by_training[rule][workload] = leaderboard.speed_ups(best, reference, points).values
            marks = set(found.capped)
            capped[rule][workload] = "≥" if "high" in marks else "≤" if "low" in marks else ""
    return SpeedUps(values, by_training, capped, left_out)


def heldout_ratios(board: Board, rule: str, rival: str) -> dict[str, np.ndarray]:
    """The rival's test loss over the rule's, workload -> `[seeds]`: above 1 the rule is better."""
    return {
        workload: leaderboard.loss_ratios(results[rival].test, results[rule].test)
        for workload, results in board.results.items()
    }


def train_ratios(board: Board, rule: str, rival: str) -> dict[str, np.ndarray]:
    """The same of training losses at the end."""
    return {
        workload: leaderboard.loss_ratios(results[rival].train[:, -1], results[rule].train[:, -1])
        for workload, results in board.results.items()
    }


def against_the_best(board: Board, rule: str) -> dict[str, np.ndarray]:
    """`heldout_ratios` over whichever hand-designed rule has the best validation loss there."""
    found = {}
    for workload, results in board.results.items():
        rivals = {name: results[name] for name in HAND_DESIGNED if name in results}
        best = min(rivals, key=lambda name: mean_loss(rivals[name].valid))
        found[workload] = leaderboard.loss_ratios(rivals[best].test, results[rule].test)
    return found


def worse_than(board: Board, rule: str, rival: str) -> list[str]:
    """The workloads on which the rule's mean test loss is above the rival's."""
    return [
        workload
        for workload, results in board.results.items()
        if mean_loss(results[rule].test) > mean_loss(results[rival].test)
    ]


def mean_loss(losses: np.ndarray) -> float:
    """The mean, infinite where a run diverged."""
    mean = float(np.mean(losses))
    return mean if np.isfinite(mean) else float("inf")


def estimates(scores: Mapping[str, np.ndarray]) -> Estimate | None:
    """The interquartile mean with its interval; None where there are no workloads."""
    return leaderboard.estimate(list(scores.values())) if scores else None


def cost(board: Board, rule: str) -> dict[str, float | None]:
    """A step's time over Adam's, the median over workloads, and bytes of state over parameters."""
    ratios = [found[rule][0] for found in board.milliseconds.values() if rule in found]
    sizes = [
        results[rule].outcome["state_bytes"] / results[rule].outcome["parameter_bytes"]
        for results in board.results.values()
    ]
    time = float(np.median(ratios)) if ratios else None
    return {"step_time": time, "state": float(np.median(sizes))}


def read_stability(workdirs: Sequence[str | os.PathLike]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rule -> workload -> counts, from work directories of `experiments.stability`.

    Raises:
      FileNotFoundError: one has no results.
      ValueError: they are damaged.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for workdir in workdirs:
        path = Path(workdir) / "stability.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there; run experiments.stability first")
        try:
            for rule, counts in json.loads(path.read_text(encoding="utf-8")).items():
                found.setdefault(rule, {}).update(counts)
        except (ValueError, AttributeError):
            raise ValueError(f"{path} is damaged; run experiments.stability again") from None
    return {rule: found[rule] for rule in _in_order(found, RULES)}


def write_results(path: str | os.PathLike, board: Board) -> None:
    """Writes the runs at the best rates as one `.npz`: arrays with a row for each pair.

    `workload`, `rule`, `rate`, `weight_decay` `[pairs]`; `train` `[pairs, seeds, points + 1]`;
    `valid`, `test`, `errors` `[pairs, seeds]`.
    """
    rows = [(w, r, x) for w, found in board.results.items() for r, x in found.items()]
    arrays: dict[str, Any] = {
        "workload": np.array([w for w, _, _ in rows]),
        "rule": np.array([r for _, r, _ in rows]),
        "rate": np.array([x.outcome["rate"] for _, _, x in rows]),
        "weight_decay": np.array([x.outcome["weight_decay"] for _, _, x in rows]),
    }
    for name in ("train", "valid", "test", "errors"):
        arrays[name] = np.stack([getattr(x, name) for _, _, x in rows]).astype(np.float32)
    np.savez_compressed(path, **arrays)
