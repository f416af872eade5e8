"""The parts of a Markdown page about tuning studies that are made from their results."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.study_results import (
    MARKS,
    Cell,
    arrow_name,
    learned_results,
    marks,
    shown,
    tuned_results,
    unit,
    winner_cells,
)
from experiments.common.study_sections import VERDICTS, reversals_text

_PART = re.compile(r"(<!-- (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def renew(
    path: Path,
    studies: Sequence[Mapping[str, Any]],
    arrows: Mapping[str, Mapping[str, Any]],
    reversals: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Renews what stands between `<!-- NAME -->` and `<!-- end -->` in a Markdown file.

    Args:
      path: the file.
      studies: what it is about.
      arrows: workload -> from `compare_arrows`.
      reversals: workload -> from `find_reversals`.

    Raises:
      ValueError: a NAME other than winners, marks, arrows and reversals.
    """
    parts = {
        "winners": winners(studies),
        "marks": "".join(f"- {mark} {meaning}.\n" for mark, meaning in MARKS.items()),
        "arrows": arrow_counts(arrows),
        "reversals": "".join(
            f"- {workload}: {reversals_text(found)}\n" for workload, found in reversals.items()
        ),
    }
    text = path.read_text(encoding="utf-8")
    unknown = sorted({name for _, name, _, _ in _PART.findall(text)} - set(parts))
    if unknown:
        raise ValueError(
            f"{path} has the part {unknown[0]}; a report has {', '.join(parts)}: rename it"
        )
    renewed = _PART.sub(lambda m: f"{m[1]}\n{parts[m[2]]}\n{m[4]}", text)
    path.write_text(renewed, encoding="utf-8")


def winners(studies: Sequence[Mapping[str, Any]]) -> str:
    """The table of winners, a row a workload."""
    rules = list(dict.fromkeys(rule for study in studies for rule in tuned_results(study)))
    lines = [["workload", *map(shown, rules), "learned, untuned"], ["---"] * (len(rules) + 2)]
    for study in studies:
        cells = {
            rule: _cell(cell, "*" if marks(study, *tuned_results(study)) else "**")
            for rule, cell in winner_cells(study).items()
        }
        learned = ", ".join(f"{cells[rule]} ({rule})" for rule in learned_results(study))
        row = [f"{study['workload']}, {unit(study)}", *(cells.get(rule, "–") for rule in rules)]
        row.append(learned or "–")
        lines.append(row)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(cell: Cell, emphasis: str) -> str:
    around = emphasis if cell.best else ""
    return f"{around}{cell.text}{around} {cell.marks}".strip()


def arrow_counts(arrows: Mapping[str, Mapping[str, Any]]) -> str:
    """How many of the arrows have which verdict, and which ones are not in favour."""
    every = [(workload, found) for workload, a in arrows.items() for found in a.values()]
    marked = sum(bool(found["marks"]) for _, found in every)
    names = ", ".join(MARKS)
    text = (
        f"{len(every)} arrows; in {marked} of them a rule is marked ({names})."
        "\n\n"
        "| the more general rule is | arrows | when | which |\n| --- | --- | --- | --- |\n"
    )
    for verdict, meaning in VERDICTS.items():
        cases = [(workload, found) for workload, found in every if found["answer"] == verdict]
        named = "; ".join(
            f"{workload}: {arrow_name(f)} {f['marks']}".strip() for workload, f in cases
        )
        which = named if verdict in ("worse", "unclear") else ""
        text += f"| {verdict} | {len(cases)} | {meaning} | {which} |\n"
    return text
