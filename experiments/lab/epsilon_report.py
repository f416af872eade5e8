"""The figure and the answer of `epsilon`."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.answer_page import answer_page, table, with_interval
from learned_opt.figures.style import COLORS, KNOWN_STYLES, log_axis, make_panels, save
from learned_opt.studies.statistics import mean_interval

_ADAM, _ADADELTA = KNOWN_STYLES["adam"][0], KNOWN_STYLES["adadelta"][0]
_SHADES = ("0.0", "0.45", "0.7")


def draw(results: dict[str, Any], path: Path) -> None:
    """Sweeps, losses against ε, step sizes and effective rates."""
    figure, axes = make_panels(6, xlabel="", ylabel="", columns=3)
    for row, (name, task) in enumerate(results["tasks"].items()):
        _draw_map(axes[3 * row], results, task["sweeps"]["adam"])
        axes[3 * row].set_title(f"{name}: Adam's validation loss", fontsize=10)
        _draw_against_eps(axes[3 * row + 1], results, task["sweeps"])
        axes[3 * row + 1].set_title(f"{name}: what ε costs", fontsize=10)
    first = next(iter(results["tasks"].values()))
    _draw_updates(axes[2], first["steps"])
    if len(axes) > 5:
        _draw_rates(axes[5], first["steps"]["adam"])
    save(figure, axes, path / "epsilon.svg", legend=None)


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
        axis.plot(x[at], y[at], "s", color=color, markersize=9, label=label)
    best = np.nanargmin(losses, axis=0)
    axis.plot(eps, rates[best], ".", color=COLORS[1], markersize=7)
    steep = np.array([1e-3, 10.0])
    axis.plot(steep, steep * 3, color=COLORS[1], linewidth=0.9, linestyle=(0, (3, 2)))
    axis.text(2e-3, 2e-3, "same η / ε", color=COLORS[1], fontsize=8, rotation=33)
    axis.set(xscale="log", yscale="log", xlabel="ε", ylabel="learning rate η")
    axis.grid(False)


def _draw_against_eps(axis: Any, results: dict[str, Any], sweeps: dict[str, list]) -> None:
    eps, rates = np.array(results["eps"]), np.array(results["rates"])
    adam, adadelta = (np.array(sweeps[rule], np.float64) for rule in ("adam", "adadelta"))
    usual = int(np.nanargmin(adam[:, int(np.argmin(np.abs(np.log(eps / 1e-8))))]))
    one = int(np.argmin(np.abs(np.log(rates))))
    lines = {
        f"Adam, η = {rates[usual]:.2g}": (adam[usual], _ADAM, (0, (3, 2))),
        "Adam, the best η for each ε": (np.nanmin(adam, axis=0), _ADAM, "solid"),
        "Adadelta, η = 1": (adadelta[one], _ADADELTA, (0, (3, 2))),
        "Adadelta, the best η for each ε": (np.nanmin(adadelta, axis=0), _ADADELTA, "solid"),
    }
    for label, (values, color, dash) in lines.items():
        axis.plot(eps, values, color=color, linestyle=dash, marker=".", label=label)
    every = np.concatenate([values for values, _, _ in lines.values()])
    axis.set_xscale("log")
    log_axis(axis, every, np.minimum(every, 40 * np.nanmin(every)), above=2.2)
    axis.set(xlabel="ε", ylabel="validation loss")
    axis.legend(frameon=False, fontsize=7, loc="upper left")


def _draw_updates(axis: Any, steps: dict[str, Any]) -> None:
    for rule, color, name in (("adadelta", _ADADELTA, "Adadelta"), ("adam", _ADAM, "Adam")):
        for (eps, cell), width in zip(steps[rule].items(), (2.4, 1.5, 0.8), strict=False):
            label = f"{name}, ε = {eps}" + (f", η = {cell['rate']:.2g}" if rule == "adam" else "")
            axis.plot(cell["step"], cell["update"], color=color, linewidth=width, label=label)
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="root mean square of an update")
    axis.set_title("How long the steps are", fontsize=10)
    axis.legend(frameon=False, fontsize=7)


def _draw_rates(axis: Any, steps: dict[str, Any]) -> None:
    for (eps, cell), color in zip(steps.items(), (COLORS[1], COLORS[3], COLORS[0]), strict=False):
        low, middle, high = np.transpose(cell["rates"])
        axis.fill_between(cell["step"], low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(cell["step"], middle, color=color, label=f"ε = {eps}, η = {cell['rate']:.2g}")
    axis.set(xscale="log", yscale="log", xlabel="step", ylabel="effective rate, η / (√v + ε)")
    axis.set_title("Adam's rates: 90 % of the parameters", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def report(results: dict[str, Any]) -> str:
    """The answer and the tables."""
    return str({n: t["tuned"] for n, t in results["tasks"].items()})
