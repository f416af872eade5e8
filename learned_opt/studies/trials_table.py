"""Trials of many finished studies in one compact file of columns, an `.npz` without pickles.

With S studies, T trials in all and at most G segments in a run, the arrays are

| array | shape | what |
|---|---|---|
| `workload`, `level`, `rule` | `[S]`, text | what names a study |
| `study` | `[T]`, int32 | the study that a trial belongs to |
| `index` | `[T]`, int32 | its number in that study |
| `diverged_at` | `[T]`, int32 | the update at which it diverged; −1: it did not |
| `point:NAME` | `[T]`, float64 | a parameter of the search space |
| `hyperparameters:NAME` | `[T]`, float64 | an entry of θ |
| `losses` | `[T, G]`, float32 | the mean training loss of each segment |
| `heldout:SPLIT:METRIC` | `[T, G]`, float32 | a metric after each segment |
| `reported:METRIC` | `[T]`, float32 | a metric of the test split at the end |

A number that was not finite is NaN, and one that a study does not have is infinite: a parameter of
other rules, a metric of other tasks, a segment after the last one.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Name = tuple[str, str, str]  # workload, level, rule
Trials = Mapping[int, Mapping[str, Any]]

_ABSENT = np.inf  # a trial has no infinite numbers: they are recorded as not finite
_NAMES = ("workload", "level", "rule")
_INTEGERS = ("study", "index", "diverged_at")


def write_trials_table(path: str | os.PathLike, studies: Mapping[Name, Trials]) -> None:
    """Writes the trials of studies as one file.

    Args:
      path: the file, `….npz`.
      studies: (workload, level, rule) -> trials by their index, as `run_study` returns them.

    Raises:
      ValueError: no trials at all, or a name with a colon.
    """
    entries = [
        (n, trial, dict(_numbers(trial)))
        for n, trials in enumerate(studies.values())
        for trial in trials.values()
    ]
    if not entries:
        raise ValueError("there are no trials to write")
    shapes: dict[str, int | None] = {}
    for column, values in itertools.chain.from_iterable(e[2].items() for e in entries):
        length = len(values) if isinstance(values, list) else None
        shapes[column] = length if length is None else max(length, shapes.get(column) or 0)
    columns: dict[str, np.ndarray] = {
        name: np.array(texts)
        for name, texts in zip(_NAMES, zip(*studies, strict=True), strict=True)
    }
    columns["study"] = np.array([n for n, _, _ in entries], np.int32)
    columns["index"] = np.array([trial["index"] for _, trial, _ in entries], np.int32)
    diverged = [trial["diverged_at"] for _, trial, _ in entries]
    columns["diverged_at"] = np.array([-1 if at is None else at for at in diverged], np.int32)
    for column, length in shapes.items():
        exact = column.startswith(("point:", "hyperparameters:"))
        shape = (len(entries),) if length is None else (len(entries), length)
        found = np.full(shape, _ABSENT, np.float64 if exact else np.float32)
        for row, (_, _, numbers) in enumerate(entries):
            if column in numbers:
                values = np.array(numbers[column], float)  # None becomes NaN
                found[(row, ...) if length is None else (row, slice(len(values)))] = values
        columns[column] = found
    np.savez_compressed(path, **columns)  # type: ignore[arg-type]


def read_trials_table(path: str | os.PathLike) -> dict[Name, dict[int, dict[str, Any]]]:
    """Reads the trials of many studies.

    Returns:
      (workload, level, rule) -> trials by their index, as `run_study` returns them: what
      `studies.scores` takes. Numbers that are not finite are None.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such table.

    Example:
      >>> trials = read_trials_table("trials.npz")["mlp_digits", "final", "adam"]  # doctest: +SKIP
      >>> studies.scores(trials, metric="error").min()  # doctest: +SKIP
    """
    try:
        with np.load(path) as file:
            columns = {name: file[name] for name in file.files}
        names = list(zip(*(columns.pop(name).tolist() for name in _NAMES), strict=True))
        integers = zip(*(columns.pop(name).tolist() for name in _INTEGERS), strict=True)
    except (ValueError, KeyError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is no table of trials") from None
    found: dict[Name, dict[int, dict[str, Any]]] = {name: {} for name in names}
    listed = {column: values.astype(float).tolist() for column, values in columns.items()}
    for row, (study, index, diverged_at) in enumerate(integers):
        trial = _trial({column: values[row] for column, values in listed.items()})
        trial |= {"index": index, "diverged_at": None if diverged_at < 0 else diverged_at}
        found[names[study]][index] = trial
    return found


def _numbers(trial: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The columns in which a trial's numbers stand."""
    yield "losses", trial["losses"]
    for group in ("point", "hyperparameters", "reported"):
        yield from ((_column(group, name), value) for name, value in trial[group].items())
    for split, metrics in trial["heldout"].items():
        yield from ((_column("heldout", split, name), v) for name, v in metrics.items())


def _column(*names: str) -> str:
    if any(":" in name for name in names):
        raise ValueError(f"a name in a trial must not have a colon, got {':'.join(names[1:])}")
    return ":".join(names)


def _trial(row: Mapping[str, Any]) -> dict[str, Any]:
    """A trial from what stands in its row."""
    trial: dict[str, Any] = {"point": {}, "hyperparameters": {}, "losses": []}
    trial |= {"heldout": {}, "reported": {}}
    for column, value in row.items():
        group, *names = column.split(":")
        values = value if isinstance(value, list) else [value]
        numbers = [None if x != x else x for x in values if x != _ABSENT]
        if group == "losses":
            trial["losses"] = numbers
        elif not numbers:
            continue
        elif group == "heldout":
            trial["heldout"].setdefault(names[0], {})[names[1]] = numbers
        else:
            trial[group][names[0]] = numbers[0]
    return trial
