"""When does the test loss turn, and does the validation loss say so in time?"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.common.build import make_task
from experiments.common.launch import check_positive
from experiments.common.names import display_name
from experiments.common.rates import open_rate, stacked_rates
from experiments.common.workdir import kept, rounded
from learned_opt.early_stopping import stop_early
from learned_opt.figures.labels import label_lines
from learned_opt.figures.style import make_panels, save
from learned_opt.studies.resampled import Curves, resample, run_samples
from learned_opt.studies.statistics import mean_interval

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "task": {},  # an image classifier, whose splits are thrown together and drawn anew
        "sizes": {"train": 200, "valid": 100, "test": 1497},  # examples of each split
        "num_samples": 20,  # drawn splits, a run each
        "num_steps": 2000,
        "checks": 50,  # evenly spaced, of all three losses
        "rules": (),  # pairs (name, learning rates); the best rate with early stopping counts
        "patiences": (2, 5, 10),  # checks without a lower validation loss; the rate is for the last
    }
)
_TOPS = {"loss": 0.6, "error": 15}
_COLORS = {"train": "#56B4E9", "valid": "#E69F00", "test": "#000000"}
_WRITTEN = {"train": "training", "valid": "validation", "test": "test"}


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Runs every rule at every rate on every sample, and stops them."""
    check_positive(config, "num_samples", "num_steps", "checks")
    task = make_task(config.task, data_dir)
    samples = resample(task, config.sizes.to_dict(), config.num_samples, seed=config.seed)

    def curves(name: str, rates: tuple[float, ...]) -> dict[str, Any]:
        found = run_samples(
            open_rate(name),
            stacked_rates(rates),
            samples,
            jax.random.key(config.seed),
            num_steps=config.num_steps,
            checks=config.checks,
        )
        print(f"{name}: {len(rates)} rates, {config.num_samples} samples", flush=True)
        return rounded(_stopped(found, rates, config.patiences), 4)

    rules = {
        name: kept(workdir / "rules" / f"{name}.json", functools.partial(curves, name, rates))
        for name, rates in config.rules
    }
    for found in rules.values():
        found["curves"] = rounded(found["curves"], 3)
    return {"config": json.loads(config.to_json()), "rules": rules}


def _stopped(curves: Curves, rates: tuple[float, ...], patiences: tuple[int, ...]) -> dict:
    """What is reported of one rule: its curves at its best rate, and where each sample stopped."""
    losses = np.where(
        np.isnan(curves.heldout["valid"]["loss"]), np.inf, curves.heldout["valid"]["loss"]
    )
    kept_losses = [
        np.take_along_axis(x, stop_early(x, patiences[-1]).chosen[:, None], 1).mean()
        for x in losses
    ]
    best = int(np.argmin(kept_losses))
    heldout = {
        split: {"loss": metrics["loss"][best], "error": 1 - metrics["accuracy"][best]}
        for split, metrics in curves.heldout.items()
    }
    test = heldout["test"]
    last = len(curves.steps) - 1
    rows = np.arange(len(test["loss"]))
    ways = {f"patience {p}": stop_early(heldout["valid"]["loss"], p) for p in patiences}
    stops = {
        "oracle": (np.nanargmin(test["loss"], axis=1),) * 2,
        "best validation": (next(iter(ways.values())).oracle, np.full(len(rows), last)),
        **{name: (stop.chosen, stop.stopped) for name, stop in ways.items()},
        "end": (np.full(len(rows), last),) * 2,
    }
    return {
        "rate": rates[best],
        "rate_on_edge": len(rates) > 1 and best in (0, len(rates) - 1),
        "steps": curves.steps,
        "curves": {
            split: {metric: _bands(x) for metric, x in metrics.items()}
            for split, metrics in heldout.items()
        },
        "stops": {
            name: {
                "loss": test["loss"][rows, chosen],
                "error": test["error"][rows, chosen],
                "kept_step": curves.steps[chosen],
                "cost": curves.steps[stopped],
            }
            for name, (chosen, stopped) in stops.items()
        },
    }


def _bands(values: np.ndarray) -> list[list[float]]:
    """Mean, low and high of every check, of values `[samples, checks + 1]`."""
    return np.array([mean_interval(column) for column in values.T]).T.tolist()


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Loss above, error below, a column a rule; lines where training was stopped."""
    rules = results["rules"]
    figure, axes = make_panels(2 * len(rules), xlabel="", ylabel="", columns=len(rules))
    figure.set_size_inches(2.6 * len(rules) + 1.6, 5.4)
    patience = f"patience {results['config']['patiences'][-1]}"
    for n, (name, found) in enumerate(rules.items()):
        steps = np.array(found["steps"])
        for row, (metric, top) in enumerate(_TOPS.items()):
            axis = axes[row * len(rules) + n]
            factor = 100 if metric == "error" else 1
            for split, color in _COLORS.items():
                mean, low, high = (factor * _numbers(x) for x in found["curves"][split][metric])
                axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
                axis.plot(steps, mean, color=color, linewidth=1.6, label=_WRITTEN[split])
            for way, dashes in (("oracle", (0, (1, 1.5))), (patience, (0, (5, 2)))):
                mark = np.mean(found["stops"][way]["kept_step"])
                axis.axvline(mark, color="0.35", linewidth=1.1, linestyle=dashes)
            axis.set(ylim=(0, top), xlim=(0, steps[-1]), xticks=steps[:: max(1, len(steps) // 2)])
            if n:
                axis.tick_params(labelleft=False)
        axes[n].set_title(f"{display_name(name)}, rate {found['rate']:g}", fontsize=10)
        axes[len(rules) + n].set_xlabel("updates")
    axes[0].set_ylabel("cross-entropy (nats)")
    axes[len(rules)].set_ylabel("error (%)")
    start = max(_numbers(x["curves"]["test"]["loss"][0])[0] for x in rules.values())
    figure.supxlabel(
        "dotted: lowest test loss · dashed: kept by patience · bands: 95 % of the mean over samples"
        f" · losses start above the panels, at up to {start:.2g} nats",
        fontsize=9,
    )
    label_lines(figure, [axes[len(rules) - 1], axes[-1]])
    save(figure, path / "early_stopping.svg")


def _numbers(values: list) -> np.ndarray:
    return np.array([np.nan if x is None else x for x in values])


def report(results: Mapping[str, Any]) -> str:
    """The question, the answer and the numbers behind it."""
    config, rules = results["config"], results["rules"]
    patience = f"patience {config['patiences'][-1]}"

    def mean(name: str, way: str, metric: str = "loss") -> float:
        return float(np.nanmean(_numbers(rules[name]["stops"][way][metric])))

    rise = {name: mean(name, "end") / mean(name, "oracle") for name in rules}
    most, least = max(rise, key=rise.__getitem__), min(rise, key=rise.__getitem__)
    turns = {n: np.median(found["stops"]["oracle"]["kept_step"]) for n, found in rules.items()}
    errors = [mean(n, "end", "error") - mean(n, patience, "error") for n in rules]
    excess = max(mean(n, patience) / mean(n, "oracle") for n in rules)
    worst = max(rules, key=lambda n: mean(n, "best validation") / mean(n, patience))
    stops = rules[worst]["stops"]
    misled = _numbers(stops["best validation"]["loss"]) - _numbers(stops[patience]["loss"])
    learned = []
    for name, found in rules.items():
        check = int(np.argmin(np.abs(np.array(found["steps"]) - turns[name])))
        learned.append(100 * found["curves"]["train"]["error"][0][check])
    lines = [
        "# When does the test loss turn, and does the validation loss say so in time?",
        "",
        "```bash",
        "python -m experiments.generalization "
        "--config=experiments/configs/generalization/early_stopping.py --workdir=DIR",
        "```",
        "",
        f"A perceptron learns {config['sizes']['train']} digits, {config['num_samples']} times "
        f"with other examples; {config['sizes']['valid']} others say when to stop, and "
        f"{config['sizes']['test']:,} others what it was worth. Each rule has the best of "
        f"{len(next(iter(config['rules']))[1])} rates by validation loss where patience stops it.",
        "",
        "![Loss and error against updates](early_stopping.svg)",
        "",
        "## The answer",
        "",
        f"**The test loss is lowest after {min(turns.values()):.0f} to {max(turns.values()):.0f} "
        f"updates (median over samples), when {min(learned):.2g} to {max(learned):.2g} % of the "
        "training examples are still classified wrongly, and rises from there with every rule: by "
        f"{rise[least] - 1:.0%} with {display_name(least)}, by {rise[most] - 1:.0%} with "
        f"{display_name(most)}, up to update {config['num_steps']:,}. The test error hardly "
        f"follows: from where patience stops to the end it changes by {100 * min(errors):+.1f} to "
        f"{100 * max(errors):+.1f} percentage points.** What grows is confidence: a network that "
        "has no training error left lowers its training loss by larger outputs, and those make "
        "the same mistakes dearer. "
        f"Patience of {config['patiences'][-1]} checks "
        f"({config['patiences'][-1] * config['num_steps'] // config['checks']} updates) keeps "
        "parameters whose test loss is within "
        f"{excess - 1:.0%} of that of an oracle that looks at the test set. To run to the end and "
        "take the lowest validation loss of all costs more updates and is no better: with "
        f"{display_name(worst)} its test loss is higher than with patience by {_written(misled)}. "
        f"{config['sizes']['valid']} examples are few: where a network makes no mistake on them, "
        "their loss can fall for ever.",
        "",
        "## Numbers",
        "",
        "Test loss in nats, mean over samples ± half of a 95 % interval. *Oracle*: the check with "
        "the lowest test loss, which nobody can know. *Best validation*: that with the lowest "
        "validation loss of the whole run.",
        "",
        "| rule | rate | turns at | oracle | "
        + " | ".join(f"patience {p}" for p in config["patiences"])
        + " | best validation | end |",
        "| --- " * 2 + "| ---: " * (5 + len(config["patiences"]) - 1) + "|",
    ]
    for name, found in rules.items():
        ways = ("oracle", *(f"patience {p}" for p in config["patiences"]), "best validation", "end")
        numbers = " | ".join(_written(found["stops"][way]["loss"]) for way in ways)
        edge = " (edge)" if found["rate_on_edge"] else ""
        row = f"{display_name(name)} | {found['rate']:g}{edge} | {turns[name]:.0f} | {numbers}"
        lines.append(f"| {row} |")
    lines += [
        "",
        f"The price of not knowing, with patience {config['patiences'][-1]}: how much more test "
        "loss than the oracle's, paired over samples; test errors; and the updates that were done.",
        "",
        "| rule | loss above the oracle's | error (%), oracle | error (%), patience | "
        "error (%), end | updates |",
        "| --- " + "| ---: " * 5 + "|",
    ]
    for name, found in rules.items():
        stops = found["stops"]
        above = _numbers(stops[patience]["loss"]) - _numbers(stops["oracle"]["loss"])
        cells = [display_name(name), _written(above)]
        cells += [_written(stops[way]["error"], 100) for way in ("oracle", patience, "end")]
        cells += [f"{np.mean(stops[patience]['cost']):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "The rate of `lstm_mnist` is a factor on its steps. All samples come from the same "
        f"{sum(config['sizes'].values()):,} digits, so intervals say little about other digits.",
    ]
    return "\n".join(lines) + "\n"


def _written(values: list | np.ndarray, factor: float = 1) -> str:
    """A mean ± half of its interval, and how many samples diverged and are left out."""
    known = _numbers(list(values))
    lost = int(np.isnan(known).sum())
    if len(known) - lost < 2:
        return "diverged"
    mean, low, _ = mean_interval(factor * known[~np.isnan(known)])
    digits = 3 if factor == 1 else 2
    text = f"{mean:.{digits}f} ± {mean - low:.{digits}f}"
    return text + (f" ({lost} diverged)" if lost else "")
