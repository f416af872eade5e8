"""One page that says which optimizer is better: a report of tuning studies.

    python -m experiments.study_report --workdirs=DIR,DIR,… --output=DIR

The work directories are those of `experiments.tune`, one a workload. The page shows, for each
workload, the test score of the best of K against K, the winners' curves, where the trials lie in
their spaces, and the probability that one rule beats another; and over all of them the inclusion
arrows with "is the more general rule never worse?" answered by intervals, the rankings as the
search space grows, steps and time to a target, and performance profiles.

Writes report.html (self-contained), its figures as PNG, summary.json and trials.npz (every trial,
for `learned_opt.studies.read_trials_table`) into the output directory.
"""

import html
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from experiments.common.html_page import image, page, table
from experiments.common.study_results import (
    all_trials,
    compare_arrows,
    costs_to_target,
    final_results,
    find_reversals,
    grows,
    json_values,
    mean_curve,
    read_study,
    trials_of,
    tuned_results,
    winner_scores,
    winners_summary,
)
from experiments.common.workdir import write_json
from learned_opt.figures import studies as study_plots
from learned_opt.figures.studies import Interval
from learned_opt.studies import statistics, write_trials_table
from learned_opt.studies.spaces import SearchSpace
from learned_opt.studies.trials import scores

_WORKDIRS = flags.DEFINE_list("workdirs", None, "work directories of experiments.tune")
_OUTPUT = flags.DEFINE_string("output", None, "where the report goes")

_INTRODUCTION = (
    "<p>Tuning studies after Choi et al., <i>On empirical comparisons of optimizers for deep "
    "learning</i> (2019). Every trial is in <code>trials.npz</code>.</p>"
)
_K_OF_DUELS = 10  # trials that each rule gets where two of them are compared


def make_report(workdirs: Sequence[str], output: Path) -> dict[str, Any]:
    """Writes the report.

    Args:
      workdirs: the work directories of finished studies, one a workload.
      output: the folder to write into.

    Returns:
      What `summary.json` holds.

    Raises:
      FileNotFoundError: a work directory without results.
      ValueError: results that are damaged, or two work directories of one workload.
    """
    studies = [read_study(Path(workdir)) for workdir in workdirs]
    names = [study["workload"] for study in studies]
    if len(set(names)) < len(names):
        raise ValueError(f"each workload may be there once, got {', '.join(names)}")
    if not studies:
        raise ValueError("name at least one work directory: --workdirs=DIR,DIR,…")
    output.mkdir(parents=True, exist_ok=True)
    arrows = {study["workload"]: compare_arrows(study) for study in studies}
    reversals = {study["workload"]: find_reversals(study) for study in studies if grows(study)}
    targets = {study["workload"]: costs_to_target(study) for study in studies}
    summary = {
        "workloads": {study["workload"]: winners_summary(study) for study in studies},
        "arrows": arrows,
        "reversals": reversals,
        "targets": targets,
    }
    sections = [_overview(studies, output), _arrow_section(studies, arrows, output)]
    if reversals:
        sections.append(_ranking_section(studies, reversals, output))
    sections.append(_target_section(studies, targets, output))
    sections += [_workload_section(study, output) for study in studies]
    (output / "report.html").write_text(
        page("Which optimizer is really better?", [_INTRODUCTION, *sections]), encoding="utf-8"
    )
    write_json(output / "summary.json", summary)
    write_trials_table(
        output / "trials.npz",
        {
            (study["workload"], level, rule): trials
            for study in studies
            for level, rule, trials in all_trials(study)
        },
    )
    return summary


def _overview(studies: Sequence[Mapping[str, Any]], output: Path) -> str:
    rules = list(dict.fromkeys(name for study in studies for name in final_results(study)))
    head = ["rule", *(study["workload"] for study in studies)]
    rows = []
    for rule in rules:
        row = [rule]
        for study in studies:
            final = final_results(study)
            if rule not in final:
                row.append("–")
                continue
            values = winner_scores(study, final[rule])
            best = min(winner_scores(study, r).mean() for r in final.values())
            text = _plus_minus(study, values)
            row.append(f"<b>{text}</b>" if values.mean() == best else text)
        rows.append(row)
    path = output / "best_of_k.png"
    panels = {
        f"{study['workload']}: test {_unit(study)}": _best_of_k_lines(study) for study in studies
    }
    study_plots.best_of_k(panels, path, ylabel="best of K")
    counts = ", ".join(
        f"{study['workload']}: {study['num_trials']} trials a rule of {study['num_steps']} updates"
        for study in studies
    )
    return (
        "<h2>Winners on the test split</h2>"
        f"<p>{counts}. Every hyperparameter is tuned on the validation split; the best trial is "
        "run again from fresh seeds and evaluated on the test split (mean ± standard error; errors "
        "in %, losses as they are; the best in bold). A learned rule has nothing to tune and is "
        "run as it is.</p>"
        + table(head, rows)
        + "<p>What the best of K trials, chosen on the validation split, gives on the test split: "
        "the mean and the 5th to 95th percentile over subsets of the trials.</p>" + image(path)
    )


def _arrow_section(
    studies: Sequence[Mapping[str, Any]], arrows: Mapping[str, Mapping[str, Any]], output: Path
) -> str:
    panels = {
        study["workload"]: {
            arrow: [_scaled(study, found["seeds"]), _scaled(study, found["tuning"])]
            for arrow, found in arrows[study["workload"]].items()
        }
        for study in studies
        if arrows[study["workload"]]
    }
    if not panels:
        return ""
    path = output / "arrows.png"
    names = ("winners, over fresh seeds", "best trials, over trials drawn anew")
    study_plots.intervals(
        panels, path, names=names, xlabel="general − special (left: the general rule is better)"
    )
    rows = [
        [
            workload,
            arrow,
            *(
                "{:+.3g} ({:+.3g} … {:+.3g})".format(*_scaled(study, found[kind]))
                for kind in ("seeds", "tuning")
            ),
            found["answer"],
        ]
        for study in studies
        for workload in [study["workload"]]
        for arrow, found in arrows[workload].items()
    ]
    head = ["workload", "M ⊆ N", *(f"N − M, {name}" for name in names), "N is"]
    return (
        "<h2>Is a more general rule, fully tuned, never worse?</h2>"
        "<p>Differences of test scores (percentage points of error, or loss) with 5–95 % "
        "intervals: over the fresh seeds of the two winners, which share their starts and "
        "minibatches, and over the best trial of as many trials drawn anew with replacement. "
        "<i>Worse</i>: both intervals lie above zero; <i>unclear</i>: one of them does; "
        "<i>never worse</i>: none.</p>" + image(path) + table(head, rows)
    )


def _ranking_section(
    studies: Sequence[Mapping[str, Any]], reversals: Mapping[str, list], output: Path
) -> str:
    parts = []
    for study in studies:
        workload = study["workload"]
        if workload not in reversals:
            continue
        path = output / f"{workload}_rankings.png"
        levels = list(study["levels"])
        rules = [r for r in study["levels"][levels[0]]]
        panel = {
            rule: [_seed_interval(study, study["levels"][level][rule]) for level in levels]
            for rule in rules
        }
        study_plots.rankings(
            {f"{workload}: test {study['metric']}": panel},
            path,
            levels=levels,
            ylabel=_unit(study),
        )
        orders = [
            [level, " &lt; ".join(sorted(rules, key=lambda r: _mean(study, level, r)))]
            for level in levels
        ]
        found = [
            f"{r['first']} beats {r['second']} in {', '.join(r['better_in'])}, and is beaten by it "
            f"in {', '.join(r['then_better_in'])}"
            for r in reversals[workload]
        ]
        verdict = (
            "Reversals, where the 5–95 % intervals over seeds lie on opposite sides of zero: "
            + "; ".join(found)
            if found
            else "No pair of rules changes places beyond its intervals."
        )
        parts.append(
            f"<h3>{html.escape(workload)}</h3>"
            + image(path)
            + table(["space", "winners, best first"], orders)
            + f"<p>{verdict}.</p>"
        )
    return (
        "<h2>Do rankings change as the search space grows?</h2><p>Spaces from the learning rate "
        "alone to everything: + momentum (β₁), + ε and β₂ (ρ), + the decay of the learning rate. "
        "What is not searched has its customary default. Bars: 5–95 % of the mean over fresh "
        "seeds.</p>" + "".join(parts)
    )


def _mean(study: Mapping[str, Any], level: str, rule: str) -> float:
    return float(winner_scores(study, study["levels"][level][rule]).mean())


def _target_section(
    studies: Sequence[Mapping[str, Any]], targets: Mapping[str, Any], output: Path
) -> str:
    rows = []
    for study in studies:
        found = targets[study["workload"]]
        for rule, cost in found["rules"].items():
            reached = cost["steps"] is not None
            rows.append(
                [
                    study["workload"],
                    f"{_scaled(study, [found['target']] * 3)[0]:.4g}",
                    rule,
                    f"{cost['steps']:.0f}" if reached else "not reached",
                    f"{cost['seconds']:.2f}" if reached else "–",
                    f"{cost['ms_per_step']:.3g}",
                ]
            )
    head = ["workload", "target", "rule", "updates", "seconds", "ms an update"]
    text = (
        "<h2>Steps and time to a target</h2><p>The target is the validation score at which the "
        "weakest tuned winner ends; updates are counted in the segments in which it is measured. "
        "Times are of one run alone, evaluations included.</p>" + table(head, rows)
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
    path = output / "profiles.png"
    study_plots.profiles(
        taus,
        dict(zip(rules, statistics.performance_profile(costs, taus), strict=True)),
        path,
        xlabel="updates to the target, as a multiple of the best rule's",
    )
    return (
        text + f"<p>Performance profiles over the {len(studies)} workloads: at a factor τ, the "
        "share of workloads on which a rule needs at most τ times the updates of the best "
        "one.</p>" + image(path, small=True)
    )


def _workload_section(study: Mapping[str, Any], output: Path) -> str:
    workload, final = study["workload"], final_results(study)
    scale = 100 if study["metric"] == "error" else 1
    path = output / f"{workload}_best_of_k.png"
    title = f"{workload}: test {study['metric']} of the best of K"
    study_plots.best_of_k({title: _best_of_k_lines(study)}, path, ylabel=_unit(study))
    parts = [f"<h2>{html.escape(workload)}</h2>", image(path, small=True)]
    curves = output / f"{workload}_winners.png"
    updates = study["num_steps"] // len(mean_curve(next(iter(final.values())), "losses"))
    study_plots.winners(
        {
            title: {
                name: (
                    updates * np.arange(1, 1 + len(mean_curve(r, key))),
                    factor * json_values(r["winner"], key),
                )
                for name, r in final.items()
            }
            for title, key, factor in (
                ("training loss, mean of a segment", "losses", 1),
                (f"validation {_unit(study)}", "valid", scale),
            )
        },
        curves,
        ylabel="",
    )
    parts += ["<h3>Winners over fresh seeds</h3>", image(curves)]
    rules = list(tuned_results(study))
    k = min(_K_OF_DUELS, *(r["num_trials"] for r in tuned_results(study).values()))
    duels = np.array(
        [
            [
                statistics.probability_better(
                    *(json_values(final[r], "scores") for r in (a, b)),
                    *(json_values(final[r], "test_scores") for r in (a, b)),
                    k=k,
                )
                for b in rules
            ]
            for a in rules
        ]
    )
    path = output / f"{workload}_duels.png"
    study_plots.win_probabilities(
        {f"% of the time the row beats the column,\neach the best of {k} trials": (rules, duels)},
        path,
    )
    parts += ["<h3>Who beats whom</h3>", image(path, small=True)]
    parts.append("<h3>Where the trials lie in their spaces</h3>")
    for name, result in tuned_results(study).items():
        path = output / f"{workload}_{name}_projections.png"
        _projection(study, name, result, path)
        edges = result["best"]["on_edge"]
        note = ", ".join(f"{k} ({v})" for k, v in edges.items())
        flag = f" The best point lies on the edge of {html.escape(note)}." if edges else ""
        rate = f"{100 * result['divergence_rate']:.0f} % diverged"
        parts.append(f"<h4>{name}</h4><p>{rate}.{flag}</p>" + image(path))
    return "".join(parts)


def _best_of_k_lines(study: Mapping[str, Any]) -> dict[str, Any]:
    scale = 100 if study["metric"] == "error" else 1
    lines = {
        name: [
            np.asarray(r["best_of_k"]["ks"]),
            *(scale * json_values(r["best_of_k"], part) for part in ("mean", "low", "high")),
        ]
        for name, r in tuned_results(study).items()
    }
    return lines | _learned_lines(study, scale)


def _learned_lines(study: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """A rule without knobs is what it is, whatever K: the mean and band over its seeds."""
    found = {}
    for name, r in final_results(study).items():
        if not r["space"]["parameters"]:
            values = scale * json_values(r, "test_scores")
            parts = [values.mean(), *np.quantile(values, [0.05, 0.95])]
            ks = np.array([1, r["num_trials"]])
            found[name] = [ks, *(np.full(2, part) for part in parts)]
    return found


def _projection(study: Mapping[str, Any], rule: str, result: Mapping[str, Any], path: Path) -> None:
    trials = trials_of(study, rule, result)
    scale = 100 if study["metric"] == "error" else 1
    values = scale * scores(trials, metric=study["metric"])
    space = SearchSpace.from_dict(result["space"])
    study_plots.projections(
        {
            name: ([trial["point"][name] for trial in trials.values()], values, r.scale)
            for name, r in space.parameters.items()
        },
        path,
        ylabel=f"validation {_unit(study)}",
    )


def _seed_interval(study: Mapping[str, Any], result: Mapping[str, Any]) -> Interval:
    values = winner_scores(study, result)
    difference = statistics.paired_difference(values, np.zeros_like(values))
    return _scaled(study, [difference.mean, difference.low, difference.high])


def _scaled(study: Mapping[str, Any], numbers: Sequence[float]) -> Interval:
    scale = 100 if study["metric"] == "error" else 1
    return Interval(*(scale * float(x) for x in numbers))


def _unit(study: Mapping[str, Any]) -> str:
    return "error, %" if study["metric"] == "error" else "loss"


def _plus_minus(study: Mapping[str, Any], values: np.ndarray) -> str:
    scale = 100 if study["metric"] == "error" else 1
    diverged = int((~np.isfinite(values)).sum())
    if diverged:
        return f"diverged on {diverged} of {len(values)} seeds"
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{scale * values.mean():.4g} ± {scale * error:.2g}"


def main(argv: Sequence[str]) -> None:
    """Makes the report that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    output = Path(str(_OUTPUT.value))
    try:
        summary = make_report(_WORKDIRS.value or [], output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    for workload, arrows in summary["arrows"].items():
        for arrow, found in arrows.items():
            print(f"{workload}: {arrow}: the general rule is {found['answer']}")
    for workload, reversals in summary["reversals"].items():
        print(f"{workload}: {len(reversals)} pairs of rules change places as the space grows")
    print(f"report: {output / 'report.html'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdirs", "output"])
    app.run(main)
