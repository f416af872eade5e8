"""A progress bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows how far a run is, its latest metrics, and the time left."""

    def __init__(
        self, title: str, start: int, total: int, *, quiet: bool = False, every: float = 15.0
    ):
        """Starts at `start` of `total` steps; off a terminal prints a line `every` seconds."""
        self._console = Console(file=sys.stderr)
        self._total, self._start, self._every = total, start, every
        self._title, self._quiet = title, quiet
        self._metrics: dict[str, float] = {}
        self._began = self._last = time.monotonic()
        self._bar = RichProgress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, text="")

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the step and the metrics, together with those of earlier calls."""
        self._metrics |= metrics
        shown = {
            "meta_loss": "meta-loss {:.4g}",
            "best_validation_score": "best {:.4g}",
            "inner_steps_per_second": "{:,.0f} inner steps/s",
        }
        texts = [form.format(self._metrics[k]) for k, form in shown.items() if k in self._metrics]
        troubles = {k: self._metrics.get(k, 0) for k in ("skipped", "num_diverged")}
        texts += [f"{k.removeprefix('num_')} {int(n)}" for k, n in troubles.items() if n]
        text = ", ".join(texts)
        self._bar.update(self._task, completed=step, text=text)
        now = time.monotonic()
        if self._quiet or self._console.is_terminal:
            return
        if now - self._last >= self._every or step == self._total:
            self._last = now
            left = (now - self._began) / max(step - self._start, 1) * (self._total - step)
            parts = [f"{self._title} {step}/{self._total}", text, f"{left / 60:.1f} minutes left"]
            print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)

    def retotal(self, total: int) -> None:
        """Corrects the number of steps there are in all."""
        self._total = total
        self._bar.update(self._task, total=total)

    def __enter__(self) -> Self:
        """Starts the display."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the display."""
        self._bar.stop()
