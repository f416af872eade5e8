"""What rules answer to gradients: by time, by the gradient's size, and through noise."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from learned_opt.figures.style import make_panels, save, styles_of

TITLES = {
    "constant": "the same gradient again and again",
    "impulse": "one gradient, then none",
    "step": "nothing, then a gradient",
    "flip": "the gradient turns around",
    "alternating": "the gradient alternates",
    "noise": "a gradient in as much noise",
}


class Answers(NamedTuple):
    """A line in all panels.

    Attributes:
      steps: steps against the gradient, −u, in the unit given, one row a signal, `[signals, T]`.
      unit: what 1 is in `steps`, in the parameters' units.
      sizes: gradient sizes and steps after a constant gradient of that size, `[n]` each; None
        where the line shows another size of the same rule.
      noise: noise over gradient, mean steps over those without noise, and their standard errors,
        `[n]` each; None likewise.
    """

    steps: np.ndarray
    unit: float
    sizes: tuple[np.ndarray, np.ndarray] | None = None
    noise: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


def answers(
    lines: Mapping[str, Answers],
    signals: Mapping[str, np.ndarray],
    path: str | os.PathLike,
    *,
    title: str,
    shades_of: str | None = None,
) -> None:
    """Draws a panel for each signal, one for the gradient's size and one for noise.

    Args:
      lines: label -> its answers.
      signals: name -> gradients `[T]`, drawn in a strip above their panel, in the order of the
        rows of `Answers.steps`.
      path: the figure's file.
      title: of the figure.
      shades_of: a rule of which the lines are all, from thick and pale to thin and dark, so that
        lines that lie on each other are seen; by default the lines are rules.
    """
    styles = _shades(list(lines), shades_of) if shades_of else _rules(list(lines))
    figure, axes = make_panels(len(signals) + 2, xlabel="", ylabel="", columns=4)
    for row, (name, gradients) in enumerate(signals.items()):
        _strip(axes[row], gradients, TITLES.get(name, name), named=row % 4 == 0)
        for label, line in lines.items():
            shown = f"{label}: 1 is a step of {line.unit:.2g}"
            axes[row].plot(np.arange(len(gradients)), line.steps[row], label=shown, **styles[label])
        axes[row].axhline(0, color="0.4", linewidth=0.7, zorder=1)
        axes[row].set_xlabel("update number")
        if name == "alternating":  # or there is nothing but a band to see
            axes[row].set_xlim(-1, 25)
        _limit(axes[row], [line.steps[row] for line in lines.values()])
    for axis in axes[: len(signals) : 4]:
        axis.set_ylabel("step downhill, usual = 1")
    by_size, by_noise = axes[len(signals) :]
    for label, line in lines.items():
        style = {**styles[label], "linewidth": 2.0} if shades_of else styles[label]
        if line.sizes:
            by_size.plot(*line.sizes, **style)
        if line.noise:
            ratios, mean, error = line.noise
            color = style["color"]
            by_noise.fill_between(ratios, mean - error, mean + error, color=color, alpha=0.3, lw=0)
            by_noise.plot(ratios, mean, **style)
    _label_by_size(by_size)
    by_noise.set_xscale("symlog", linthresh=0.1)
    by_noise.axhline(0, color="0.4", linewidth=0.7, zorder=1)
    by_noise.set_ylim(min(-0.1, by_noise.get_ylim()[0]), max(1.2, by_noise.get_ylim()[1]))
    by_noise.set_title("the more noise, the shorter the step?", fontsize=9.5)
    by_noise.set_xlabel("noise / gradient")
    by_noise.set_ylabel("mean step, no noise = 1")
    figure.suptitle(title, fontsize=12)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.1)
    save(figure, path)


def _label_by_size(axis: Any) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title("the larger the gradient, the longer the step?", fontsize=9.5)
    axis.set_xlabel("size of a constant gradient")
    axis.set_ylabel("length of the step")
    low, high = axis.get_ylim()
    middle = np.sqrt(low * high)
    if high < 30 * low:  # a line that is flat looks flat
        axis.set_ylim(middle / 30, middle * 30)


def _strip(axis: Any, gradients: np.ndarray, title: str, *, named: bool) -> None:
    """The gradients, above the panel; named where there is room on the left."""
    strip = axis.inset_axes((0, 1.03, 1, 0.2), sharex=axis)
    strip.fill_between(np.arange(len(gradients)), gradients, step="mid", color="0.6", lw=0)
    strip.axhline(0, color="0.4", linewidth=0.7)
    top = 1.2 * np.abs(gradients).max()
    strip.set_ylim(-top, top)
    strip.set_axis_off()
    strip.set_title(title, fontsize=9.5)
    if named:
        place = {"transform": strip.transAxes, "ha": "right", "va": "center"}
        strip.text(0, 0.5, "gradient", fontsize=8, color="0.4", **place)


def _limit(axis: Any, steps: Sequence[np.ndarray]) -> None:
    """Room for what is small, and for all there is."""
    low, high = min(map(np.min, steps)), max(map(np.max, steps))
    axis.locator_params(axis="y", nbins=4)
    axis.set_ylim(min(1.1 * low, -0.25), max(1.1 * high, 1.25))


def _rules(labels: list[str]) -> dict[str, dict[str, Any]]:
    return {
        label: {"color": color, "linestyle": dash, "linewidth": 1.8}
        for label, (color, dash) in styles_of(labels).items()
    }


def _shades(labels: list[str], rule: str) -> dict[str, dict[str, Any]]:
    from matplotlib.colors import to_rgb

    color = np.asarray(to_rgb(styles_of([rule])[rule][0]))
    found = {}
    for n, label in enumerate(labels):
        paleness = 0.7 * (1 - n / max(1, len(labels) - 1))
        mixed = tuple(color + (1 - color) * paleness)
        found[label] = {"color": mixed, "linewidth": 1.2 + 1.8 * (len(labels) - 1 - n)}
    return found
