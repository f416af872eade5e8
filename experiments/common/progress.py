"""A progress bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows how far a run is, its latest metrics, and the time left."""

    def __init__(
        self,
        title: str,
        start: int,
        total: int,
        *,
        quiet: bool = False,
        every: float = 15.0,
        work: Callable[[int], float] = float,
    ):
        """Starts the clock.

        Args:
          title: what is done.
          start: the steps that are done already.
          total: the steps there are.
          quiet: shows nothing.
          every: seconds between lines, off a terminal.
          work: how much there is to do up to a step, where steps are not alike.
        """
        self._console = Console(file=sys.stderr)
        self._total, self._start, self._every = total, start, every
        self._title, self._quiet, self._work = title, quiet, work
        self._metrics: dict[str, float] = {}
        self._began = self._last = time.monotonic()
        self._bar = RichProgress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=start, text="", left="")

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the step and the metrics, together with those of earlier calls."""
        self._metrics |= metrics
        forms = {
            "meta_loss": "meta-loss {:.4g}",
            "best_validation_score": "best {:.4g}",
            "inner_steps_per_second": "{:,.0f} inner steps/s",
            "loss": "loss {:.4g}",
        }
        texts = [form.format(self._metrics[k]) for k, form in forms.items() if k in self._metrics]
        troubles = {k: self._metrics.get(k, 0) for k in ("skipped", "num_diverged")}
        texts += [f"{k.removeprefix('num_')} {int(n)}" for k, n in troubles.items() if n]
        text = ", ".join(texts)
        now = time.monotonic()
        done = self._work(step) - self._work(self._start)
        left = self._work(self._total) - self._work(step)
        minutes_left = ""
        if done:
            minutes_left = f"{(now - self._began) / 60 * left / done:.1f} minutes left"
        self._bar.update(self._task, completed=step, text=text, left=minutes_left)
        if self._quiet or self._console.is_terminal:
            return
        if now - self._last >= self._every or step == self._total:
            self._last = now
            parts = [f"{self._title} {step}/{self._total}", text, minutes_left]
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
