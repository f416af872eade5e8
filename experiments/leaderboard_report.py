"""The page of a leaderboard, from the work directories of `experiments.leaderboard`.

    python -m experiments.leaderboard_report --workdirs=DIR,DIR,… [--stability=DIR,DIR,…] \
        --output=docs/leaderboard

Several work directories are put together: each may hold other rules or workloads. A rule that is
not finished on every workload is named and left out. Test losses choose nothing. Work directories
of `experiments.stability` add its counts.

Writes README.md, results.npz (the runs at the best rates), summary.json and the figures
leaderboard.svg, profiles.svg and curves.svg into the output directory.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from experiments.common import board_markdown
from experiments.common.board_results import (
    Board,
    SpeedUps,
    against_the_best,
    all_speed_ups,
    cost,
    estimates,
    heldout_ratios,
    read_board,
    read_stability,
    train_ratios,
    worse_than,
    write_results,
)
from experiments.common.lookup import expand
from experiments.common.names import display_name, with_unit
from experiments.common.output import tolerate_encodings
from experiments.common.report_flags import OUTPUT, WORKDIRS
from experiments.common.workdir import write_json
from learned_opt.figures import leaderboard as figures
from learned_opt.figures.labels import MOST_LINES
from learned_opt.studies import leaderboard

_STABILITY = flags.DEFINE_list("stability", None, "work directories of experiments.stability")

RIVALS = ("adam", "adamw_cosine", "muon_cosine", "celo2_cosine")
_IN_CURVES = (  # six lines a panel, the first of these that are there
    "general", "adam", "adamw_cosine", "muon_cosine", "celo2_cosine", "general_default",
    "schedule_free_adamw", "lstm_mnist",
)  # fmt: skip


def make_report(
    workdirs: Sequence[str | Path], output: Path, stability: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """Writes the report.

    Args:
      workdirs: the work directories of the board.
      output: the folder to write into.
      stability: work directories of `experiments.stability`.

    Returns:
      What `summary.json` holds.

    Raises:
      FileNotFoundError: there are no finished results.
      ValueError: results that are damaged or do not fit together, or Adam is not among them.
    """
    board = read_board(workdirs)
    if not board.rules:
        raise ValueError("no rule is finished on every workload; run experiments.leaderboard again")
    speeds = all_speed_ups(board)
    summary = {
        "workloads": list(board.results),
        "saturated": speeds.saturated,
        "unfinished": board.unfinished,
        "rules": {rule: _rule(board, speeds, rule) for rule in board.rules},
        "requirements": _requirements(board, speeds),
        "stability": read_stability(stability),
    }
    output.mkdir(parents=True, exist_ok=True)
    _draw(board, speeds, summary, output)
    write_results(output / "results.npz", board)
    write_json(output / "summary.json", summary)
    text = board_markdown.page(board, speeds, summary)
    (output / "README.md").write_text(text, encoding="utf-8")
    return summary


def _rule(board: Board, speeds: SpeedUps, rule: str) -> dict[str, Any]:
    """All that is said of one rule over all workloads."""
    rivals = [name for name in RIVALS if name in board.rules and name != rule]
    tests = {name: [-r[name].test for r in board.results.values()] for name in (rule, *rivals)}
    finite = {n: [np.where(np.isfinite(x), x, -1e30) for x in t] for n, t in tests.items()}
    return {
        "speed_up": estimates(speeds.values[rule]),
        "speed_up_by_training": estimates(speeds.by_training[rule]),
        "heldout": {name: estimates(heldout_ratios(board, rule, name)) for name in rivals},
        "train": {name: estimates(train_ratios(board, rule, name)) for name in rivals},
        "better": {
            name: leaderboard.probability_of_improvement(finite[rule], finite[name])
            for name in rivals
        },
        "on_edge": [w for w, r in board.results.items() if r[rule].outcome["on_edge"]],
        "diverged": sum(int(np.isnan(r[rule].test).sum()) for r in board.results.values()),
        **cost(board, rule),
    }


def _requirements(board: Board, speeds: SpeedUps) -> dict[str, Any]:
    """What a rule that is to be used by default is held to, of `general` and its default rate."""
    found: dict[str, Any] = {}
    if "general" in board.rules:
        rule = "general"
        found["speed-up over Adam"] = estimates(speeds.values[rule])
        found["the same at the rate with the best training loss"] = estimates(
            speeds.by_training[rule]
        )
        for rival in ("adamw_cosine", "muon_cosine", "celo2_cosine"):
            if rival not in board.rules:
                continue
            name = display_name(rival)
            found[f"held-out loss of {name} / its own"] = estimates(
                heldout_ratios(board, rule, rival)
            )
            if rival != "adamw_cosine":
                both = speeds.values[rule], speeds.values[rival]
                found[f"its speed-up / that of {name}"] = estimates(
                    {w: both[0][w] / both[1][w] for w in both[0]}
                )
    if "general_default" in board.rules:
        rule = "general_default"
        found["default rate: held-out loss of the best of Adam, AdamW and Muon / its own"] = (
            estimates(against_the_best(board, rule))
        )
        found["default rate: held-out loss of Adam / its own"] = estimates(
            heldout_ratios(board, rule, "adam")
        )
        found["default rate: workloads that end worse than Adam at its best"] = worse_than(
            board, rule, "adam"
        )
    return found


def _draw(board: Board, speeds: SpeedUps, summary: dict[str, Any], output: Path) -> None:
    names = {rule: display_name(rule) for rule in board.rules}
    rules = summary["rules"]
    by_speed = sorted(board.rules, key=lambda rule: -(rules[rule]["speed_up"] or (0,))[0])
    panels = {
        f"speed-up over Adam,\nrate by {by} loss": {
            rule: rules[rule][key] for rule in by_speed if rules[rule][key]
        }
        for by, key in (("validation", "speed_up"), ("training", "speed_up_by_training"))
    }
    rival = "adamw_cosine"
    if rival in board.rules:
        panels[f"test loss of\n{display_name(rival)} / its own"] = {
            rule: rules[rule]["heldout"].get(rival, (1.0, 1.0, 1.0)) for rule in by_speed
        }
    figures.intervals(panels, names, output / "leaderboard.svg")
    shown = [rule for rule in _IN_CURVES if rule in board.rules][:MOST_LINES]
    figures.curves(
        {
            with_unit(workload, board.tasks[workload]): {
                rule: figures.Curve(
                    np.linspace(0, x.outcome["num_steps"], x.train.shape[1]), x.train
                )
                for rule, x in ((rule, results[rule]) for rule in shown)
            }
            for workload, results in board.results.items()
        },
        names,
        output / "curves.svg",
    )
    taus = np.geomspace(0.25, 4, 81)
    profiles: dict[str, Any] = {}
    if any(speeds.values.values()):
        profiles["speed-up over Adam"] = (
            taus,
            {r: leaderboard.profile(list(speeds.values[r].values()), taus) for r in shown},
        )
    ratios = {r: list(heldout_ratios(board, r, "adam").values()) for r in shown if r != "adam"}
    taus = np.geomspace(0.5, 2, 81)
    shares = {rule: leaderboard.profile(scores, taus) for rule, scores in ratios.items()}
    profiles["test loss of Adam / its own"] = (taus, shares)
    figures.profiles(profiles, names, output / "profiles.svg")


def main(argv: Sequence[str]) -> None:
    """Makes the report that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    tolerate_encodings()
    try:
        output = expand(str(OUTPUT.value))
        folders = [[expand(p) for p in flag.value or []] for flag in (WORKDIRS, _STABILITY)]
        summary = make_report(folders[0], output, folders[1])
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if summary["unfinished"]:
        print(f"left out, not finished: {', '.join(summary['unfinished'])}")
    for name, value in summary["requirements"].items():
        print(f"{name}: {board_markdown.written(value)}")
    print(f"report: {output / 'README.md'}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdirs", "output"])
    app.run(main)
