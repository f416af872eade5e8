"""The probe: fixed tasks, of architectures that meta-training does not draw, that choose θ."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from experiments.common.build import make_task
from learned_opt.evaluation import evaluate
from learned_opt.types import Theta, UpdateRule

_RANGE = (0.01, 10.0)  # of the ratios
_FIELDS = {"name", "task", "num_steps", "num_seeds"}


def make_probe(
    rule: UpdateRule,
    entries: Sequence[Mapping[str, Any]],
    key: jax.Array,
    data_dir: str | None,
    trained_on: Mapping[str, Any] | None = None,
) -> Callable[[Theta], tuple[float, dict[str, float]]]:
    """Makes the score of a θ: how far a rule at its own learning rate gets, the lower the better.

    The geometric mean over the entries, and over training and validation data alike, of (loss at
    the end / loss at the start), with the rule's default learning rate brought down by a half
    cosine where it has that knob. A ratio counts as .01 at the least, where training data are
    learned by heart, and as 10 at the most, as does a run that diverges.

    Args:
      rule: the rule.
      entries: `{'name', 'task', 'num_steps', 'num_seeds'}`. A task without a name is the one
        trained on, with these fields changed.
      key: where all draws come from.
      data_dir: folder of TFDS data sets.
      trained_on: the config of the task trained on.

    Raises:
      ValueError: a field is missing or unknown, or see `make_task`.
    """
    parts = []
    for entry in entries:
        if set(entry) != _FIELDS:
            raise ValueError(
                f"an entry of probe has the fields {', '.join(sorted(_FIELDS))}, got "
                f"{', '.join(sorted(entry))}"
            )
        ready = _with_cosine(rule, entry["num_steps"])
        base = {} if "name" in entry["task"] else dict(trained_on or {})
        parts.append((entry, make_task({**base, **entry["task"]}, data_dir), ready))

    def score(theta: Theta) -> tuple[float, dict[str, float]]:
        logs = {}
        for entry, task, ready in parts:
            steps = entry["num_steps"]
            found = evaluate(
                ready,
                theta,
                task,
                key,
                num_seeds=entry["num_seeds"],
                num_steps=steps,
                eval_steps=(0, steps),
                splits=("train", "valid"),
            )
            losses = [found.heldout[split]["loss"] for split in ("train", "valid")]
            with np.errstate(invalid="ignore", divide="ignore"):
                ratios = np.array([loss[:, -1] / loss[:, 0] for loss in losses])
            ratios = np.clip(np.where(np.isfinite(ratios), ratios, np.inf), *_RANGE)
            for split, ratio in zip(("train", "valid"), ratios, strict=True):
                logs[f"probe/{entry['name']}/{split}"] = float(np.log(ratio).mean())
        mean = float(np.exp(np.mean(list(logs.values()))))
        return mean, {name: float(np.exp(value)) for name, value in logs.items()}

    return score


def _with_cosine(rule: UpdateRule, num_steps: int) -> UpdateRule:
    """The rule with its default learning rate brought down to zero."""
    if "learning_rate" not in dict(rule.knobs):
        return rule
    rate = dict(rule.knobs)["learning_rate"]
    if callable(rate):
        return rule
    schedule = optax.cosine_decay_schedule(rate, num_steps)
    return rule._replace(transform=lambda theta: rule.transform(theta, learning_rate=schedule))
