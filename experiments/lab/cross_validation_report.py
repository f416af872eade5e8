"""The figure and the answer of `cross_validation`."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.answer_page import answer_page, table, with_interval
from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import COLORS, save
from learned_opt.studies.folds import fold_weights
from learned_opt.studies.statistics import mean_interval


def draw(results: dict[str, Any], path: Path) -> None:
    """The ways to split a series, their estimates against the future, and those on little data."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 6.8), dpi=130, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.6))
    above, below = parts
    pictures = above.subplots(1, len(results["series"]["ways"]))
    for axis, name in zip(pictures, results["series"]["ways"], strict=True):
        _draw_splits(axis, name, results["config"]["folds"])
    above.supxlabel(
        "time (each row is a fold) · blue: learns · orange: is tested · black: the future",
        fontsize=9,
    )
    left, middle, right = below.subplots(1, 3, width_ratios=(1, 1, 1.15))
    middle.sharey(left)
    titles = ("Series that remember", "No memory: K-fold is right")
    for axis, part, title in zip((left, middle), ("series", "independent"), titles, strict=True):
        _draw_estimates(axis, results[part], results["floor"] if part == "series" else 1.0)
        axis.set_title(title, fontsize=10)
    left.set_ylabel("mean squared error")
    left.text(
        1e-4, results["floor"], "no model can be better", color="0.4", fontsize=8, va="bottom"
    )
    _draw_little(right, results["little"])
    label_lines(figure, [left, middle])
    save(figure, path / "cross_validation.svg")


def splitters(folds: int, block: int, gap: int, seed: int) -> dict[str, Any]:
    """The ways to split a series."""
    from sklearn.model_selection import KFold, TimeSeriesSplit

    return {
        "K-fold, shuffled": KFold(folds, shuffle=True, random_state=seed),
        "K-fold, in blocks": KFold(folds),
        "TimeSeriesSplit": TimeSeriesSplit(folds, test_size=block),
        "TimeSeriesSplit with a gap": TimeSeriesSplit(folds, test_size=block, gap=gap),
    }


def _draw_splits(axis: Any, name: str, num_folds: int) -> None:
    """The folds of a series of 50 steps, and the future behind it."""
    folds = fold_weights(splitters(num_folds, 5, 5, 0)[name], 50)
    for row, (train, test) in enumerate(zip(folds.train, folds.test, strict=True)):
        for rows, color in ((train > 0, COLORS[2]), (test, COLORS[1])):
            steps = np.flatnonzero(rows)
            axis.plot(steps, np.full(len(steps), -row), "o", color=color, markersize=3, mew=0)
    axis.plot(np.arange(55, 68), np.full(13, -num_folds), "o", color="black", markersize=3, mew=0)
    axis.set_title(name, fontsize=10)
    axis.set_axis_off()


def _draw_estimates(axis: Any, part: dict[str, Any], floor: float) -> None:
    penalties = np.array(part["penalties"])
    lines = {name: way["estimates"] for name, way in part["ways"].items()}
    lines["the future, as it came"] = part["future"]
    colors = (COLORS[1], COLORS[6], COLORS[2], COLORS[3], COLORS[0])
    for n, ((name, values), color) in enumerate(zip(lines.items(), colors, strict=True)):
        mean, low, high = np.transpose(values)
        axis.errorbar(
            penalties * 1.09 ** (n - 2), mean, [mean - low, high - mean], color=color, marker=".",
            linewidth=1.8 if n in (0, 3, 4) else 1.1, elinewidth=0.9, label=name,
        )  # fmt: skip
    axis.axhline(floor, color="0.5", linewidth=0.9, linestyle=(0, (4, 2)))
    axis.set(xscale="log", xlabel="weight penalty λ", ylim=(0, None))
    axis.grid(True, color="0.92", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)


def _draw_little(axis: Any, part: dict[str, Any]) -> None:
    names = list(part["ways"])
    for row, name in enumerate(names):
        errors = np.array(part["ways"][name]["error of the estimate"])
        mean, low, high = mean_interval(errors)
        axis.plot(errors, np.full(len(errors), -row), "|", color="0.7", markersize=7)
        axis.errorbar(mean, -row, xerr=[[mean - low], [high - mean]], fmt="o", color=COLORS[3])
    axis.axvline(0, color="0.5", linewidth=0.9)
    axis.set_yticks(-np.arange(len(names)), names, fontsize=8)
    axis.set_xlabel("estimate − test loss of what was chosen [nats]")
    axis.set_title("Little data: 100 digits", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def report(results: dict[str, Any]) -> str:
    """The answer and the tables."""
    series, little = results["config"]["series"], results["config"]["little"]
    setting = (
        f"*Series:* {series['num_replicates']} series of {series['num_steps_of_series']} steps, "
        f"{series['num_inputs']} inputs and a target, each of correlation "
        f"{series['correlation']} from one step to the next; the target is half the first input "
        "plus what no input knows. Networks are fitted with several weight penalties; the future "
        f"is {series['future']} steps, {series['gap']} after the end; and {series['num_controls']} "
        "series without memory. "
        f"*Little data:* {little['num_replicates']} sets of {little['num_examples']} digits; the "
        "penalty is chosen by each way, the network fitted again to all of them, and tested on "
        "all others. Means with 95 % intervals over series or sets; differences are paired."
    )
    head = ["", "its estimate", "the future of what it chose", "estimate less future"]
    sections = []
    for part, title in (("series", "Series with memory"), ("independent", "Without memory")):
        rows = [
            [
                name,
                with_interval(way["estimate of the chosen"]),
                with_interval(way["future of the chosen"]),
                _less(way["estimate of the chosen"], way["future of the chosen"]),
            ]
            for name, way in results[part]["ways"].items()
        ]
        sections += [f"## {title}: mean squared error", table(head, rows)]
    penalties = [f"{x:g}" for x in results["series"]["penalties"]]
    rows = [
        [name, *(f"{m:+.2f} [{low:+.2f}, {high:+.2f}]" for m, low, high in way["difference"])]
        for name, way in results["series"]["ways"].items()
    ]
    sections += [
        "## Series with memory: estimate less future, by penalty",
        table(["", *penalties], rows),
        "## Little data: cross-entropy",
        table(
            ["", "estimate less test loss", "spread of that", "test loss above the best penalty's"],
            [
                [
                    name,
                    with_interval(way["error of the estimate"], 2),
                    f"{np.std(way['error of the estimate'], ddof=1):.3f}",
                    with_interval(way["regret"], 2),
                ]
                for name, way in results["little"]["ways"].items()
            ],
        ),
    ]
    return answer_page(
        "How to choose a hyperparameter with little data, and is K-fold allowed on time series?",
        "cross_validation", setting, _answer(results), *sections,
    )  # fmt: skip


def _less(a: list[float], b: list[float]) -> str:
    mean, low, high = mean_interval(np.subtract(a, b))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _answer(results: dict[str, Any]) -> str:
    ways, little = results["series"]["ways"], results["little"]["ways"]
    shuffled, gap = ways["K-fold, shuffled"], ways["TimeSeriesSplit with a gap"]
    blocks, control = ways["K-fold, in blocks"], results["independent"]["ways"]["K-fold, shuffled"]

    def chosen(way: dict[str, Any]) -> str:
        return with_interval(way["estimate of the chosen"])

    def future(way: dict[str, Any]) -> str:
        return with_interval(way["future of the chosen"])

    def less(way: dict[str, Any]) -> str:
        return _less(way["estimate of the chosen"], way["future of the chosen"])

    k = results["config"]["folds"]
    plain, split = little[f"{k}-fold"], little[f"stratified {k}-fold"]
    once, often = little["hold out a quarter"], little[f"{k}-fold, repeated 4 times"]
    nested = little[f"nested {k}-fold"]
    regrets = [np.mean(way["regret"]) for way in little.values()]

    def spread(way: dict[str, Any]) -> str:
        return f"{np.std(way['error of the estimate'], ddof=1):.2f}"

    def off(way: dict[str, Any]) -> str:
        return with_interval(way["error of the estimate"], 2)

    return (
        "**Shuffled K-fold is not allowed on a series that remembers.** Its estimate is "
        f"{chosen(shuffled)}; the future of what it chose is {future(shuffled)}, a difference of "
        f"{less(shuffled)}. That the estimate is too low is certain beforehand: what no input "
        f"knows has variance {results['floor']:.3f} once the gap has passed, and no model can be "
        "better. In training, the steps before and after a step of the test are known, and a "
        "network that learns them by heart has the answer; so K-fold also chooses the smallest "
        "penalties, the worst ones in the future. "
        f"**TimeSeriesSplit with a gap estimates {chosen(gap)} and gets {future(gap)}, a "
        f"difference of {less(gap)}: they are not shown to differ.** With the smallest penalties "
        "its estimates are too high (see the table), as its folds learn from a part of the series. "
        f"It is the shuffling that does the harm: K-fold in blocks differs by {less(blocks)}, and "
        f"without memory shuffled K-fold does by {less(control)}.\n\n"
        "**With little data** every way chooses about equally well "
        f"({min(regrets):.3f} to {max(regrets):.3f} above the test loss of the best penalty); they "
        f"differ in their estimates. That of {k}-fold is {off(plain)} above the test loss; of "
        "stratified folds, which learn from as many examples and keep the classes in proportion, "
        f"{off(split)}; of nested ones, which are not flattered by their choice, "
        f"{off(nested)}. One held-out quarter is the least certain (spread {spread(once)}, of "
        f"{k}-fold {spread(plain)}); to repeat {k}-fold four times ({spread(often)}) does not "
        "help: the examples are the same ones."
    )
