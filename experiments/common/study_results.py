"""What finished tuning studies say: read from their work directories, compared by intervals."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from learned_opt.studies import statistics
from learned_opt.studies.trials import read_trials

# M ⊆ N: with enough tuning N should never be worse than M.
ARROWS = (
    ("sgd", "momentum"),
    ("sgd", "nesterov"),
    ("momentum", "rmsprop"),
    ("momentum", "adam"),
    ("nesterov", "nadam"),
)


def read_study(workdir: Path) -> dict[str, Any]:
    """Reads the work directory of finished studies.

    Raises:
      FileNotFoundError: it has no results.
      ValueError: they are damaged, or no study is finished.
    """
    file = workdir / "results.json"
    if not file.exists():
        raise FileNotFoundError(f"{workdir} has no results.json; run experiments.tune there first")
    try:
        study = json.loads(file.read_text())
        levels = study["levels"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{file} is damaged; start experiments.tune there again, its trials are kept"
        ) from None
    if not levels:
        raise ValueError(f"no study in {workdir} is finished; start experiments.tune there again")
    return study | {"workdir": workdir}


def final_results(study: Mapping[str, Any]) -> dict[str, Any]:
    """The largest space's results, by rule."""
    return study["levels"][list(study["levels"])[-1]]


def grows(study: Mapping[str, Any]) -> bool:
    """Whether there are several spaces."""
    return len(study["levels"]) > 1


def all_trials(study: Mapping[str, Any]) -> Iterable[tuple[str, str, dict[int, Any]]]:
    """The level, the rule and the trials of every study."""
    seen = set()
    for rules in study["levels"].values():
        for rule, result in rules.items():
            place = (result["level"], rule)
            if place not in seen:
                seen.add(place)
                yield *place, trials_of(study, rule, result)


def trials_of(study: Mapping[str, Any], rule: str, result: Mapping[str, Any]) -> dict[int, Any]:
    """The trials that a result was made of."""
    found = read_trials(study["workdir"] / "studies" / result["level"] / rule)
    return {i: trial for i, trial in found.items() if i < result["num_trials"]}


def json_values(result: Mapping[str, Any], name: str) -> np.ndarray:
    """Numbers as they are in JSON, infinity where a run diverged."""
    values = np.array(result[name], float)
    return np.where(np.isfinite(values), values, np.inf)


def winner_scores(study: Mapping[str, Any], result: Mapping[str, Any]) -> np.ndarray:
    """The winner's test scores over fresh seeds."""
    return json_values(result["winner"], f"test_{study['metric']}")


def tuned_results(study: Mapping[str, Any]) -> dict[str, Any]:
    """The final results of rules that were tuned."""
    return {name: r for name, r in final_results(study).items() if r["space"]["parameters"]}


def winners_summary(study: Mapping[str, Any]) -> dict[str, Any]:
    """The winners' mean test scores, and what their studies were like."""
    found = {}
    for name, result in final_results(study).items():
        values = winner_scores(study, result)
        diverged = int((~np.isfinite(values)).sum())
        found[name] = {
            "mean": None if diverged else float(values.mean()),
            "standard_error": None if diverged else float(values.std(ddof=1) / len(values) ** 0.5),
            "diverged_seeds": diverged,
            "num_trials": result["num_trials"],
            "divergence_rate": result["divergence_rate"],
        }
    return found


def compare_arrows(study: Mapping[str, Any]) -> dict[str, Any]:
    """General − special: over fresh seeds of the winners, and over the trials."""
    final, found = final_results(study), {}
    for special, general in ARROWS:
        if special not in final or general not in final:
            continue
        m, n = final[special], final[general]
        seeds = statistics.paired_difference(winner_scores(study, n), winner_scores(study, m))
        tuning = statistics.tuned_difference(
            *(json_values(r, "scores") for r in (n, m)),
            *(json_values(r, "test_scores") for r in (n, m)),
        )
        lows = (seeds.low, tuning.low)
        answer = "worse" if min(lows) > 0 else "never worse" if max(lows) <= 0 else "unclear"
        if np.isnan(lows).any():  # both diverged somewhere
            answer = "unclear"
        found[f"{special} ⊆ {general}"] = {
            "seeds": [seeds.mean, seeds.low, seeds.high],
            "tuning": list(tuning),
            "answer": answer,
        }
    return found


def find_reversals(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pairs of rules of which one is better in one space and the other in another, by intervals."""
    better: dict[tuple[str, str], list[str]] = {}
    for level, results in study["levels"].items():
        tuned = {name: r for name, r in results.items() if r["space"]["parameters"]}
        for a in tuned:
            for b in tuned:
                if a != b:
                    difference = statistics.paired_difference(
                        winner_scores(study, tuned[a]), winner_scores(study, tuned[b])
                    )
                    if difference.high < 0:
                        better.setdefault((a, b), []).append(level)
    return [
        {"first": a, "better_in": better[a, b], "second": b, "then_better_in": better[b, a]}
        for a, b in better
        if (b, a) in better and a < b
    ]


def costs_to_target(study: Mapping[str, Any]) -> dict[str, Any]:
    """Steps and seconds to the validation score at which the weakest tuned winner ends."""
    target = max(
        float(np.mean(json_values(r["winner"], "valid")[:, -1]))
        for r in tuned_results(study).values()
    )
    per_segment = study["num_steps"] // len(
        mean_curve(next(iter(final_results(study).values())), "valid")
    )
    found = {}
    for name, result in final_results(study).items():
        segments = float(statistics.steps_to_target(mean_curve(result, "valid"), target)) + 1
        seconds = _seconds_per_run(study, name, result) / study["num_steps"]
        steps = segments * per_segment
        found[name] = {
            "steps": steps if np.isfinite(steps) else None,
            "seconds": steps * seconds if np.isfinite(steps) else None,
            "ms_per_step": 1000 * seconds,
        }
    return {"target": target, "rules": found}


def mean_curve(result: Mapping[str, Any], name: str) -> np.ndarray:
    """The mean over seeds of what the winner had after each segment."""
    return json_values(result["winner"], name).mean(axis=0)


def _seconds_per_run(study: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> float:
    file = study["workdir"] / "winners" / result["level"] / f"{name}.json"
    return float(json.loads(file.read_text())["seconds_per_run"])
