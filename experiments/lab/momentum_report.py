"""The figure and the answer of `momentum`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.answer_page import answer_page, table
from experiments.common.names import display_name
from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import COLORS, make_panels, save, styles_of
from learned_opt.studies.momentum import critical_decay, largest_rate, ravine, spectral_radius


def draw(results: dict[str, Any], path: Path) -> None:
    """The map of momentum, swings, a ravine, condition numbers and a saddle."""
    figure, axes = make_panels(6, xlabel="", ylabel="", columns=2)
    figure.set_size_inches(9.6, 9.6)
    figure.get_layout_engine().set(h_pad=0.1)
    styles = styles_of(results["ravines"])
    _draw_map(axes[0])
    _draw_swings(axes[1], results)
    _draw_ways(axes[2], results, styles)
    ratio = str(results["drawn_ratio"])
    for n, (name, (color, dash)) in enumerate(styles.items()):
        line = {"color": color, "linestyle": dash, "linewidth": 1.6, "label": display_name(name)}
        cells = results["ravines"][name]
        axes[3].plot(cells[ratio]["losses"], **line)
        ratios = [int(k) for k, cell in cells.items() if cell["reached"]]
        reached = [cells[str(k)] for k in ratios]
        middle = np.array([cell["steps"] for cell in reached])
        ends = [middle - [c["least"] for c in reached], [c["most"] for c in reached] - middle]
        apart = 1.05 ** (n - (len(styles) - 1) / 2)  # no bar hides another
        axes[4].errorbar(apart * np.array(ratios), middle, ends, marker=".", **line)
        steps = np.array(results["saddle"][name]["steps"], float)
        steps[steps < 0] = np.nan
        axes[5].plot(results["offsets"], steps, marker=".", **line)
    axes[3].set(
        title=f"4. Loss in a ravine (κ = {ratio})", xlabel="updates", yscale="log",
        ylabel="loss / loss at the start", ylim=(1e-12, 3), xlim=(0, None),
    )  # fmt: skip
    axes[4].set(
        title="5. The narrower the ravine", xlabel="condition number κ", xscale="log", yscale="log",
        ylabel=f"updates to {results['target']:g} of the loss",
    )  # fmt: skip
    axes[5].set(
        title="6. Leaving a saddle", xlabel="distance from the ridge at the start", xscale="log",
        ylabel="updates until away", ylim=(0, None),
    )  # fmt: skip
    axes[5].invert_xaxis()
    axes[4].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[4].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for axis in axes:
        axis.title.set_fontsize(10)
    label_lines(figure, [axes[1], *axes[3:]])
    save(figure, path / "momentum.svg")


def _draw_map(axis: Any) -> None:
    rates, decays = np.linspace(0.002, 4, 80), np.linspace(0, 0.999, 50)
    radius = spectral_radius("momentum", rates, decays[:, None], 1.0)
    levels = [0, 0.5, 0.7, 0.8, 0.9, 0.95, 1]
    shades = [str(x) for x in np.linspace(0.98, 0.6, len(levels) - 1)]
    axis.contourf(rates, decays, radius, levels=levels, colors=shades)
    lines = axis.contour(rates, decays, radius, levels=levels[1:-1], colors="0.4", linewidths=0.5)
    axis.clabel(lines, fontsize=7, fmt="%g")
    edge = np.linspace(0, 0.99, 50)
    axis.plot([largest_rate("momentum", g, 1.0) for g in edge], edge, color=COLORS[1], linewidth=2)
    x = np.linspace(0, 1, 60)
    axis.plot(x, critical_decay(x, 1.0), color=COLORS[3], linewidth=2)
    x = np.linspace(1, 3.96, 60)  # beyond, θ changes sign in every step
    axis.plot(x, (1 - np.sqrt(x)) ** 2, color=COLORS[3], linewidth=2)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for left, low, word, color in (
        (0.06, 0.05, "creeps", COLORS[3]),
        (1.1, 0.4, "swings", COLORS[3]),
        (1.72, 0.05, "hops", COLORS[3]),
        (3.0, 0.15, "diverges", COLORS[1]),
    ):
        axis.text(left, low, word, color=color, fontsize=9, bbox=box)
    axis.set(
        title="1. Momentum: share left after a step", xlabel="rate × curvature, ηλ",
        ylabel="momentum γ", xlim=(0, 4), ylim=(0, 1),
    )  # fmt: skip
    axis.grid(False)


def _draw_swings(axis: Any, results: dict[str, Any]) -> None:
    critical = float(critical_decay(results["swing_rate"], 1.0))
    for (decay, points), color in zip(results["swings"].items(), COLORS, strict=False):
        note = ", critical" if abs(float(decay) - critical) < 1e-3 else ""
        axis.plot(points, color=color, linewidth=1.5, label=f"γ = {decay}{note}")
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set(
        title=f"2. Overshooting (ηλ = {results['swing_rate']:g})", xlabel="updates",
        ylabel="distance from the minimum", ylim=(-1.05, 1.1), xlim=(0, None),
    )  # fmt: skip


def _draw_ways(axis: Any, results: dict[str, Any], styles: Mapping[str, tuple[str, Any]]) -> None:
    ratio = results["ways"]["ratio"]
    x, y = np.meshgrid(np.linspace(-2.6, 1.6, 50), np.linspace(-2.3, 1.0, 40))
    matrix = ravine(ratio)
    height = 0.5 * (matrix[0, 0] * x**2 + 2 * matrix[0, 1] * x * y + matrix[1, 1] * y**2)
    axis.contour(x, y, height, levels=0.5 * 4.0 ** np.arange(-4, 3), colors="0.8", linewidths=0.6)
    for name, way in results["ways"]["points"].items():
        color, dash = styles[name]
        line = {"color": color, "linestyle": dash, "linewidth": 1}
        axis.plot(*np.transpose(way), marker=".", markersize=3, **line)
    axis.plot(*results["ways"]["start"], "kX", markersize=7)
    axis.plot(0, 0, "k*", markersize=9)
    axis.set(
        title=f"3. A ravine (κ = {ratio}): circling (colours as in 4)", xlabel="first parameter",
        ylabel="second parameter", xlim=(-2.6, 1.6), ylim=(-2.3, 1.0),
    )  # fmt: skip
    axis.grid(False)


def report(results: dict[str, Any]) -> str:
    """The answer and the tables."""
    rules, ratios = results["ravines"], [str(x) for x in results["ratios"]]
    starts = max(cell["reached"] for cells in rules.values() for cell in cells.values())
    setting = (
        "Quadratics of two parameters, whose gradients have no noise. SGD, Momentum and Nesterov "
        "have the rates and momenta that theory gives for each ravine; Adam's rate and the factor "
        "on the steps of learned rules are the best of 17 for each ravine, chosen from other "
        f"starts than the {starts} that are reported. *general* and *lstm_quadratic_gaussian* are "
        "pretrained rules; the second was meta-trained on random quadratics."
    )
    head = ["rule", *(f"κ = {ratio}" for ratio in ratios)]
    rows, ends = [], []
    for name, cells in rules.items():
        each = [cells[ratio] for ratio in ratios]
        rows.append([display_name(name), *(_reached(cell, starts) for cell in each)])
        ends.append([display_name(name), *(str(cell["below at the end"]) for cell in each)])
    saddle = [
        [display_name(name), *map(_left, [*found["steps"], found["from the ridge itself"]])]
        for name, found in results["saddle"].items()
    ]
    theory = [
        [display_name(name), str(x["settings"]), f"{x['worst']:.4f}", str(x["wrong"])]
        for name, x in results["map"].items()
    ]
    return answer_page(
        "Why does momentum overshoot and circle, and when does it not converge?",
        "momentum",
        setting,
        _answer(results),
        f"## Steps until the loss first is {results['target']:g} of that at the start",
        f"Mean over {starts} starts, least and most in brackets; in parentheses how many of them "
        f"came so far within {results['num_steps']} steps, where not all did (the others count as "
        "one step more).",
        table(head, rows),
        f"Of these {starts}, how many are below that loss after {results['num_steps']} steps:",
        table(head, ends),
        "## Steps until a saddle is left",
        f"From a distance of 1 along the ridge and so far beside it; rate {_rate(results)}.",
        table(["rule", *(f"{x:g}" for x in results["offsets"]), "on the ridge"], saddle),
        "## Theory against the rules themselves",
        "The share of the distance that a step leaves, measured over 400 steps, against the "
        "spectral radius; and for how many settings one says that it converges and the other not.",
        table(["rule", "settings (ηλ, γ)", "largest difference", "disagreements"], theory),
    )


def _reached(cell: dict[str, Any], starts: int) -> str:
    lacking = "" if cell["reached"] == starts else f" ({cell['reached']} of {starts})"
    return f"{cell['steps']:.0f} [{cell['least']}, {cell['most']}]{lacking}"


def _left(steps: int) -> str:
    return "never" if steps < 0 else str(steps)


def _rate(results: dict[str, Any]) -> str:
    found = next((x for x in results["saddle"].values() if "decay" in x), None)
    rates = [x["learning_rate"] for x in results["saddle"].values() if "learning_rate" in x]
    rate = f"{rates[0]:g}" if rates else "the default"
    return (
        rate + (f", momentum {found['decay']:g}" if found else "") + "; learned rules as they are"
    )


def _answer(results: dict[str, Any]) -> str:
    def steps(name: str, ratio: int) -> str:
        return f"{results['ravines'][name][str(ratio)]['steps']:.0f}"

    def away(name: str) -> list[int]:
        return results["saddle"][name]["steps"]

    return (
        "**Momentum is a mass on a spring.** Along a direction of curvature λ it has a critical "
        "value, γ = (1 − √(ηλ))²: below it the point creeps to the minimum, above it it arrives "
        "with speed left, shoots past, and swings, with amplitudes that shrink by √γ a step; in "
        "two directions of different curvature swings look like circles. With Momentum it "
        "diverges if ηλ ≥ 2 (1 + γ), with Nesterov's if ηλ ≥ 2 (1 + γ) / (1 + 2γ): momentum allows "
        "longer steps of the first and shorter ones of the second (2 without).\n\n"
        "**It is made for ravines.** The steepest direction limits the rate, the flattest one "
        "sets the time: gradient descent needs steps in proportion to the condition number κ, "
        f"momentum to its root. From κ = 10 to 1000 SGD goes from {steps('sgd', 10)} to "
        f"{steps('sgd', 1000)} steps, Momentum from {steps('momentum', 10)} to "
        f"{steps('momentum', 1000)} and Nesterov from {steps('nesterov', 10)} to "
        f"{steps('nesterov', 1000)}. Adam, with a rate for each κ, needs {steps('adam', 10)} to "
        f"{steps('adam', 1000)}, general {steps('general', 10)} to {steps('general', 1000)}; both "
        "swing as well. The LSTM learned on quadratics is quick in wide ravines and gets stuck in "
        "narrow ones. Both learned rules reach the target and do not stay: their steps do not "
        "shrink to nothing.\n\n"
        "**A saddle is left by all of them, unless they start on the ridge itself,** where the "
        "gradient shows no way out. SGD's time grows with the logarithm of the distance from the "
        f"ridge ({away('sgd')[0]} to {away('sgd')[-1]} steps), momentum's too, at a third of it "
        f"({away('momentum')[0]} to {away('momentum')[-1]}). Adam ({away('adam')[0]} to "
        f"{away('adam')[-1]}) and the learned rules (general {away('general')[0]} to "
        f"{away('general')[-1]}) take steps that hardly depend on the size of a gradient, and "
        "do not mind."
    )
