"""A search for the learning rate that moves until the best one is not on its edge.

All rules have the same number of rates, half-decades apart. Cells, the runs of one rate from one
seed, are kept in a file as soon as they are finished.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from learned_opt.studies.runs import Runs

Knobs = tuple[float, float, int]  # rate, weight decay, seed
Cells = dict[Knobs, dict[str, Any]]
_STEP = math.sqrt(10)


class Found(NamedTuple):
    """The outcome of a search.

    Attributes:
      rate: the best rate.
      score: its score; infinite where every rate diverged.
      window: the rates among which it is the best, increasing.
      scores: their scores.
      on_edge: whether it is still the lowest or the highest of them.
    """

    rate: float
    score: float
    window: tuple[float, ...]
    scores: tuple[float, ...]
    on_edge: bool


def half_decades(lowest: float, number: int = 7) -> tuple[float, ...]:
    """Rates half a decade apart, from 10^(k / 2) near `lowest` on.

    Example:
      >>> half_decades(1e-4, 3)
      (0.0001, 0.000316228, 0.001)
    """
    first = round(2 * math.log10(lowest))
    return tuple(short(10 ** (k / 2)) for k in range(first, first + number))


def short(number: float) -> float:
    """A number with six digits, so that it is the same one wherever it comes from."""
    return float(f"{number:.6g}")


def search(
    rates: Sequence[float],
    score: Callable[[float], float],
    *,
    max_moves: int = 8,
    moved: Callable[[], None] = lambda: None,
) -> Found:
    """Finds the rate with the lowest score; the window of rates moves while that is on its edge.

    Every move adds a rate half a decade beyond the edge and leaves out the one on the other side,
    so that the best is always one of as many. A single rate is not moved.

    Args:
      rates: where to start, half-decades apart.
      score: the score of a rate, NaN or infinity where it diverged; called once for each.
      max_moves: the most moves.
      moved: called before each move.

    Raises:
      ValueError: no rates, or rates that are not positive.

    Example:
      >>> search((1e-3, 3.16228e-3, 1e-2), lambda rate: abs(rate - 0.1)).rate
      0.1
    """
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"rates must be positive numbers, at least one, got {tuple(rates)}")
    window = sorted({short(rate) for rate in rates})
    scores: dict[float, float] = {}
    for move in range(max_moves + 1):
        for rate in window:
            if rate not in scores:
                value = score(rate)
                scores[rate] = value if math.isfinite(value) else math.inf
        best = int(np.argmin([scores[rate] for rate in window]))
        on_edge = len(window) > 1 and best in (0, len(window) - 1)
        if not on_edge or move == max_moves:
            break
        moved()
        if best == 0:
            window = [short(window[0] / _STEP), *window[:-1]]
        else:
            window = [*window[1:], short(window[-1] * _STEP)]
    values = tuple(scores[rate] for rate in window)
    return Found(window[best], values[best], tuple(window), values, on_edge)


class CellStore:
    """Finished cells of one rule on one workload: a file with a line of JSON each."""

    def __init__(self, path: str | os.PathLike, identity: Mapping[str, Any]):
        """Opens a file, or starts it.

        Args:
          path: the file.
          identity: what the cells depend on; the file's first line.

        Raises:
          ValueError: the file holds cells of something else, or is damaged.
        """
        self._path = Path(path)
        self.cells: Cells = {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(identity))
        if self._path.exists():
            data = self._path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]  # a kill may have left half a line
            if whole != data:
                with self._path.open("r+b") as file:
                    file.truncate(len(whole))
            if whole:
                present, self.cells = read_cells(self._path)
                if present != wanted:
                    names = present.keys() | wanted.keys()
                    other = sorted(n for n in names if present.get(n) != wanted.get(n))
                    raise ValueError(
                        f"{self._path} holds runs that differ in {', '.join(other)}; choose "
                        "another --workdir, or delete that file to run them again"
                    )
                return
        self._append(wanted)

    def add(self, rate: float, weight_decay: float, seed: int, runs: Runs) -> None:
        """Keeps the run of one seed, and has it on the disk before it returns."""
        cell: dict[str, Any] = {"rate": rate, "weight_decay": weight_decay, "seed": seed}
        cell["train"] = [_number(x) for x in runs.train[0]]
        for name in ("valid", "test", "errors"):
            cell[name] = _number(getattr(runs, name)[0])
        self._append(cell)
        self.cells[rate, weight_decay, seed] = cell

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_cells(path: str | os.PathLike) -> tuple[dict[str, Any], Cells]:
    """The identity of a file of cells, and its cells.

    Raises:
      ValueError: a line is damaged; the message names it.
    """
    lines = [x for x in Path(path).read_text(encoding="utf-8").split("\n")[:-1] if x]
    cells: Cells = {}
    identity: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if number == 1:
                identity = dict(entry)
            else:
                cells[entry["rate"], entry["weight_decay"], entry["seed"]] = entry
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number} is damaged; delete that file to run its cells again"
            ) from None
    return identity, cells


def _number(value: Any) -> float | None:
    return short(float(value)) if math.isfinite(value) else None
