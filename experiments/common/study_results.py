"""What finished tuning studies say: read from their work directories, compared by intervals."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.names import display_name
from experiments.common.plain_defaults import default_beats
from learned_opt.figures.studies import Interval
from learned_opt.studies import statistics
from learned_opt.studies.spaces import SearchSpace
from learned_opt.studies.trials import read_trials

# M ⊆ N: with enough tuning N cannot be worse than M.
ARROWS = (
    ("sgd", "momentum"),
    ("sgd", "nesterov"),
    ("momentum", "rmsprop"),
    ("momentum", "adam"),
    ("nesterov", "nadam"),
)
INITIAL, EDGE, BEHIND = "†", "‡", "§"  # marks of numbers that another space could change
MARKS = {
    INITIAL: "the search space is an initial one, a first guess that no study has narrowed",
    EDGE: "the best trial lies on an edge of its search space: a wider one might do better",
    BEHIND: "the rule's plain defaults, at one of a few learning rates, beat its best trial",
}


_OF_RESULT = {"level", "best", "winner", "scores", "ended_above_start", "best_plain_default"}


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
        study = json.loads(file.read_text(encoding="utf-8"))
        levels = study["levels"]
        results = [result for rules in levels.values() for result in rules.values()]
        whole = all(_OF_RESULT <= set(result) for result in results)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(
            f"{file} is damaged, or of another version; start experiments.tune there again, its "
            "trials are kept"
        )
    if not levels:
        raise ValueError(f"no study in {workdir} is finished; start experiments.tune there again")
    return study | {"workdir": workdir}


def final_results(study: Mapping[str, Any]) -> dict[str, Any]:
    """The largest space's results, by rule."""
    return study["levels"][list(study["levels"])[-1]]


def tuned_results(study: Mapping[str, Any]) -> dict[str, Any]:
    """The final results of rules that were tuned."""
    return {name: r for name, r in final_results(study).items() if r["space"]["parameters"]}


def learned_results(study: Mapping[str, Any]) -> dict[str, Any]:
    """The final results of rules that have nothing to tune."""
    return {name: r for name, r in final_results(study).items() if not r["space"]["parameters"]}


def shown(rule: str) -> str:
    """What tables and figures of studies call a rule: the tuned ones are all of the hierarchy."""
    return display_name(rule, hierarchy=True)


def arrow_name(found: Mapping[str, Any]) -> str:
    """What an arrow is called; both of its rules are the hierarchy's, so their author is left out.

    Args:
      found: an entry of `compare_arrows`.
    """
    return f"{display_name(found['special'])} ⊆ {display_name(found['general'])}"


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


def edges(study: Mapping[str, Any], rule: str, result: Mapping[str, Any]) -> dict[str, str]:
    """On which edges of its space a rule's best trial lies; see `SearchSpace.on_edge`."""
    best = trials_of(study, rule, result)[result["best"]["index"]]
    return SearchSpace.from_dict(result["space"]).on_edge(best["point"])


def marks(study: Mapping[str, Any], *rules: str) -> str:
    """The marks of `MARKS` that belong to the final results of rules, together."""
    final = final_results(study)
    initial = any(final[rule]["level"].startswith("initial") for rule in rules)
    on_edge = any(edges(study, rule, final[rule]) for rule in rules)
    behind = any(default_beats(final[rule]) for rule in rules)
    return INITIAL * initial + EDGE * on_edge + BEHIND * behind


def scale(study: Mapping[str, Any]) -> float:
    """What scores are multiplied by to be shown: errors are in per cent."""
    return 100 if study["metric"] == "error" else 1


def unit(study: Mapping[str, Any]) -> str:
    """What the scores that are shown are."""
    return "error, %" if study["metric"] == "error" else "loss"


def scaled(study: Mapping[str, Any], numbers: Sequence[float]) -> Interval:
    """An interval of scores as it is shown."""
    return Interval(*(scale(study) * float(x) for x in numbers))


def json_values(result: Mapping[str, Any], name: str) -> np.ndarray:
    """Numbers as they are in JSON, infinity where a run diverged."""
    values = np.array(result[name], float)
    return np.where(np.isfinite(values), values, np.inf)


def winner_scores(study: Mapping[str, Any], result: Mapping[str, Any]) -> np.ndarray:
    """The winner's test scores over fresh seeds."""
    return json_values(result["winner"], f"test_{study['metric']}")


class Cell(NamedTuple):
    """A winner's place in a table.

    Attributes:
      text: its test score ± standard error over seeds, and what went wrong.
      marks: of its space.
      best: whether it has the lowest mean of the workload.
    """

    text: str
    marks: str
    best: bool


def winner_cells(study: Mapping[str, Any]) -> dict[str, Cell]:
    """The winners of a workload, by rule."""
    final = final_results(study)
    means = {rule: winner_scores(study, result).mean() for rule, result in final.items()}
    lowest = min(means.values())
    return {
        rule: Cell(_plus_minus(study, result), marks(study, rule), means[rule] == lowest)
        for rule, result in final.items()
    }


def _plus_minus(study: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    values = scale(study) * winner_scores(study, result)
    diverged = int((~np.isfinite(values)).sum())
    if diverged:
        return f"diverged on {diverged} of {len(values)} seeds"
    text = f"{values.mean():.4g} ± {_standard_error(values):.2g}"
    above = result["winner"]["ended_above_start"]
    return f"{text} ({above} of {len(values)} ended above start)" if above else text


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def winners_summary(study: Mapping[str, Any]) -> dict[str, Any]:
    """The winners' mean test scores, and what their studies were like."""
    found = {}
    for name, result in final_results(study).items():
        values = winner_scores(study, result)
        diverged = int((~np.isfinite(values)).sum())
        space = "initial" if result["level"].startswith("initial") else "narrowed"
        found[name] = {
            "mean": None if diverged else float(values.mean()),
            "standard_error": None if diverged else _standard_error(values),
            "diverged_seeds": diverged,
            "seeds_that_ended_above_start": result["winner"]["ended_above_start"],
            "num_trials": result["num_trials"],
            "divergence_rate": result["divergence_rate"],
            "trials_that_ended_above_start": result["ended_above_start"],
            "space": space if result["space"]["parameters"] else None,
            "best_trial_on_edge": edges(study, name, result),
            "best_trial": result["best"]["score"],
            "best_plain_default": result["best_plain_default"],
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
        intervals = [(seeds.low, seeds.high), (tuning.low, tuning.high)]
        found[f"{special} ⊆ {general}"] = {
            "special": special,
            "general": general,
            "seeds": [seeds.mean, seeds.low, seeds.high],
            "tuning": list(tuning),
            "answer": statistics.verdict(intervals),
            "marks": marks(study, special, general),
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
    return float(json.loads(file.read_text(encoding="utf-8"))["seconds_per_run"])
