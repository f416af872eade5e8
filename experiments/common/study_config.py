"""The config of a tuning study: what is customary, so that its file holds what is its own."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

TUNED = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam")


def study_config(workload: str, task: Mapping[str, Any], **changes: Any) -> ConfigDict:
    """The config of `experiments.tune` for one workload.

    Args:
      workload: the task's name in the results, and that of its folder in `experiments/spaces`.
      task: the task, see `experiments.common.build.make_task`.
      **changes: fields that are not as usual: six tuned rules and `lstm_mnist`, 50 trials in the
        final space, ten segments, and winners that run from ten seeds.
    """
    usual = {
        "seed": 0,
        "rules": (*TUNED, "lstm_mnist"),
        "spaces": f"experiments/spaces/{workload}",
        "levels": ("final",),
        "num_trials": 50,
        "num_seeds": 1,
        "segments": 10,
        "metric": "error",
        "winner_seeds": 10,
    }
    return ConfigDict({"workload": workload, "task": dict(task)} | usual | changes)
