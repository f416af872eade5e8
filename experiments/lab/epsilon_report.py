"""The figure and the answer of `epsilon`."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.answer_page import answer_page, table, with_interval
from experiments.common.names import with_unit
from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import COLORS, KNOWN_STYLES, log_axis, make_panels, save
from learned_opt.studies.statistics import mean_interval

_ADAM, _ADADELTA = KNOWN_STYLES["adam"][0], KNOWN_STYLES["adadelta"][0]
_SHADES = ("0.0", "0.45", "0.7")


def draw(results: dict[str, Any], path: Path) -> None:
    """Sweeps, losses against ε, step sizes and effective rates."""
    figure, axes = make_panels(6, xlabel="", ylabel="", columns=2)
    figure.set_size_inches(9.8, 9.6)
    figure.get_layout_engine().set(h_pad=0.1)
    maps, sweeps = axes[::2], axes[1::2]
    for row, (name, task) in enumerate(results["tasks"].items()):
        _draw_map(maps[row], results, task["sweeps"]["adam"])
        maps[row].set_title(
            f"{name}: Adam's validation loss; dots: the best η\n(dark to pale: up to 1.15, 1.5, "
            "2.5, 5 × the lowest, more)",
            fontsize=8.5,
        )
        _draw_against_eps(sweeps[row], results, task["sweeps"])
        kind = "image_classifier" if name == "classifier" else name
        sweeps[row].set_ylabel(with_unit("validation loss", kind))
        sweeps[row].set_title(f"{name}: what ε costs", fontsize=10)
    label, first = next(iter(results["tasks"].items()))
    _draw_updates(axes[4], first["steps"])
    axes[4].set_title(f"{label}: how long the steps are", fontsize=10)
    _draw_rates(axes[5], first["steps"]["adam"])
    axes[5].set_title(f"{label}: Adam's rates (bands: 5 to 95 %)", fontsize=10)
    label_lines(figure, [*sweeps, axes[4]])
    save(figure, path / "epsilon.svg")


def _draw_map(axis: Any, results: dict[str, Any], sweep: list) -> None:
    """Validation loss over rate and ε; a dot on the best rate of each ε."""
    losses = np.array(sweep, np.float64)
    rates, eps = np.array(results["rates"]), np.array(results["eps"])
    low = np.nanmin(losses)
    ratio = np.where(np.isfinite(losses), losses / low, np.inf)
    shades = np.digitize(ratio, [1.15, 1.5, 2.5, 5])
    colors = ("#08306B", "#2171B5", "#6BAED6", "#C6DBEF", "#F2F2F2")
    names = ("at most 1.15 × the best", "1.5 ×", "2.5 ×", "5 ×", "more, or diverged")
    x, y = np.meshgrid(eps, rates)
    for shade, (color, label) in enumerate(zip(colors, names, strict=True)):
        at = shades == shade
        axis.plot(x[at], y[at], "o", color=color, markersize=11, mew=0, label=label)
    best = np.nanargmin(losses, axis=0)
    axis.plot(eps, rates[best], ".", color=COLORS[1], markersize=7)
    steep = np.array([1e-3, 10.0])
    axis.plot(steep, steep * 3, color=COLORS[1], linewidth=0.9, linestyle=(0, (3, 2)))
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axis.text(0.02, 2, "same η / ε", color=COLORS[1], fontsize=8, bbox=box, ha="right")
    axis.set(xscale="log", yscale="log", xlabel="ε", ylabel="learning rate η")
    axis.grid(False)


def _draw_against_eps(axis: Any, results: dict[str, Any], sweeps: dict[str, list]) -> None:
    eps, rates = np.array(results["eps"]), np.array(results["rates"])
    adam, adadelta = (np.array(sweeps[rule], np.float64) for rule in ("adam", "adadelta"))
    usual = int(np.nanargmin(adam[:, int(np.argmin(np.abs(np.log(eps / 1e-8))))]))
    one = int(np.argmin(np.abs(np.log(rates))))
    lines = {
        f"Adam, η = {rates[usual]:.2g}": (adam[usual], _ADAM, (0, (3, 2))),
        "Adam, best η": (np.nanmin(adam, axis=0), _ADAM, "solid"),
        "Adadelta, η = 1": (adadelta[one], _ADADELTA, (0, (3, 2))),
        "Adadelta, best η": (np.nanmin(adadelta, axis=0), _ADADELTA, "solid"),
    }
    for label, (values, color, dash) in lines.items():
        axis.plot(eps, values, color=color, linestyle=dash, marker=".", mew=0, label=label)
    every = np.concatenate([values for values, _, _ in lines.values()])
    axis.set_xscale("log")
    log_axis(axis, every, np.minimum(every, 40 * np.nanmin(every)), above=5)
    axis.set_xlabel("ε")


def _draw_updates(axis: Any, steps: dict[str, Any]) -> None:
    for rule, color, name in (("adadelta", _ADADELTA, "Adadelta"), ("adam", _ADAM, "Adam")):
        for (eps, cell), width in zip(steps[rule].items(), (2.4, 1.5, 0.8), strict=False):
            label = f"{name}, ε = {eps}" + (f", η = {cell['rate']:.2g}" if rule == "adam" else "")
            axis.plot(cell["step"], cell["update"], color=color, linewidth=width, label=label)
    axis.set(
        xscale="log", yscale="log", xlabel="updates", ylabel="length of a step (root mean square)"
    )


def _draw_rates(axis: Any, steps: dict[str, Any]) -> None:
    for (eps, cell), color in zip(steps.items(), (COLORS[1], COLORS[3], COLORS[0]), strict=False):
        low, middle, high = np.transpose(cell["rates"])
        axis.fill_between(cell["step"], low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(cell["step"], middle, color=color, label=f"ε = {eps}, η = {cell['rate']:.2g}")
    axis.set(xscale="log", yscale="log", xlabel="updates", ylabel="effective rate, η / (√v + ε)")


def report(results: dict[str, Any]) -> str:
    """The answer and the tables."""
    sizes = [
        f"{task['steps']['adam'][next(iter(task['steps']['adam']))]['gradient'][0]:.2g} ({name})"
        for name, task in results["tasks"].items()
    ]
    both = " and ".join
    setting = (
        f"Two tasks on digits, {results['num_steps']} updates on minibatches of 64 each: a "
        "classifier (cross-entropy) and an autoencoder (mean squared error); at the start, the "
        f"root mean square of their gradients is {both(sizes)}. {len(results['rates'])} rates × "
        f"{len(results['eps'])} ε for Adam and for Adadelta, by validation loss; what is "
        f"chosen is tested on {results['num_seeds']} other seeds. Means with 95 % intervals over "
        "seeds."
    )
    sections = ["## Test losses of what was tuned"]
    head = ["rule", "rate", "ε", "trials", "test loss", "less Adam's, rate tuned"]
    for name, task in results["tasks"].items():
        rows = []
        adam = task["tuned"]["Adam, rate tuned"]
        for label, cell in task["tuned"].items():
            count = _trials(label, results)
            edges = [
                "" if min(grid) < cell[key] < max(grid) or count == 1 else " (edge)"
                for key, grid in (("rate", results["rates"]), ("eps", results["eps"]))
            ]
            rows.append(
                [
                    label,
                    f"{cell['rate']:.2g}{edges[0] if 'rate' in label else ''}",
                    f"{cell['eps']:.2g}{edges[1] if 'ε' in label else ''}",
                    str(count),
                    with_interval(cell["test"]),
                    "" if cell is adam else _less(cell["test"], adam["test"]),
                ]
            )
        sections += [f"### {name}", table(head, rows)]
    sections.append(
        "*(edge)*: the best one tried is the largest or smallest; a wider search may find better."
    )
    return answer_page(
        "Why does Adam's ε matter, and why does nobody use Adadelta?",
        "epsilon", setting, _answer(results), *sections,
    )  # fmt: skip


def _trials(label: str, results: dict[str, Any]) -> int:
    """How many settings were tried for what a label says was tuned."""
    if label.endswith("as published"):
        return 1
    if label.endswith("rate and ε tuned"):
        return len(results["rates"]) * len(results["eps"])
    return len(results["rates" if label.endswith("rate tuned") else "eps"])


def _less(a: list[float], b: list[float]) -> str:
    mean, low, high = mean_interval(np.subtract(a, b))
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def _answer(results: dict[str, Any]) -> str:
    eps, rates = np.array(results["eps"]), np.array(results["rates"])
    usual = int(np.argmin(np.abs(np.log(eps / 1e-8))))
    small, large, free, gains, published, tuned, own = [], [], [], [], [], [], []
    for name, task in results["tasks"].items():
        sweep = np.array(task["sweeps"]["adam"], np.float64)
        row = int(np.nanargmin(sweep[:, usual]))
        below = sweep[row, eps <= 1.01e-6]
        small.append(f"{np.min(below):.3f} to {np.max(below):.3f} ({name})")
        at = int(np.argmin(np.abs(np.log(eps / 0.1))))
        large.append(f"{sweep[row, usual]:.3f} to {sweep[row, at]:.3f}")
        free.append(f"{np.nanmin(sweep[:, at]):.3f} at η = {rates[np.nanargmin(sweep[:, at])]:.2g}")
        cells = task["tuned"]
        adam = cells["Adam, rate tuned"]["test"]
        gains.append(_less(cells["Adam, rate and ε tuned"]["test"], adam))
        published.append(_less(cells["Adadelta as published"]["test"], adam))
        tuned.append(_less(cells["Adadelta, rate tuned"]["test"], adam))
        choice = cells["Adadelta, ε tuned"]
        note = ", then gradient descent" if choice["eps"] >= 1 else ""
        own.append(f"{choice['eps']:.2g} ({_less(choice['test'], adam)}{note})")
    both = " and ".join
    return (
        "**Adam divides by √v + ε, so ε matters where it is not small beside the gradients, and "
        "nowhere else.** At the best rate for ε = 1e-8 the validation loss hardly changes up to "
        f"ε = 1e-6: {both(small)}. With ε = 0.1 all coordinates are divided by about the same "
        "number, steps are those of momentum with the rate η / ε, and the same rate is too "
        f"small: the loss goes from {both(large)}. With a rate that has grown along it is "
        f"{both(free)}. So ε has a scale, that of the gradients: multiply the loss by 1,000, and "
        "1e-8 acts as 1e-11 did. A sweep of rates with a fixed, large ε sweeps η / ε. To tune ε "
        f"beside the rate buys nothing here: {both(gains)} in test loss.\n\n"
        "**Adadelta has no learning rate, but ε is one in disguise.** Its first step is "
        "√(ε / (1 − ρ)) for any gradient well above √ε, 0.003 with the published 1e-6, and from "
        "there it feeds on itself; a large ε makes it gradient descent with the rate η. As "
        f"published its test loss less that of Adam with its rate tuned is {both(published)}. "
        f"With ε tuned it is best at {both(own)}. With ε as published and the rate tuned the "
        f"difference is {both(tuned)}. So what it promises, nothing to tune, does not hold; and "
        "once its rate is tuned as Adam's is, it is one more rule with a rate."
    )
