"""What a rule does with its customary hyperparameters: a winner that is behind was not tuned."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.workdir import write_json
from learned_opt import studies
from learned_opt.types import Key, Task, UpdateRule


def best_default(
    rule: UpdateRule,
    task: Task,
    key: Key,
    file: Path,
    *,
    learning_rates: Sequence[float],
    metric: str,
    **settings: Any,
) -> dict[str, Any]:
    """Runs a rule with its default hyperparameters at several learning rates.

    Args:
      rule: the rule; its `init` gives the defaults.
      task: the task.
      key: that of the study's trials: the same starts and minibatches.
      file: where the result is kept, and found again by the next call.
      learning_rates: the learning rates, the same for every rule.
      metric: 'error' or 'loss', of the validation split at the end.
      **settings: of `studies.run_lanes`.

    Returns:
      `learning_rates`, `scores` (None where a run diverged), and the best `learning_rate` with its
      `score`, None where all diverged.
    """
    rates = [float(rate) for rate in learning_rates]
    if file.exists():
        present = json.loads(file.read_text())
        if present["learning_rates"] == rates:
            return present
    defaults = rule.init(jax.random.key(0))
    thetas = {name: jnp.full(len(rates), value) for name, value in defaults.items()}
    thetas["learning_rate"] = jnp.asarray(rates, defaults["learning_rate"].dtype)
    lanes = studies.run_lanes(rule, thetas, task, key, report=None, **settings)
    valid = lanes.heldout["valid"]
    final = (1 - valid["accuracy"] if metric == "error" else valid["loss"])[:, -1]
    scores = np.where((lanes.diverged_at < 0) & np.isfinite(final), final, np.inf)
    best = int(np.argmin(scores))
    found = {
        "learning_rates": rates,
        "scores": [float(score) if np.isfinite(score) else None for score in scores],
        "learning_rate": rates[best] if np.isfinite(scores[best]) else None,
        "score": float(scores[best]) if np.isfinite(scores[best]) else None,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, found)
    return found


def default_beats(result: Mapping[str, Any]) -> bool:
    """Whether a rule's plain defaults are better than the best of its trials."""
    default = result["best_plain_default"]
    if default is None or default["score"] is None:
        return False
    return bool(default["score"] < result["best"]["score"])


def cell(result: Mapping[str, Any], scale: float) -> str:
    """The best plain default in a table, with a mark where it beats the best trial.

    Args:
      result: of a rule on a level.
      scale: what scores are multiplied by to be shown.
    """
    default = result["best_plain_default"]
    if default is None:
        return ""
    if default["score"] is None:
        return "all diverged"
    mark = " !" if default_beats(result) else ""
    return f"{scale * default['score']:.4g} (rate {default['learning_rate']:g}){mark}"


def print_warnings(levels: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Prints a line for each rule whose plain defaults beat the best of its trials.

    Args:
      levels: level -> rule -> result.
    """
    for level, results in levels.items():
        for rule, result in results.items():
            if default_beats(result):
                default = result["best_plain_default"]
                print(
                    f"warning: {level}: {rule} with its default hyperparameters and learning rate "
                    f"{default['learning_rate']:g} reaches {default['score']:.4g} on the "
                    f"validation split, the best of its trials {result['best']['score']:.4g}: its "
                    "search space misses the best region; widen or move it"
                )
