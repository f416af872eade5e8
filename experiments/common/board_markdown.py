"""The leaderboard's page, in Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.board_results import RULES, Board, Result, SpeedUps
from experiments.common.names import display_name
from learned_opt.studies.leaderboard import RATIO_CAP

_EDGE = "‡"


def page(board: Board, speeds: SpeedUps, summary: Mapping[str, Any]) -> str:
    """The page.

    Args:
      board: the results.
      speeds: their speed-ups.
      summary: what `summary.json` holds.
    """
    parts = [
        "# Leaderboard",
        _introduction(board, speeds, summary),
        "![Interquartile means of speed-ups and held-out ratios](leaderboard.svg)",
        "## All workloads together",
        _overall(summary),
        "Training losses at the end, at the same rates:",
        _training(summary),
    ]
    if summary["requirements"]:
        rows = [[name, written(value)] for name, value in summary["requirements"].items()]
        parts += ["## What a default is held to", _table(["", "IQM [95 %]"], rows)]
    parts += [
        "## Each workload",
        "![Training loss](curves.svg)",
        "Training loss at the best rates: the mean over seeds, and bars from the lowest to the "
        "highest seed after each quarter of the run, side by side.",
        "### Test loss",
        f"Mean ± standard deviation over seeds; bold: the lowest of a row. {_EDGE}: the best "
        "rate is on the edge of those tried.",
        _losses(board),
        "### Speed-up over Adam",
        "Means over seeds; ≥ and ≤: a seed is at the cap.",
        _speeds(board, speeds),
        "### Learning rates",
        "The best of seven, half-decades apart, by the validation loss.",
        _rates(board),
        "## Profiles",
        "![Profiles](profiles.svg)",
        "The share of runs whose score is above τ, each workload counting the same.",
    ]
    if summary["stability"]:
        parts += ["## Stability", _stability(summary["stability"])]
    return "\n\n".join(parts) + "\n"


def written(value: Any) -> str:
    """An estimate, a list of names, or nothing, as it is shown."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return f"{len(value)}" + (f": {', '.join(value)}" if value else "")
    return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"


def _introduction(board: Board, speeds: SpeedUps, summary: Mapping[str, Any]) -> str:
    results = [result for found in board.results.values() for result in found.values()]
    seeds = max(len(result.test) for result in results)
    reference = next(iter(board.results.values()))["adam"]
    search = max(len(curve) for curve in reference.curves.values())
    factor = reference.outcome["factor"]
    points = reference.outcome["points"]
    left_out = ", ".join(speeds.saturated) or "none"
    text = (
        f"{len(board.rules)} rules on {len(board.results)} workloads, {seeds} seeds each. Every "
        "rule that is searched over has seven learning rates, half-decades apart, which move until "
        "the best one by validation loss is not on their edge "
        f"(search: {search} seeds; the best rate: all {seeds}); AdamW has them for each of two "
        "weight decays. Test losses choose nothing.\n\n"
        "*Speed-up:* the steps after which the lower envelope of all of Adam's rates had the "
        "training loss that the rule ends with, over the rule's own steps (the definition of Celo; "
        f"Adam's runs are {factor} times as long, and speed-ups are capped at {factor} and "
        f"1/{factor}). The training loss is that of fixed minibatches, at {points} evenly spaced "
        f"steps, smoothed with 0.95^(200/{points}), which is 0.95 for 200 steps. Left out, for "
        f"Adam's training loss falls below 1e-3 of its start: {left_out}. The rate is the one with "
        "the best validation loss; where a network overfits that is a slow one, so the second "
        f"column has speed-ups at the rate with the best training loss, from {search} seeds.\n\n"
        "*Ratios* are of losses at the end, theirs over the rule's own for the same seed, so that "
        f"above 1 is better; capped at {RATIO_CAP:g}, which is what a diverged run gets. "
        "*IQM:* the mean of the middle half over all workloads and seeds, with the 95 % interval "
        "of a bootstrap of seeds within each workload: it says nothing of other workloads. Runs "
        "behind it: [results.npz](results.npz), [summary.json](summary.json)."
    )
    if summary["unfinished"]:
        text += f"\n\nLeft out, not finished: {', '.join(summary['unfinished'])}."
    return text


def _overall(summary: Mapping[str, Any]) -> str:
    rivals = _rivals(summary)
    head = ["rule", "speed-up over Adam", "the same, rate by training loss"]
    head += [f"test loss: {display_name(name)} / own" for name in rivals]
    head += ["P(lower test loss than Adam)", "step time / Adam's", "state / parameters", "diverged"]
    rows = []
    for rule, found in summary["rules"].items():
        better = found["better"].get("adam")
        time = found["step_time"]
        rows.append(
            [
                display_name(rule),
                written(found["speed_up"]),
                written(found["speed_up_by_training"]),
                *(written(found["heldout"].get(name)) for name in rivals),
                "–" if better is None else f"{better:.2f}",
                "–" if time is None else f"{time:.2f}",
                f"{found['state']:.1f}",
                str(found["diverged"]),
            ]
        )
    return _table(head, rows)


def _rivals(summary: Mapping[str, Any]) -> list[str]:
    named = {name for found in summary["rules"].values() for name in found["heldout"]}
    return [name for name in RULES if name in named]


def _training(summary: Mapping[str, Any]) -> str:
    rivals = _rivals(summary)
    rows = [
        [display_name(rule), *(written(found["train"].get(name)) for name in rivals)]
        for rule, found in summary["rules"].items()
    ]
    return _table(["rule", *(f"{display_name(name)} / own" for name in rivals)], rows)


def _stability(counts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    workloads = list(dict.fromkeys(name for found in counts.values() for name in found))
    every = [entry for found in counts.values() for entry in found.values()]
    steps = sorted({entry["num_steps"] for entry in every})
    runs = sorted({entry["runs"] for entry in every})
    rows = []
    for rule, found in counts.items():
        row = [display_name(rule)]
        for workload in workloads:
            entry = found.get(workload)
            text = f"{entry['diverged']} + {entry['ended_above_start']}" if entry else "–"
            row.append(text)
        failed = sum(x["diverged"] + x["ended_above_start"] for x in found.values())
        rows.append([*row, f"{failed} of {sum(x['runs'] for x in found.values())}"])
    text = (
        f"{'/'.join(f'{n:,}' for n in steps)} steps at each rule's default rate, held constant, "
        f"from {'/'.join(map(str, runs))} seeds: runs that diverged + runs that ended above their "
        "start (`experiments.stability`).\n\n"
    )
    return text + _table(["rule", *workloads, "failed"], rows)


def _losses(board: Board) -> str:
    rows = []
    for workload, results in board.results.items():
        means = {rule: float(np.mean(results[rule].test)) for rule in board.rules}
        finite = [mean for mean in means.values() if np.isfinite(mean)]
        row = [workload]
        for rule in board.rules:
            text = _loss(results[rule])
            row.append(f"**{text}**" if finite and means[rule] == min(finite) else text)
        rows.append(row)
    return _table(["workload", *map(display_name, board.rules)], rows)


def _loss(result: Result) -> str:
    edge = _EDGE if result.outcome["on_edge"] else ""
    lost = int(np.isnan(result.test).sum())
    if lost:
        return f"{lost} of {len(result.test)} diverged{edge}"
    mean, deviation = float(result.test.mean()), float(result.test.std())
    decimals = max(0, 2 - math.floor(math.log10(mean))) if mean > 0 else 3
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}{edge}"


def _speeds(board: Board, speeds: SpeedUps) -> str:
    rows = [
        [workload]
        + [
            f"{speeds.capped[rule][workload]}{speeds.values[rule][workload].mean():.2f}"
            for rule in board.rules
        ]
        for workload in board.results
        if workload not in speeds.saturated
    ]
    return _table(["workload", *map(display_name, board.rules)], rows)


def _rates(board: Board) -> str:
    rows = []
    for workload, results in board.results.items():
        row = [workload]
        for rule in board.rules:
            outcome = results[rule].outcome
            decay = f" (decay {outcome['weight_decay']:g})" if outcome["weight_decay"] else ""
            row.append(f"{outcome['rate']:.2g}{decay}{_EDGE if outcome['on_edge'] else ''}")
        rows.append(row)
    return _table(["workload", *map(display_name, board.rules)], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
