"""Metrics of a run: one JSON object a line, and the same numbers for TensorBoard."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np


class MetricsWriter:
    """Appends scalars to `metrics.jsonl` and to TensorBoard event files, line by line.

    A line is `{"step": 20, "meta_loss": 1.5, …}`. JSON knows no NaN or infinity: they are written
    as the strings "nan", "inf" and "-inf". What was written survives a kill.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp()
      >>> with MetricsWriter(folder) as writer:
      ...     writer.write(20, {'meta_loss': 1.5, 'grad_norm': float('nan')})
      >>> read_metrics(folder)
      [{'step': 20, 'meta_loss': 1.5, 'grad_norm': nan}]
    """

    def __init__(self, workdir: str | os.PathLike, *, resume_step: int | None = None):
        """Opens `workdir/metrics.jsonl` and `workdir/tensorboard`.

        Args:
          workdir: the run's folder.
          resume_step: None starts a new record. Otherwise the record goes on after this step: lines
            of later steps, and a last line that a kill cut short, are dropped.
        """
        from tensorboardX import SummaryWriter

        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        lines = [] if resume_step is None else _lines_until(path, resume_step)
        temporary = path.with_name(path.name + ".partial")
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", buffering=1, encoding="utf-8")  # by lines
        purge = None if resume_step is None else resume_step + 1
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one line.

        Args:
          step: the step the numbers belong to.
          metrics: name -> a number or an array of one number. Strings go to the JSON line only.

        Raises:
          ValueError: a metric is called 'step', or is an array of more than one number.
        """
        if "step" in metrics:
            raise ValueError("'step' is an argument of write, not the name of a metric")
        numbers = {name: _scalar(name, value) for name, value in metrics.items()}
        line = {"step": int(step)} | {k: _json_safe(v) for k, v in numbers.items()}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        for name, value in numbers.items():
            # TensorBoard draws no NaN or infinity, and complains of each.
            if not isinstance(value, str) and math.isfinite(value):
                self._tensorboard.add_scalar(name, value, int(step))
        self._tensorboard.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl` back; "nan", "inf" and "-inf" become numbers again."""
    rows = []
    for line in _lines_until(Path(workdir) / "metrics.jsonl", math.inf):
        row = json.loads(line)
        rows.append({k: float(v) if v in ("nan", "inf", "-inf") else v for k, v in row.items()})
    return rows


def _lines_until(path: Path, last_step: float) -> list[str]:
    """The whole lines of steps up to `last_step`."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a kill
        if line.endswith("\n") and step <= last_step:
            lines.append(line)
    return lines


def _scalar(name: str, value: Any) -> int | float | bool | str:
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(f"metric {name!r} must be one number, got an array of shape {array.shape}")
    return array.astype(np.float64).item() if array.dtype.kind not in "biu" else array.item()


def _json_safe(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
