"""A task with another training loss: everything else is the task's own."""

import dataclasses
from typing import Any

from learned_opt.types import Instance, Key, Metrics, Params


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """What tasks made of a task share.

    Attributes:
      task: the task.
    """

    task: Any

    @property
    def num_classes(self) -> int:
        """The task's number of classes, where it has any."""
        return self.task.num_classes

    def sample(self, key: Key) -> Instance:
        """Draws a problem of the task."""
        return self.task.sample(key)

    def init(self, key: Key, instance: Instance) -> Params:
        """Draws the task's starting parameters."""
        return self.task.init(key, instance)

    def evaluate(self, params: Params, instance: Instance, split: str) -> Metrics:
        """The task's own metrics."""
        return self.task.evaluate(params, instance, split)
