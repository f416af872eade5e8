"""What the programs of the leaderboard share: the part of a board to run, and its progress."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.common.board_rules import Entry, Unavailable, make_entry
from experiments.common.build import make_task
from experiments.common.lookup import find_file
from experiments.common.progress import Progress
from learned_opt.types import Task


class LazyTask:
    """A task that is made when it is needed: a finished board reads no data."""

    def __init__(self, config: Mapping[str, Any], data_dir: str | None):
        """Keeps what the task is made from."""
        self._config, self._data_dir = config, data_dir
        self._task: Task | None = None

    def __call__(self) -> Task:
        """The task."""
        if self._task is None:
            self._task = make_task(self._config, self._data_dir)
        return self._task


class Count:
    """Counts runs on a progress bar."""

    def __init__(self, bar: Progress, total: int):
        """Starts at zero, of `total`."""
        self._bar, self._total, self._done = bar, total, 0

    def done(self) -> None:
        """One more run is done."""
        self._done += 1
        self._bar.update(self._done, {})

    def more(self, number: int) -> None:
        """There are more runs than was said."""
        self._total += number
        self._bar.retotal(self._total)


def chosen(kind: str, known: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """The entries with these names, or all of them, in their order."""
    unknown = [name for name in names or () if name not in known]
    if unknown or not known:
        raise ValueError(f"unknown {kind} {', '.join(unknown)!r}; known: {', '.join(known)}")
    return {name: known[name] for name in known if not names or name in names}


def make_entries(config: ConfigDict, names: Sequence[str] | None) -> dict[str, Entry]:
    """The rules to run; those that are not here are left out unless they were asked for by name."""
    found = {}
    weights = {"celo2": config.celo2_weights}
    for name, spec in chosen("rule", config.rules.to_dict(), names).items():
        try:
            found[name] = make_entry(name, spec, weights)
        except Unavailable as error:
            if names:
                raise
            print(f"{name} is left out: {error}")
    if not found:
        raise ValueError("there is no rule to run")
    return found


def check_workload(name: str, workload: Mapping[str, Any], config: ConfigDict) -> None:
    """Raises a `ValueError` unless a workload can be run."""
    if set(workload) != {"task", "num_steps"}:
        raise ValueError(f"workload {name!r} must have 'task' and 'num_steps' alone")
    if workload["num_steps"] % config.points or workload["num_steps"] < 1:
        raise ValueError(
            f"workload {name!r}: points ({config.points}) must divide num_steps "
            f"({workload['num_steps']})"
        )
    if needs_text(workload) and "text_file" not in config.task:
        raise ValueError(
            f"workload {name!r} learns a text: add --text_file=FILE, or leave it out with "
            "--workloads"
        )


def needs_text(workload: Mapping[str, Any]) -> bool:
    """Whether it learns a text."""
    task = workload["task"]
    return task.get("name") == "language_model" and "text_file" not in task


def task_config(workload: Mapping[str, Any], config: ConfigDict) -> dict[str, Any]:
    """The config of its task."""
    text = {"text_file": config.task.text_file} if needs_text(workload) else {}
    return dict(workload["task"]) | text


def identity(workload: Mapping[str, Any], entry: Entry, config: ConfigDict) -> dict[str, Any]:
    """What the runs of a rule on a workload depend on."""
    described = {k: v for k, v in task_config(workload, config).items() if k != "text_file"}
    if needs_text(workload):
        text = find_file(config.task.text_file).read_bytes()
        described["text"] = hashlib.sha256(text).hexdigest()[:16]
    return {
        "task": described,
        "num_steps": workload["num_steps"],
        "rule": entry.identity,
        "adam_factor": entry.factor,
        **{name: config[name] for name in ("seed", "points", "probes")},
    }
