"""The sections of the page about tuning studies: figures, tables, and what they mean."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.html_page import folded, image, table
from experiments.common.names import display_name
from experiments.common.study_results import (
    MARKS,
    arrow_name,
    final_results,
    json_values,
    learned_results,
    marks,
    mean_curve,
    scale,
    scaled,
    shown,
    trials_of,
    tuned_results,
    unit,
    winner_cells,
    winner_scores,
)
from learned_opt.figures import studies as study_plots
from learned_opt.studies import statistics
from learned_opt.studies.spaces import SearchSpace
from learned_opt.studies.trials import scores

Study = Mapping[str, Any]

VERDICTS = {
    "better": "both intervals lie below zero",
    "not shown worse": "neither interval lies above zero. That is no proof: an interval from −0.4 "
    "to +25 points is among these",
    "unclear": "one interval lies above zero, the other does not (or a winner diverged)",
    "worse": "both intervals lie above zero",
}
_K_OF_DUELS = 10  # trials that each rule gets where two of them are compared
_FIRST_FAMILY = ("sgd", "momentum", "nesterov")


def legend_of_marks() -> str:
    """What the marks mean."""
    return "".join(f"<p>{mark}: {meaning}.</p>" for mark, meaning in MARKS.items())


def winners_section(studies: Sequence[Study], output: Path) -> str:
    """The table of winners, and the best of K."""
    rules = list(dict.fromkeys(rule for study in studies for rule in tuned_results(study)))
    rows = []
    for study in studies:
        cells, learned = winner_cells(study), learned_results(study)
        row = [html.escape(f"{study['workload']}, {unit(study)}")]
        row += [_cell(cells, rule, study) for rule in rules]
        names = [f"{_cell(cells, rule, study)} ({html.escape(rule)})" for rule in learned]
        row.append("<br>".join(names) or "–")
        rows.append(row)
    path = output / "best_of_k.svg"
    panels, groups = best_of_k_panels(studies)
    study_plots.best_of_k(panels, path, ylabel="best of K", groups=groups)
    budgets = ", ".join(
        f"{study['workload']}: {study['num_trials']} trials a rule of {study['num_steps']} updates"
        for study in studies
    )
    return (
        f"<p>{budgets}. Every hyperparameter is tuned on the validation split; the best trial is "
        "run again from fresh seeds and evaluated on the test split (mean ± standard error; errors "
        "in %, losses as they are). <b>Bold</b>: the lowest mean, where no space of the workload "
        "is marked; <i>italic</i>: the lowest mean, where one is: another space could change who "
        "is first. A learned rule has nothing to tune and is run as it is.</p>"
        + table(["workload", *map(shown, rules), "learned, untuned"], rows)
        + legend_of_marks()
        + "<p>What the best of K trials, chosen on the validation split, gives on the test split: "
        "the mean (line) and the 5th to 95th percentile over subsets of the trials (bars). The two "
        "panels of a workload have one vertical axis; the learned rule, whose band is over seeds, "
        "is in both. Lines and bars that leave a panel go on above it.</p>"
        + image(path, "test score of the best of K trials against K")
    )


def _cell(cells: Mapping[str, Any], rule: str, study: Study) -> str:
    if rule not in cells:
        return "–"
    cell = cells[rule]
    tag = "i" if marks(study, *tuned_results(study)) else "b"
    text = html.escape(cell.text)
    return (f"<{tag}>{text}</{tag}>" if cell.best else text) + f" {cell.marks}"


def best_of_k_panels(studies: Sequence[Study]) -> tuple[dict[str, Any], dict[str, str]]:
    """Panels of a few rules each, and the workloads whose panels they are."""
    panels: dict[str, Any] = {}
    groups = {}
    for study in studies:
        tuned = {
            rule: [
                np.asarray(r["best_of_k"]["ks"]),
                *(scale(study) * json_values(r["best_of_k"], p) for p in ("mean", "low", "high")),
            ]
            for rule, r in tuned_results(study).items()
        }
        learned = {}
        for rule, r in learned_results(study).items():  # what it is, whatever K
            values = scale(study) * json_values(r, "test_scores")
            parts = [values.mean(), *np.quantile(values, [0.05, 0.95], method="inverted_cdf")]
            learned[rule] = [np.array([1, r["num_trials"]]), *(np.full(2, part) for part in parts)]
        title = _title(study, f"test {unit(study)}")
        for heading, curves in _families(title, tuned, learned).items():
            panels[heading], groups[heading] = curves, title
    return panels, groups


def _title(study: Study, text: str) -> str:
    marked = marks(study, *tuned_results(study))
    return f"{study['workload']}{' ' * bool(marked)}{marked}: {text}"


def _families(title: str, tuned: Mapping[str, Any], learned: Mapping[str, Any]) -> dict[str, Any]:
    """Two panels of the tuned rules, each with the learned ones; one where that is enough."""
    plain = {rule: lines for rule, lines in tuned.items() if rule in _FIRST_FAMILY}
    adaptive = {rule: lines for rule, lines in tuned.items() if rule not in _FIRST_FAMILY}
    return {
        f"{title}\n{', '.join(map(display_name, family))}": {
            shown(rule): lines for rule, lines in (family | dict(learned)).items()
        }
        for family in (plain, adaptive)
        if family
    }


def arrow_section(studies: Sequence[Study], arrows: Mapping[str, Any], output: Path) -> str:
    """Whether more general rules are worse: intervals and verdicts."""
    panels = {
        _title(study, f"test {unit(study)}").replace(": ", "\n"): {
            f"{arrow_name(found)} {found['marks']}".strip(): [
                scaled(study, found["seeds"]),
                scaled(study, found["tuning"]),
            ]
            for found in arrows[study["workload"]].values()
        }
        for study in studies
        if arrows[study["workload"]]
    }
    if not panels:
        return "<p>No two of the rules include each other.</p>"
    path = output / "arrows.svg"
    names = ("winners, over fresh seeds", "best trials, over trials drawn anew")
    study_plots.intervals(
        panels,
        path,
        names=names,
        xlabel="A ⊆ B: B includes A as a special case. Shown: score of B − score of A, in the "
        "unit of the panel; left of 0 B is better.",
    )
    rows = [
        [
            html.escape(study["workload"]),
            f"{arrow_name(found)} {found['marks']}",
            *(
                "{:+.3g} ({:+.3g} … {:+.3g})".format(*scaled(study, found[kind]))
                for kind in ("seeds", "tuning")
            ),
            found["answer"],
        ]
        for study in studies
        for found in arrows[study["workload"]].values()
    ]
    head = ["workload", "M ⊆ N", *(f"N − M, {name}" for name in names), "N is"]
    definitions = "".join(f"<li><i>{v}</i>: {text}</li>" for v, text in VERDICTS.items())
    return (
        "<p>M ⊆ N: some hyperparameters turn N into M, so N, fully tuned, cannot be worse. With a "
        "budget it can. The rules are those of Choi et al. Differences of test scores (percentage "
        "points of error, or loss) with 5–95 % intervals: over the fresh seeds of the two winners, "
        "which share their starts and minibatches, and over the best trial of as many trials drawn "
        "anew with replacement. "
        f"N is</p><ul>{definitions}</ul>"
        + image(path, "intervals of general minus special")
        + table(head, rows)
        + legend_of_marks()
    )


def ranking_section(
    studies: Sequence[Study], reversals: Mapping[str, Sequence[Mapping[str, Any]]], output: Path
) -> str:
    """How scores and orders change as the space grows, for the studies that have several."""
    several = [study for study in studies if study["workload"] in reversals]
    panels, tables = {}, []
    levels = list(several[0]["levels"])
    for study in several:
        found = study["levels"]
        rules = list(found[levels[0]])
        panels[_title(study, f"test {unit(study)}")] = {
            shown(rule): [_seed_interval(study, found[level][rule]) for level in levels]
            for rule in rules
        }
        means = {
            level: {r: float(winner_scores(study, found[level][r]).mean()) for r in rules}
            for level in levels
        }
        orders = [
            [level, " &lt; ".join(map(shown, sorted(rules, key=lambda r: means[level][r])))]
            for level in levels
        ]
        tables.append(
            f"<h3>{html.escape(study['workload'])}</h3>"
            + table(["space", "winners, best first"], orders)
            + f"<p>{reversals_text(reversals[study['workload']])}</p>"
        )
    path = output / "rankings.svg"
    names = [level.replace("_", "\n") for level in levels]
    study_plots.rankings(panels, path, levels=names, ylabel="test score")
    return (
        "<p>Spaces from the learning rate alone to everything: + momentum (β₁), + ε and β₂ (ρ), "
        "+ the decay of the learning rate. What is not searched has its customary default. Bars: "
        "5–95 % of the mean over fresh seeds.</p>"
        + image(path, "test scores as the space grows")
        + "".join(tables)
    )


def reversals_text(reversals: Sequence[Mapping[str, Any]]) -> str:
    """Which pairs of rules change places, as a sentence."""
    if not reversals:
        return "No pair of rules changes places beyond its intervals."
    found = [
        f"{shown(r['first'])} beats {shown(r['second'])} in {', '.join(r['better_in'])}, and is "
        f"beaten by it in {', '.join(r['then_better_in'])}"
        for r in reversals
    ]
    return (
        "Reversals, where the 5–95 % intervals over seeds lie on opposite sides of zero: "
        + "; ".join(found)
        + "."
    )


def _seed_interval(study: Study, result: Mapping[str, Any]) -> study_plots.Interval:
    values = winner_scores(study, result)
    difference = statistics.paired_difference(values, np.zeros_like(values))
    return scaled(study, [difference.mean, difference.low, difference.high])


def target_section(studies: Sequence[Study], targets: Mapping[str, Any], output: Path) -> str:
    """Steps and seconds to a target, and performance profiles of the steps."""
    rows = []
    for study in studies:
        found = targets[study["workload"]]
        for rule, cost in found["rules"].items():
            reached = cost["steps"] is not None
            rows.append(
                [
                    html.escape(study["workload"]),
                    f"{scale(study) * found['target']:.4g}",
                    f"{html.escape(shown(rule))} {marks(study, rule)}",
                    f"{cost['steps']:.0f}" if reached else "not reached",
                    f"{cost['seconds']:.2f}" if reached else "–",
                    f"{cost['ms_per_step']:.3g}",
                ]
            )
    head = ["workload", "target", "rule", "updates", "seconds", "ms an update"]
    text = (
        "<p>The target is the validation score at which the weakest tuned winner ends; updates are "
        "counted in the segments in which it is measured. Times are of one run alone, evaluations "
        "included.</p>" + folded("the table", table(head, rows) + legend_of_marks())
    )
    common = set.intersection(*(set(t["rules"]) for t in targets.values()))
    rules = [rule for rule in final_results(studies[0]) if rule in common]
    if len(studies) < 3 or not rules:
        return text
    costs = [
        [targets[study["workload"]]["rules"][rule]["steps"] or np.inf for rule in rules]
        for study in studies
    ]
    taus = np.geomspace(1, 16, 200)
    path = output / "profiles.svg"
    study_plots.profiles(
        taus,
        dict(
            zip(map(shown, rules), statistics.performance_profile(costs, taus), strict=True),
        ),
        path,
        xlabel="updates to the target, as a multiple of the best rule's",
    )
    return (
        text + f"<p>Performance profiles over the {len(studies)} workloads: at a factor τ, the "
        "share of workloads on which a rule needs at most τ times the updates of the best one."
        "</p>" + image(path, "performance profiles", width="46em")
    )


def workload_section(study: Study, output: Path) -> str:
    """One workload: the winners' curves, who beats whom, and where the trials lie."""
    workload, final = study["workload"], final_results(study)
    updates = study["num_steps"] // len(mean_curve(next(iter(final.values())), "losses"))
    panels: dict[str, Any] = {}
    groups: dict[str, str] = {}
    for title, key, factor in (
        ("training loss, mean of a segment", "losses", 1.0),
        (f"validation {unit(study)}", "valid", scale(study)),
    ):
        curves = {}
        for rule, result in final.items():
            values = factor * json_values(result["winner"], key)
            curves[rule] = (updates * np.arange(1, 1 + values.shape[1]), values)
        split = _families(
            title,
            {rule: curves[rule] for rule in tuned_results(study)},
            {rule: curves[rule] for rule in learned_results(study)},
        )
        panels |= split
        groups |= dict.fromkeys(split, title)
    path = output / f"{workload}_winners.svg"
    study_plots.winners(panels, path, ylabel="", groups=groups)
    rules = list(tuned_results(study))
    return (
        "<h3>Winners over fresh seeds</h3><p>Mean and 5th to 95th percentile; what leaves a "
        "panel goes on above it.</p>"
        + image(path, f"{workload}: curves of the winners")
        + "<h3>Who beats whom</h3>"
        + _duels(study, rules, output)
        + "<h3>Where the trials lie in their spaces</h3><p>Star: the best trial. Ticks at the "
        "upper edge: trials that diverged, or are among the worst tenth.</p>"
        + "".join(_projection(study, rule, output) for rule in rules)
    )


def _duels(study: Study, rules: Sequence[str], output: Path) -> str:
    found = [final_results(study)[rule] for rule in rules]
    k = min(_K_OF_DUELS, *(r["num_trials"] for r in found))
    shares = [
        [
            statistics.probability_better(
                *(json_values(r, "scores") for r in (a, b)),
                *(json_values(r, "test_scores") for r in (a, b)),
                k=k,
            )
            for b in found
        ]
        for a in found
    ]
    path = output / f"{study['workload']}_duels.svg"
    title = f"% of the time the row beats the column,\neach the best of {k} trials"
    names = [f"{shown(rule)} {marks(study, rule)}".strip() for rule in rules]
    study_plots.win_probabilities({title: (names, np.array(shares))}, path)
    return image(path, f"{study['workload']}: who beats whom", width="40em")


def _projection(study: Study, rule: str, output: Path) -> str:
    result = final_results(study)[rule]
    trials = trials_of(study, rule, result)
    values = scale(study) * scores(trials, metric=study["metric"])
    space = SearchSpace.from_dict(result["space"])
    path = output / f"{study['workload']}_{rule}_projections.svg"
    study_plots.projections(
        {
            name: ([trial["point"][name] for trial in trials.values()], values, r.scale)
            for name, r in space.parameters.items()
        },
        path,
        ylabel=f"validation {unit(study)}",
    )
    on_edge = space.on_edge(trials[result["best"]["index"]]["point"])
    facts = f"{100 * result['divergence_rate']:.0f} % diverged"
    facts += f", {100 * result['ended_above_start'] / len(trials):.0f} % ended above their start"
    marked = f" {marks(study, rule)}".rstrip()
    if on_edge:
        edges = ", ".join(f"{name} ({end})" for name, end in on_edge.items())
        facts += f"; the best point lies on the edge of {edges}"
    default = result["best_plain_default"]
    if default and default["score"] is not None:
        best = scale(study) * result["best"]["score"]
        plain = f"{scale(study) * default['score']:.4g} (rate {default['learning_rate']:g})"
        facts += f"; on the validation split {best:.4g}, its best plain default {plain}"
    return folded(
        f"{shown(rule)}{marked}: {facts}", image(path, f"{study['workload']}: trials of {rule}")
    )
