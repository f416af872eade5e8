"""Trials of tuning studies, a line of JSON each, in a folder that machines may share."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from learned_opt.early_stopping import stop_early


class TrialStore:
    """Finished trials in a folder: `study.json` says of what, `trials*.jsonl` hold them.

    Every process appends to a file of its own, so that several machines can share the folder.
    """

    def __init__(self, folder: str | os.PathLike, identity: Mapping[str, Any], *, shard: int = 0):
        """Opens a folder, or starts it.

        Args:
          folder: the folder.
          identity: what the trials depend on: the space, the seed, the workload, the budget, ….
          shard: the number of this process among those that share the folder.

        Raises:
          ValueError: the folder belongs to another study, or a file in it is damaged.
        """
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / f"trials_{shard}.jsonl"
        wanted = json.loads(json.dumps(identity))
        path = self._folder / "study.json"
        present = read_identity(folder)
        if present is not None:
            if present != wanted:
                names = sorted(
                    name
                    for name in present.keys() | wanted.keys()
                    if present.get(name) != wanted.get(name)
                )
                raise ValueError(
                    f"{self._folder} holds another study, which differs in {', '.join(names)}; "
                    "choose another folder for this one"
                )
        else:
            partial = path.with_suffix(f".{os.getpid()}.tmp")
            partial.write_text(json.dumps(wanted, indent=2), encoding="utf-8")
            partial.replace(path)
        self._mend()

    def _mend(self) -> None:
        """Cuts off a last line that a kill left half-written."""
        if self._file.exists():
            data = self._file.read_bytes()
            if data and not data.endswith(b"\n"):
                with self._file.open("r+b") as file:
                    file.truncate(data.rfind(b"\n") + 1)

    def trials(self) -> dict[int, dict[str, Any]]:
        """All finished trials, by their index, those of other processes too.

        Raises:
          ValueError: a line is damaged; the message names it.
        """
        return read_trials(self._folder)

    def append(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """Writes finished trials, and has them on the disk before it returns."""
        with self._file.open("a", encoding="utf-8") as file:
            for trial in trials:
                file.write(json.dumps(trial, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_identity(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What the trials in a folder depend on; None where no study has begun.

    Raises:
      ValueError: the file that says so is damaged.
    """
    path = Path(folder) / "study.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(f"{path} is damaged; choose another folder") from None


def read_trials(folder: str | os.PathLike) -> dict[int, dict[str, Any]]:
    """All finished trials of a study's folder, by their index.

    Raises:
      ValueError: a line is damaged; the message names it.
    """
    found: dict[int, dict[str, Any]] = {}
    for file in sorted(Path(folder).glob("trials_*.jsonl")):
        lines = file.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                trial = json.loads(line)
                found[trial["index"]] = trial
            except (ValueError, KeyError, TypeError):
                if number == len(lines):  # another process is writing it
                    continue
                raise ValueError(
                    f"{file}, line {number} is damaged; delete that line and start the study "
                    "again: its trial will be repeated, the others are kept"
                ) from None
    return dict(sorted(found.items()))


def scores(
    trials: Mapping[int, Mapping[str, Any]],
    *,
    split: str = "valid",
    metric: str = "loss",
    patience: int | None = None,
) -> np.ndarray:
    """The final scores of trials `[num_trials]`, infinity where one diverged.

    Args:
      trials: from `run_study`.
      split: a split of `heldout`, or 'reported'.
      metric: its metric, where lower is better; 'error' is 1 − accuracy.
      patience: with it, each trial is scored where early stopping by its validation loss would have
        kept it (`stop_early`, in segments), and not at its end; a trial that diverged later counts.

    Raises:
      ValueError: no trials, a patience below one, or one for 'reported', which is of the end alone.
    """
    if not trials:
        raise ValueError("there are no trials")
    if patience is not None and split == "reported":
        raise ValueError("'reported' is of the end of a trial alone: with patience take a split")
    found = []
    for trial in trials.values():
        values = trial["reported"] if split == "reported" else trial["heldout"][split]
        value = values["accuracy" if metric == "error" else metric]
        last = value if split == "reported" else value[-1]
        lost = trial["diverged_at"] is not None
        if patience is not None:
            losses = [np.inf if x is None else x for x in trial["heldout"]["valid"]["loss"]]
            last = value[stop_early([losses], patience).chosen[0]]
            lost = False
        if lost or last is None:
            found.append(math.inf)
        else:
            found.append(1 - last if metric == "error" else last)
    return np.array(found)
