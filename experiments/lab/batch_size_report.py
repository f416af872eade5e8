"""Figures and the answer of `batch_size`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import COLORS, log_axis, make_panels, save
from learned_opt.studies.statistics import mean_interval

WAYS = {  # in the order of the tables
    "same": ("same rate", "#7F7F7F", "solid"),
    "scaled": ("rate scaled with the batch", "#56B4E9", "solid"),
    "tuned": ("rate tuned for the batch", "#000000", "solid"),
}
_BUDGETS = {"steps": "equal updates", "epochs": "equal epochs"}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Test error, training loss and sharpness by batch size; and slices through two minima."""
    columns = {
        "test_error": "test error (%)",
        "train_loss": "training loss (nats)",
        "top_eigenvalue": "largest Hessian eigenvalue",
    }
    figure, axes = make_panels(2 * len(columns), xlabel="", ylabel="", columns=len(columns))
    figure.set_size_inches(11.4, 6.0)
    for n, (metric, title) in enumerate(columns.items()):
        drawn = [
            _draw_panel(axes[row * len(columns) + n], results["cells"][budget], metric)
            for row, budget in enumerate(_BUDGETS)
        ]
        flat = np.concatenate(drawn)
        for row, name in enumerate(_BUDGETS.values()):
            axis = axes[row * len(columns) + n]
            log_axis(axis, flat, flat, above=1.25)
            axis.set_title(f"{title}, {name}", fontsize=10)
            axis.set_xlabel("batch size (examples)" if row else "")
    figure.supxlabel("cross: did not learn at the rate scaled with the batch", fontsize=9)
    label_lines(figure, axes)
    save(figure, path / "batch_size.svg")
    _draw_slices(results["slices"], path / "batch_size_slices.svg")


def _draw_panel(axis: Any, ways: Mapping[str, Any], metric: str) -> np.ndarray:
    """Means with intervals, a cross at the top for what did not learn; the numbers drawn."""
    drawn = []
    for k, (way, (_, color, dashes)) in enumerate(WAYS.items()):
        factor = 100 if metric == "test_error" else 1
        points = {int(batch): cell for batch, cell in ways[way].items()}
        at = {batch: batch * 1.08 ** (k - 1) for batch in points}  # no interval hides another
        good = [batch for batch, cell in points.items() if learned(cell)]
        intervals = [_interval(points[batch][metric]) for batch in good]
        found = factor * np.array(intervals).reshape(-1, 3).T
        mean, low, high = found
        axis.errorbar(
            [at[batch] for batch in good], mean, [mean - low, high - mean], color=color,
            linestyle=dashes, marker="o", markersize=4, linewidth=1.6, capsize=2,
            label=f"{way} rate",
        )  # fmt: skip
        lost = [at[batch] for batch in points if batch not in good]
        axis.plot(
            lost, np.full(len(lost), 0.96), "x", color=color, markersize=7, mew=2,
            transform=axis.get_xaxis_transform(),
        )  # fmt: skip
        drawn.append(found.ravel())
    axis.set_xscale("log", base=4)
    axis.set_xticks(list(points), [f"{batch:,}" for batch in points])
    axis.minorticks_off()
    return np.concatenate(drawn)


def learned(cell: Mapping[str, Any]) -> bool:
    """Whether runs classify at least half of the test examples."""
    errors = [1.0 if x is None else x for x in cell["test_error"]]
    return float(np.mean(errors)) < 0.5


def _draw_slices(slices: Mapping[str, Any], path: Path) -> None:
    figure, axes = make_panels(3, xlabel="", ylabel="", columns=3)
    for color, (batch, found) in zip((COLORS[0], COLORS[1]), slices.items(), strict=False):
        for split, dashes in (("train", "solid"), ("test", (0, (5, 2)))):
            label = f"batch {int(batch):,}, {'training' if split == 'train' else 'test'} loss"
            axes[0].plot(found["where"], found[split], color=color, linestyle=dashes, label=label)
    axes[0].set_xlabel("way along a random direction\n(1: as long as the weights)")
    axes[0].set_ylabel("loss (nats)")
    axes[0].set(ylim=(0, None), xlim=(-1, 1))
    axes[0].set_title("on a line", fontsize=10)
    levels = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
    for axis, (batch, found) in zip(axes[1:], slices.items(), strict=False):
        where = found["plane_where"]
        lines = axis.contour(
            where, where, np.array(found["plane"]).T, levels=levels, colors="0.25", linewidths=1.0
        )
        axis.clabel(lines, fmt="%g", fontsize=8)
        axis.plot(0, 0, "o", color="#000000", markersize=5)
        axis.set_xlabel("along a first direction")
        axis.set_ylabel("along a second one")
        axis.set_title(f"on a plane: training loss, batch {int(batch):,}", fontsize=10)
        axis.set_aspect("equal")
    figure.set_size_inches(12.4, 3.4)
    label_lines(figure, axes[:1])
    save(figure, path)


def _interval(values: list) -> tuple[float, float, float]:
    known = [x for x in values if x is not None]
    return mean_interval(known) if len(known) > 1 else (np.nan,) * 3


def report(results: Mapping[str, Any]) -> str:
    """The question, the answer and the numbers behind it."""
    config, cells = results["config"], results["cells"]
    small, large = str(min(config["batches"])), str(max(config["batches"]))
    lost = [
        f"{int(batch):,}"
        for batch in cells["epochs"]["scaled"]
        if not learned(cells["epochs"]["scaled"][batch])
    ]

    def pair(budget: str, way: str, metric: str, factor: float = 1) -> str:
        """What the smallest batch has and what the largest one."""
        ends = [_mean(cells[budget][way][batch][metric]) * factor for batch in (small, large)]
        return f"{ends[0]:.3g} → {ends[1]:.3g}"

    edges = [_edge(cells[b][w][large]) for b in _BUDGETS for w in ("same", "tuned")]
    lines = [
        "# Do large batches end in sharp minima, and does it cost test accuracy?",
        "",
        "```bash",
        "python -m experiments.generalization "
        "--config=experiments/configs/generalization/batch_size.py --workdir=DIR",
        "```",
        "",
        f"SGD trains a perceptron on {config['examples']:,} pictures of Fashion-MNIST, averaged "
        f"down to 14×14, with batches of {small} to {int(large):,}: for "
        f"{config['budgets']['steps']:,} updates each, and for {config['budgets']['epochs']} "
        f"epochs each; with the rate that is best for batches of {config['reference']}, with that "
        "rate scaled with the batch, and "
        f"with the best of {len(config['rates'])} rates for each batch (by validation error of "
        f"{config['tuning_seeds']} other seeds). {config['num_seeds']} seeds; the curvature of "
        f"{config['sharp_seeds']} of them.",
        "",
        "![Test error, training loss and sharpness](batch_size.svg)",
        "",
        "## The answer",
        "",
        f"**With one rate for all batches, yes, larger batches end where the loss is more curved: "
        f"the largest eigenvalue of the Hessian goes {pair('steps', 'same', 'top_eigenvalue')} at "
        f"equal updates and {pair('epochs', 'same', 'top_eigenvalue')} at equal epochs, from "
        f"batch {small} to {int(large):,}. It does not cost test accuracy by itself: at equal "
        f"updates the test error falls all the same ({pair('steps', 'same', 'test_error', 100)} %; "
        f"with tuned rates {pair('steps', 'tuned', 'test_error', 100)} %), and at equal epochs it "
        f"rises "
        f"({pair('epochs', 'tuned', 'test_error', 100)} % with tuned rates) because large batches "
        f"make few updates: their training loss rises with it "
        f"({pair('epochs', 'tuned', 'train_loss')}).** The rank correlation of eigenvalue and "
        "test error, over the minima at equal updates that learned, is "
        f"{_correlation(cells['steps'], ('same',))} with one rate, where sharper minima come "
        f"with fewer errors, and {_correlation(cells['steps'], tuple(WAYS))} with all rates. "
        "What sets the curvature is the rate as much as the batch: gradient descent of rate η "
        "does not stay where the eigenvalue is far above 2/η, and the largest batches end at "
        f"{min(edges):.2g} to {max(edges):.2g} times that edge. With a rate tuned for each batch "
        f"the eigenvalue goes {pair('steps', 'tuned', 'top_eigenvalue')} and "
        f"{pair('epochs', 'tuned', 'top_eigenvalue')} instead: no growth is left. The rate scaled "
        f"with the batch does not learn at batches of {', '.join(lost)}, at equal epochs: it is "
        "far beyond the edge, and there was no warm-up.",
        "",
        "Which protocol is right depends on what is scarce: updates (many machines in parallel) or "
        "examples seen (one machine). Not shown here: networks trained until no training error is "
        f"left, for which Keskar et al. (2017) report their gap. These end with "
        f"{100 * _least(cells, 'train_error'):.0f} % training error at best.",
        "",
        "![Slices through two minima](batch_size_slices.svg)",
        "",
        "The slices go through the minima of the extreme batches, of equal epochs and tuned rates, "
        "in directions that have each filter as long as that of the weights (Li et al., 2018), "
        f"on a line the mean over {config['directions']}. The large batch's bowl is higher and "
        "wider: it is not at its bottom yet.",
        "",
        "## Numbers",
        "",
        "Means over seeds ± half of a 95 % interval. λη/2: the largest eigenvalue against the edge "
        "of stability 2/η. ε-sharpness: how much worse the loss becomes within a box of ε = "
        f"{config['epsilon']:g}, in percent (Keskar et al.).",
        "",
    ]
    for budget, title in _BUDGETS.items():
        lines += [
            f"### {title.capitalize()}",
            "",
            "| rate | batch | η | updates | training loss | test error (%) | eigenvalue λ | λη/2 | "
            "trace | ε-sharpness |",
            "| --- " + "| ---: " * 9 + "|",
        ]
        for way, (label, _, _) in WAYS.items():
            for batch, cell in cells[budget][way].items():
                edge = " (edge)" if cell.get("on_edge") else ""
                row = [label, f"{int(batch):,}", f"{cell['rate']:g}{edge}", f"{cell['updates']:,}"]
                row += [_written(cell["train_loss"]), _written(cell["test_error"], 100, 1)]
                row += [_written(cell["top_eigenvalue"], digits=2), f"{_edge(cell):.2f}"]
                row += [_written(cell["trace"], digits=1), _written(cell["epsilon_sharpness"])]
                lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def _mean(values: list) -> float:
    return float(np.mean([np.nan if x is None else x for x in values]))


def _written(values: list, factor: float = 1, digits: int = 3) -> str:
    mean, low, _ = (factor * x for x in _interval(values))
    return f"{mean:.{digits}f} ± {mean - low:.{digits}f}" if np.isfinite(mean) else "diverged"


def _edge(cell: Mapping[str, Any]) -> float:
    return _mean(cell["top_eigenvalue"]) * cell["rate"] / 2


def _least(cells: Mapping[str, Any], metric: str) -> float:
    return min(
        _mean(c[metric]) for ways in cells.values() for way in ways.values() for c in way.values()
    )


def _correlation(ways: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Spearman's, of eigenvalue and test error, over the minima of runs that learned."""
    from scipy.stats import spearmanr

    found = {
        (batch, cell["rate"]): (cell["top_eigenvalue"], cell["test_error"])
        for name in names
        for batch, cell in ways[name].items()
        if learned(cell)
    }
    if len(found) < 2:
        return "unknown, of too few,"
    pairs = [pair for x, y in found.values() for pair in zip(x, y, strict=False)]
    return f"{spearmanr(*np.array(pairs).T).statistic:+.2f}"
