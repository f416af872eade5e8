"""Bias, variance and noise of polynomials and of networks, as they become larger.

All training sets have the same few inputs, and noise of their own in the targets. Polynomials are
fitted by least squares; with more coefficients than examples, the shortest solution is taken.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common.answer_page import answer_page, table
from experiments.common.launch import check_positive
from experiments.common.workdir import kept
from learned_opt import update_rules
from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import COLORS, save
from learned_opt.networks import Perceptron
from learned_opt.studies.bias_variance import decompose, least_squares_parts, legendre_features
from learned_opt.studies.weighted_fits import outputs_of_fits, squared_error

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "num_examples": 16,  # of each training set
        "noise_std": 0.3,  # of the targets
        "num_sets": 1000,  # training sets
        # of polynomials
        "degrees": (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 13, 14, 15, 16, 17, 19, 23, 31, 63, 127, 320),
        "widths": (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256),  # of networks with one hidden layer
        "learning_rate": 0.01,  # of the networks, Adam's
        "num_steps": 10_000,
        "num_places": 81,  # where errors are measured
        "drawn": {"degree": (1, 5, 15), "width": (256,)},  # fits to be drawn
        "num_drawn": 6,  # training sets of which they are
    }
)


def truth(x: np.ndarray) -> np.ndarray:
    """What is to be learned: a sine wave and a half over [−1, 1]."""
    return np.sin(1.5 * np.pi * x)


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Fits every model to every training set."""
    del data_dir
    check_positive(config, "num_examples", "num_sets", "num_steps", "num_places")
    x = np.linspace(-1, 1, config.num_examples)
    noise = np.random.default_rng(config.seed).normal(size=(config.num_sets, len(x)))
    targets = truth(x) + config.noise_std * noise
    models = [("degree", n) for n in config.degrees] + [("width", n) for n in config.widths]
    found: dict[str, dict[str, Any]] = {"degree": {}, "width": {}}
    for kind, size in models:
        file = workdir / "cells" / f"{kind}_{size}.json"
        found[kind][str(size)] = kept(file, partial(_cell, kind, size, x, targets, config))
    return {
        "num_examples": config.num_examples,
        "num_sets": config.num_sets,
        "noise_std": config.noise_std,
        "targets": targets[0].round(3),
        **found,
    }


def _cell(kind: str, size: int, x: np.ndarray, targets: np.ndarray, config: ConfigDict) -> dict:
    """One model: its parts, and some of its fits."""
    places = np.linspace(-1, 1, config.num_places)
    predict = _polynomials if kind == "degree" else _networks
    on_train, predictions = np.split(
        predict(size, x, targets, np.concatenate([x, places]), config), [len(x)], axis=1
    )
    parts = decompose(predictions, truth(places), config.noise_std, seed=config.seed + 1)
    cell = parts._asdict() | {
        "gap": parts.gap,
        "adds_up": parts.adds_up,
        "train": np.square(on_train - targets).mean(),
        "parameters": size + 1 if kind == "degree" else 3 * size + 1,
    }
    if kind == "degree":
        features = legendre_features(x, size), legendre_features(places, size)
        cell["exact"] = least_squares_parts(
            features[0], truth(x), features[1], truth(places), config.noise_std
        )
    if size in config.drawn.get(kind, ()):
        cell["fits"] = predictions[: config.num_drawn].round(3)
    print(f"{kind} {size}: error {parts.error:.3g}", flush=True)
    return cell


def _polynomials(degree, x, targets, at, config) -> np.ndarray:
    """Least squares of minimal norm, `[sets, places]`."""
    del config
    coefficients = np.linalg.pinv(legendre_features(x, degree)) @ targets.T
    return (legendre_features(at, degree) @ coefficients).T


def _networks(width, x, targets, at, config) -> np.ndarray:
    """Networks with a hidden layer of `width` tanh units, each from a start of its own."""
    rule = update_rules.adam(config.learning_rate)
    theta = rule.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(config.seed), len(targets))
    scale = 3.0  # so that tanh of an input bends within the data

    def column(values):
        return jnp.asarray(values, jnp.float32)[..., None]

    outputs = outputs_of_fits(
        {"key": keys, "targets": column(targets)},
        {"inputs": scale * column(x), "weights": jnp.ones(len(x)), "theta": theta},
        scale * column(at),
        network=Perceptron(1, 1, (width,), "tanh"),
        loss=squared_error,
        rule=rule,
        num_steps=config.num_steps,
    )
    return outputs[..., 0].astype(np.float64)


def draw(results: dict[str, Any], path: Path) -> None:
    """Above some fits of either kind, below their parts against the number of parameters."""
    from matplotlib.figure import Figure

    drawn = [
        (kind, size, cell)
        for kind in ("degree", "width")
        for size, cell in results[kind].items()
        if "fits" in cell
    ]
    figure = Figure(figsize=(11, 7.4), dpi=130, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    above, below = parts
    axes = above.subplots(1, max(len(drawn), 1), sharey=True, squeeze=False)[0]
    for axis, (kind, size, cell) in zip(axes, drawn, strict=False):
        _draw_fits(axis, kind, size, cell, results)
    axes[0].set_ylabel("y")
    above.suptitle(
        "black: the truth · dots: one training set · "
        f"orange: fits to {len(drawn[0][2]['fits']) if drawn else 0} training sets",
        fontsize=9,
    )
    left, right = below.subplots(1, 2, sharey=True)
    for axis, kind in ((left, "degree"), (right, "width")):
        _draw_parts(axis, kind, results)
    left.set_ylabel("mean squared error")
    below.supxlabel(
        "Errors have the unit of y². Lines that leave at the lower edge go on below it; errors "
        "below 1e-9 are drawn as that.",
        fontsize=9,
    )
    label_lines(figure, [left, right])
    save(figure, path / "bias_variance.svg")


def _draw_fits(axis: Any, kind: str, size: str, cell: dict, results: dict) -> None:
    fits = np.asarray(cell["fits"])
    places = np.linspace(-1, 1, fits.shape[1])
    axis.plot(places, fits.T, color="#E69F00", linewidth=0.9)
    axis.plot(places, truth(places), color="black", linewidth=1.8)
    x = np.linspace(-1, 1, results["num_examples"])
    axis.plot(x, results["targets"], ".", color="0.4", markersize=5)
    axis.set_ylim(-2.2, 2.2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xlabel("x")
    what = f"degree {size}" if kind == "degree" else f"network, {size} units"
    axis.set_title(f"{what}: {cell['parameters']} parameters", fontsize=9)


def _draw_parts(axis: Any, kind: str, results: dict) -> None:
    cells = list(results[kind].values())
    size = [cell["parameters"] for cell in cells]
    axis.set(xscale="log", yscale="log", ylim=(3e-4, 6e2), xlabel="parameters")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.grid(True, which="major", color="0.9", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    train = [max(cell["train"], 1e-9) for cell in cells]
    axis.plot(size, train, color="0.5", linestyle=(0, (2, 2)), label="training error")
    bias2, variance = np.transpose([_exactly(cell) for cell in cells]).clip(min=1e-9)
    noise = np.array([cell["noise"] for cell in cells])
    axis.plot(size, noise, color="0.6", linewidth=2.6, label="noise")
    axis.plot(size, bias2, color=COLORS[3], linewidth=1.6, label="bias²")
    axis.plot(size, variance, color=COLORS[1], linewidth=1.6, label="variance")
    axis.plot(size, bias2 + variance + noise, color="black", linewidth=0.8, label="their sum")
    errors = [cell["error"] for cell in cells]
    reach = [2 * cell["standard_error"] for cell in cells]
    axis.errorbar(
        size, errors, reach, fmt=".", color="black", markersize=7, label="measured test error"
    )
    axis.axvline(results["num_examples"], color="0.6", linewidth=0.8, zorder=0)
    examples = results["num_examples"]
    axis.text(1.12 * examples, 330, f"{examples} examples", color="0.4", fontsize=8)
    axis.set_title("polynomials" if kind == "degree" else "networks of one hidden layer")


def _exactly(cell: dict[str, Any]) -> tuple[float, float]:
    """Bias² and variance: exactly where a formula gives them, else as estimated."""
    return cell["exact"] if "exact" in cell else (cell["bias2"], cell["variance"])


def report(results: dict[str, Any]) -> str:
    """The answer and the tables."""
    cells = [cell for kind in ("degree", "width") for cell in results[kind].values()]
    fitting = sum(cell["adds_up"] for cell in cells)
    setting = (
        f"{results['num_examples']} examples of a sine wave with noise of standard deviation "
        f"{results['noise_std']}; {results['num_sets']} training sets with noise of their own. "
        "Polynomials by least squares (with more coefficients than examples, the shortest solution "
        "in Legendre polynomials), and networks of one hidden layer of tanh units by full-batch "
        "Adam. Half of the training sets give bias² and variance; the error is measured with the "
        "other half on fresh noisy targets, so that the sum can fail."
    )
    head = ["model", "parameters", "bias²", "variance", "noise", "sum", "measured error",
            "gap / standard error"]  # fmt: skip
    rows = []
    for kind in ("degree", "width"):
        for size, cell in results[kind].items():
            total = cell["bias2"] + cell["variance"] + cell["noise"]
            numbers = [cell["bias2"], cell["variance"], cell["noise"], total, cell["error"]]
            ratio = cell["gap"] / cell["standard_error"]
            rows.append(
                [f"{kind} {size}", str(cell["parameters"]), *(f"{x:.3g}" for x in numbers),
                 f"{ratio:+.1f}"]
            )  # fmt: skip
    farthest = max((cell["gap"] / cell["standard_error"] for cell in cells), key=abs)
    check = (
        f"## Do the parts add up?\n\nWithin two standard errors for {fitting} of {len(cells)} "
        f"models; by chance about one in twenty would not. The farthest is {farthest:+.2f} "
        "standard errors off. An estimate of bias² is unbiased, so it may be slightly negative."
    )
    return answer_page(
        "Why does a larger model do worse, and why does a larger network not?",
        "bias_variance", setting, _answer(results), check, table(head, rows),
    )  # fmt: skip


def _answer(results: dict[str, Any]) -> str:
    polynomials, networks = results["degree"], results["width"]
    most = max(polynomials, key=lambda size: polynomials[size]["error"])
    examples = results["num_examples"]
    below = {s: c for s, c in polynomials.items() if c["parameters"] <= examples}
    best = min(below, key=lambda size: below[size]["error"])
    beyond = {s: c for s, c in polynomials.items() if c["parameters"] > examples}
    second = min(beyond, key=lambda size: beyond[size]["error"])
    least = min(networks, key=lambda size: networks[size]["error"])
    *_, widest = networks
    irreducible = results["noise_std"] ** 2
    return (
        "**A small model is wrong in the same way every time (bias); a larger one follows the "
        "noise of its training set (variance). For polynomials the sum is a U: the error is least "
        f"at degree {best} ({polynomials[best]['error']:.3g}, of which {irreducible:.3g} is noise "
        f"that nobody can predict), and {polynomials[most]['error']:.3g} at degree {most}, where "
        f"there are {polynomials[most]['parameters']} coefficients for {examples} examples.** "
        "There the only curve through all points swings wildly between them. With more "
        "coefficients there are many such curves, the shortest one is smooth again, and the error "
        f"falls a second time, to {polynomials[second]['error']:.3g} at degree {second}: not to "
        "the bottom of the U.\n\n"
        f"**Networks leave the curve.** Theirs is least with {least} hidden units "
        f"({networks[least]['error']:.3g}) and rises to {networks[widest]['error']:.3g} with "
        f"{widest} ({networks[widest]['parameters']} parameters for {examples} examples), without "
        f"a peak: the variance stops at {networks[widest]['variance']:.3g}, about that of the "
        "noise that they learn by heart, because the curves that training finds through the points "
        "are smooth ones. Width does not ruin a network; it does not help this one either."
    )
