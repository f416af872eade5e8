"""One page that says which optimizer is better: a report of tuning studies.

    python -m experiments.study_report --workdirs=DIR,DIR,… --output=DIR

The work directories are those of `experiments.tune`, one a workload. The page shows, for each
workload, the test score of the best of K against K, the winners' curves, where the trials lie in
their spaces, and the probability that one rule beats another; and over all of them the inclusion
arrows with "is the more general rule worse?" answered by intervals, the rankings as the search
space grows, steps and time to a target, and performance profiles. Numbers of initial search spaces,
and of best trials on an edge, are marked wherever they stand.

Writes report.html (self-contained), summary.json, trials.npz (every trial, for
`learned_opt.studies.read_trials_table`) and the figures best_of_k.svg, arrows.svg and rankings.svg
into the output directory. A README.md that is there already has its tables renewed: what stands
between `<!-- NAME -->` and `<!-- end -->`, see `experiments.common.study_markdown`.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.common import study_markdown, study_sections
from experiments.common.html_page import page
from experiments.common.lookup import expand
from experiments.common.output import tolerate_encodings
from experiments.common.report_flags import OUTPUT, WORKDIRS
from experiments.common.study_results import (
    all_trials,
    arrow_name,
    compare_arrows,
    costs_to_target,
    find_reversals,
    grows,
    read_study,
    winners_summary,
)
from experiments.common.workdir import write_json
from learned_opt.studies import write_trials_table

_INTRODUCTION = (
    "<p>Tuning studies after Choi et al., <i>On empirical comparisons of optimizers for deep "
    'learning</i> (2019). Every trial is in <a href="trials.npz">trials.npz</a>, the numbers of '
    'this page in <a href="summary.json">summary.json</a>.</p>'
)
_KEPT = ("best_of_k.svg", "arrows.svg", "rankings.svg")  # figures that other pages show
_LARGEST = 1_000_000  # bytes of a page that is committed


def make_report(workdirs: Sequence[str | Path], output: Path) -> dict[str, Any]:
    """Writes the report.

    Args:
      workdirs: the work directories of finished studies, one a workload.
      output: the folder to write into.

    Returns:
      What `summary.json` holds.

    Raises:
      FileNotFoundError: a work directory without results.
      ValueError: results that are damaged, two work directories of one workload, or a README.md
        with a part that no command makes.
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
        "verdicts": study_sections.VERDICTS,
        "arrows": arrows,
        "reversals": reversals,
        "targets": targets,
    }
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder)
        sections = {
            "Winners on the test split": study_sections.winners_section(studies, figures),
            "Is a more general rule, fully tuned, ever worse?": study_sections.arrow_section(
                studies, arrows, figures
            ),
        }
        if reversals:
            sections["Do rankings change as the search space grows?"] = (
                study_sections.ranking_section(studies, reversals, figures)
            )
        sections["Steps and time to a target"] = study_sections.target_section(
            studies, targets, figures
        )
        for study in studies:
            sections[study["workload"]] = study_sections.workload_section(study, figures)
        for name in _KEPT:
            if (figures / name).exists():
                (output / name).write_bytes((figures / name).read_bytes())
    text = page("Which optimizer is really better?", _INTRODUCTION, sections)
    (output / "report.html").write_text(text, encoding="utf-8")
    write_json(output / "summary.json", summary)
    write_trials_table(
        output / "trials.npz",
        {
            (study["workload"], level, rule): trials
            for study in studies
            for level, rule, trials in all_trials(study)
        },
    )
    if (output / "README.md").exists():
        study_markdown.renew(output / "README.md", studies, arrows, reversals)
    return summary


def main(argv: Sequence[str]) -> None:
    """Makes the report that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    tolerate_encodings()
    try:
        output = expand(str(OUTPUT.value))
        summary = make_report([expand(path) for path in WORKDIRS.value or []], output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    for workload, arrows in summary["arrows"].items():
        for found in arrows.values():
            arrow = f"{arrow_name(found)} {found['marks']}".strip()
            print(f"{workload}: {arrow}: the general rule is {found['answer']}")
    for workload, reversals in summary["reversals"].items():
        print(f"{workload}: {len(reversals)} pairs of rules change places as the space grows")
    print(f"report: {output / 'report.html'}")
    for path in sorted(output.iterdir()):
        if path.stat().st_size > _LARGEST:
            size = path.stat().st_size / 1e6
            print(f"{path} has {size:.1f} MB: too much to be committed", file=sys.stderr)


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdirs", "output"])
    app.run(main)
