"""Figure and answer of `regularizers`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.names import display_name
from learned_opt.figures.style import KNOWN_STYLES, LEARNED_STYLES, make_panels, save
from learned_opt.studies.statistics import Interval, mean_interval

_WRITTEN = {
    "none": "nothing",
    "l2": "L2 penalty",
    "l1": "L1 penalty",
    "decoupled_decay": "decoupled decay",
    "weight_noise": "noise on weights",
    "input_noise": "noise on inputs",
    "label_smoothing": "label smoothing",
    "mixup": "mixup",
    "cutmix": "CutMix",
    "cutout": "cutout",
    "shift": "shifted pictures",
    "rotation": "turned pictures",
    "dropout": "dropout",
    "batch_norm": "batch norm",
    "early_stopping": "early stopping",
}


def test_errors(results: Mapping[str, Any], rule: str, kind: str, size: str) -> np.ndarray:
    """Test errors in percent, `[samples]`; early stopping is that of no other."""
    stopped = kind == "early_stopping"
    cell = results["cells"][rule]["none" if stopped else kind][size]
    return 100 * np.array(cell["stopped" if stopped else "end"]["test_error"], float)


def kinds_of(results: Mapping[str, Any], rule: str) -> list[str]:
    """All regularizers of a rule, and early stopping."""
    return [*results["cells"][rule], "early_stopping"]


def chosen(results: Mapping[str, Any], rule: str, size: str) -> str:
    """The regularizer with the lowest validation error, early stopping among them."""

    def valid(kind: str) -> float:
        stopped = kind == "early_stopping"
        cell = results["cells"][rule]["none" if stopped else kind][size]
        return cell["stopped" if stopped else "end"]["valid_error"]

    return min(kinds_of(results, rule), key=valid)


def change(results: Mapping[str, Any], rule: str, kind: str, size: str) -> Interval:
    """What a regularizer changes in the test error, in percentage points, paired over samples."""
    before = test_errors(results, rule, "none", size)
    return mean_interval(test_errors(results, rule, kind, size) - before)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """A dot with its interval for each regularizer and rule; a panel each training size."""
    sizes = [str(n) for n in results["config"]["train_sizes"]]
    rules = [name for name, _ in results["config"]["rules"]]
    kinds = [kind for kind in kinds_of(results, rules[0]) if kind != "none"]
    figure, axes = make_panels(
        len(sizes), xlabel="change in test error (percentage points)", ylabel="", columns=len(sizes)
    )
    figure.set_size_inches(4.6 * len(sizes) + 1.8, 0.42 * len(kinds) + 1.2)
    first = [change(results, rules[0], kind, sizes[0]).mean for kind in kinds]
    kinds = [kinds[n] for n in np.argsort(first)[::-1]]  # the best on top
    for axis, size in zip(axes, sizes, strict=True):
        axis.axvline(0, color="0.4", linewidth=1)
        for k, name in enumerate(rules):
            color, _ = (KNOWN_STYLES | LEARNED_STYLES).get(name, ("#000000", "solid"))
            found = np.array([change(results, name, kind, size) for kind in kinds])
            at = np.arange(len(kinds)) + 0.18 * ((len(rules) - 1) / 2 - k)
            axis.hlines(at, found[:, 1], found[:, 2], color=color, linewidth=1.6)
            axis.plot(found[:, 0], at, "o", color=color, markersize=4.5, label=display_name(name))
        axis.set_yticks(range(len(kinds)), [_WRITTEN[kind] for kind in kinds])
        axis.set_ylim(-0.6, len(kinds) - 0.4)
        axis.grid(False, axis="y")
        for n in range(0, len(kinds), 2):
            axis.axhspan(n - 0.5, n + 0.5, color="0.96", zorder=0, linewidth=0)
        axis.set_title(f"{int(size):,} training examples", fontsize=10)
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    save(figure, axes, path / "regularizers.svg", legend="right")


def report(results: Mapping[str, Any]) -> str:
    """The question, the answer and the numbers behind it."""
    return "# Which regularizer buys what?\n"
