"""Figure and answer of `regularizers`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.names import display_name
from learned_opt.figures.style import make_panels, save, styles_of
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
    styles = styles_of(rules)
    kinds = [kind for kind in kinds_of(results, rules[0]) if kind != "none"]
    xlabel = "change in test error (percentage points)\n← fewer errors · more errors →"
    figure, axes = make_panels(len(sizes), xlabel=xlabel, ylabel="", columns=len(sizes))
    figure.set_size_inches(4.6 * len(sizes) + 1.0, 0.46 * len(kinds) + 1.2)
    first = [change(results, rules[0], kind, sizes[0]).mean for kind in kinds]
    kinds = [kinds[n] for n in np.argsort(first)[::-1]]  # the best on top
    for axis, size in zip(axes, sizes, strict=True):
        axis.axvline(0, color="0.4", linewidth=1)
        for k, name in enumerate(rules):
            color, dash = styles[name]
            found = np.array([change(results, name, kind, size) for kind in kinds])
            at = np.arange(len(kinds)) + 0.18 * ((len(rules) - 1) / 2 - k)
            axis.hlines(at, found[:, 1], found[:, 2], color=color, linewidth=1.6, linestyle=dash)
            fill = color if dash == "solid" else "white"
            axis.plot(found[:, 0], at, "o", color=color, mfc=fill, ms=4.5)
            axis.text(
                found[0, 2] + 0.15, at[0], display_name(name), fontsize=7, va="center", color="0.15"
            )
        axis.margins(x=0.08)
        axis.set_yticks(range(len(kinds)), [_WRITTEN[kind] for kind in kinds])
        axis.set_ylim(-0.6, len(kinds) - 0.4)
        axis.grid(False, axis="y")
        for n in range(0, len(kinds), 2):
            axis.axhspan(n - 0.5, n + 0.5, color="0.96", zorder=0, linewidth=0)
        axis.set_title(f"{int(size):,} training examples", fontsize=10)
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    save(figure, path / "regularizers.svg")


def report(results: Mapping[str, Any]) -> str:
    """The question, the answer and the numbers behind it."""
    config = results["config"]
    sizes = [str(n) for n in config["train_sizes"]]
    rules = [name for name, _ in config["rules"]]
    found = {
        (rule, kind, size): change(results, rule, kind, size)
        for rule in rules
        for kind in kinds_of(results, rule)
        if kind != "none"
        for size in sizes
    }
    lines = [
        "# Which regularizer buys what?",
        "",
        "```bash",
        "python -m experiments.generalization "
        "--config=experiments/configs/generalization/regularizers.py --workdir=DIR",
        "```",
        "",
        f"A perceptron learns {' and '.join(f'{int(n):,}' for n in sizes)} digits of 8×8 "
        f"pixels for {config['num_steps']} updates, {config['num_samples']} times with other "
        "examples, with one regularizer at a time. Rate and strength have the lowest mean "
        "validation error; test errors are those of other examples.",
        "",
        "![Change in test error by regularizer](regularizers.svg)",
        "",
        "## The answer",
        "",
        *_answer(results, rules, sizes, found),
        "",
        "## What each changes",
        "",
        "Test error with the regularizer minus test error without, in percentage points: mean over "
        "samples ± half of a 95 % interval, paired. Bold: the interval is on one side of zero.",
        "",
    ]
    for size in sizes:
        lines += [
            f"### {int(size):,} training examples",
            "",
            "| | " + " | ".join(map(display_name, rules)) + " |",
            "| --- " + "| ---: " * len(rules) + "|",
        ]
        for kind in kinds_of(results, rules[0]):
            row = [_WRITTEN[kind]]
            for rule in rules:
                if (rule, kind, size) in found:
                    row.append(_difference(found[rule, kind, size]))
                else:
                    row.append("0" if kind == "none" else "not tried")
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    lines += [
        "## Each rule with its best regularizer",
        "",
        "Test errors in percent. The best has the lowest validation error, early stopping among "
        "them; the last column is the paired difference to AdamW with its best.",
        "",
        "| examples | rule | without | best regularizer | with it | against AdamW's best |",
        "| ---: | --- | ---: | --- | ---: | ---: |",
    ]
    for size in sizes:
        for rule in results["cells"]:
            lines.append("| " + " | ".join(_best_row(results, rule, size)) + " |")
    lines += ["", *_learned(results), "", *_limits(results)]
    return "\n".join(lines) + "\n"


def _answer(
    results: Mapping[str, Any],
    rules: list[str],
    sizes: list[str],
    found: Mapping[tuple[str, str, str], Interval],
) -> list[str]:
    better = [key for key, interval in found.items() if interval.high < 0]
    worse = [key for key, interval in found.items() if interval.low > 0]
    harm = [interval.mean for (_, kind, _), interval in found.items() if kind == "shift"]
    against = []
    for size in sizes if {"general", "adamw"} <= set(rules) else ():
        plain = test_errors(results, "general", "none", size)
        ours, theirs = (
            test_errors(results, rule, chosen(results, rule, size), size)
            for rule in ("general", "adamw")
        )
        against.append(
            f"on {int(size):,} examples `general` has {plain.mean():.1f} % test errors without and "
            f"{ours.mean():.1f} % with its best regularizer, AdamW {theirs.mean():.1f} % with its "
            f"best (difference of the bests {_plain(mean_interval(ours - theirs))} points)"
        )
    muon = ""
    if against and "muon" in rules:
        bests = [test_errors(results, "muon", chosen(results, "muon", n), n).mean() for n in sizes]
        muon = f" Muon, with its best {' and '.join(f'{best:.1f} %' for best in bests)}, is close."
    shifted = (
        f"Pictures shifted by one pixel cost {min(harm):.1f} to {max(harm):.1f} points: these "
        "digits are centred, in the test set too, and one of eight pixels is far. "
        if harm
        else ""
    )
    return [
        f"**At its best strength and rate hardly any regularizer pays here: of {len(found)} "
        f"comparisons {len(better)} show fewer test errors and {len(worse)} show more (by chance "
        f"alone about {0.025 * len(found):.0f} of each would)."
        + (f" The rule matters more: {'; '.join(against)}.{muon}" if against else "")
        + "**",
        "",
        f"What helps: {_named(better) or 'nothing'}. {shifted}"
        "A regularizer says what is known beside the data, and helps where that is true. Decoupled "
        "decay is not the L2 penalty for rules that rescale gradients, and stopping early costs "
        "nothing and buys little of the error, though much of the loss "
        "(see [early_stopping](../early_stopping/README.md)).",
        *_on_learning(results, sizes[0]),
    ]


def _on_learning(results: Mapping[str, Any], size: str) -> list[str]:
    """What the objective of meta-training changed."""
    if not {"learned_train", "learned_valid"} <= results["learned"].keys():
        return []
    decays = {name: theta["shrinkage"][0] / 10 for name, theta in results["learned"].items()}
    errors = {name: test_errors(results, name, "none", size) for name in decays}
    apart = mean_interval(errors["learned_valid"] - errors["learned_train"])
    return [
        "",
        "A rule that is meta-trained for the training loss learns the opposite of weight decay: it "
        f"lets matrices grow (λ = {decays['learned_train']:+.3f}). For the loss on other pictures "
        f"it learns to shrink them (λ = {decays['learned_valid']:+.3f}), and takes shorter steps. "
        f"That changes the test error on {int(size):,} examples by {_plain(apart)} points, which "
        "is not shown to be a gain. Each was meta-trained once.",
    ]


def _plain(interval: Interval) -> str:
    return f"{interval.mean:+.1f} ± {interval.high - interval.mean:.1f}"


def _named(keys: list[tuple[str, str, str]]) -> str:
    """Regularizers, with the rules and sizes that each is named for."""
    groups: dict[str, list[str]] = {}
    for rule, kind, size in keys:
        groups.setdefault(_WRITTEN[kind], []).append(f"{display_name(rule)} on {int(size):,}")
    return "; ".join(f"{kind} ({', '.join(who)})" for kind, who in groups.items())


def _difference(interval: Interval) -> str:
    text = f"{interval.mean:+.1f} ± {interval.high - interval.mean:.1f}"
    return f"**{text}**" if interval.low > 0 or interval.high < 0 else text


def _best_row(results: Mapping[str, Any], rule: str, size: str) -> list[str]:
    kind = chosen(results, rule, size)
    stopped = kind == "early_stopping"
    cell = results["cells"][rule]["none" if stopped else kind][size]
    cell = cell["stopped" if stopped else "end"]
    errors = test_errors(results, rule, kind, size)
    best = chosen(results, "adamw", size) if "adamw" in results["cells"] else kind
    versus = "–"
    if rule != "adamw" and "adamw" in results["cells"]:
        versus = _difference(mean_interval(errors - test_errors(results, "adamw", best, size)))
    strength = "" if kind in ("none", "early_stopping", "batch_norm") else f" {cell['strength']:g}"
    edge = ", the edge" if cell["rate_on_edge"] else ""
    return [
        f"{int(size):,}",
        display_name(rule),
        _percent(test_errors(results, rule, "none", size)),
        f"{_WRITTEN[kind]}{strength}, rate {cell['rate']:g}{edge}",
        _percent(errors),
        versus,
    ]


def _percent(errors: np.ndarray) -> str:
    interval = mean_interval(errors)
    return f"{interval.mean:.1f} ± {interval.high - interval.mean:.1f}"


def _learned(results: Mapping[str, Any]) -> list[str]:
    """What the rules that were meta-trained here reach on the small training sets."""
    if not results["learned"]:
        return []
    config, size = results["config"], str(results["config"]["train_sizes"][0])
    kinds = list(results["cells"][next(iter(results["learned"]))]) + ["early_stopping"]
    versus = [name for name in ("adamw", "general") if name in results["cells"]]
    lines = [
        f"## Rules that are meta-trained here, on {int(size):,} examples",
        "",
        f"Nine numbers each, from where they give Muon, {config['meta']['num_meta_steps']} "
        "meta-updates on 100 pictures of MNIST at 8×8: for the training loss (`learned_train`), "
        "for the loss on other pictures (`learned_valid`), and for a training loss with a penalty, "
        "label smoothing and noisy inputs (`learned_regularized`). λ is the decay of matrices that "
        "was learned, o the length of the orthogonalized step (Muon: 0 and 1). Test errors in "
        "percent.",
        "",
        "| rule | λ | o | " + " | ".join(_WRITTEN[kind] for kind in kinds) + " |",
        "| --- | ---: | ---: " + "| ---: " * len(kinds) + "|",
    ]
    for rule in (*results["learned"], *versus):
        theta = results["learned"].get(rule)
        learned = ["", ""]
        if theta:
            learned = [f"{theta['shrinkage'][0] / 10:.3f}", f"{np.exp(theta['orthogonal'][0]):.2f}"]
        errors = [_percent(test_errors(results, rule, kind, size)) for kind in kinds]
        lines.append("| " + " | ".join([display_name(rule), *learned, *errors]) + " |")
    names = list(results["learned"])
    pairs = [(a, b) for n, a in enumerate(names) for b in names[:n]]
    apart = [
        f"`{a}` − `{b}` "
        + _difference(
            mean_interval(
                test_errors(results, a, "none", size) - test_errors(results, b, "none", size)
            )
        )
        for a, b in pairs
    ]
    return lines + (["", "Without a regularizer: " + "; ".join(apart) + "."] if apart else [])


def _limits(results: Mapping[str, Any]) -> list[str]:
    config = results["config"]
    return [
        "## What it does not show",
        "",
        f"Runs of {config['num_steps']} updates with constant rates: what slows learning down pays "
        f"later, if it does. {config['sizes']['valid']} validation examples are more than anybody "
        f"has beside {config['train_sizes'][0]} training examples. All samples are drawn from the "
        "same 1,797 digits and overlap, so intervals say little about other digits. Batch norm "
        "takes the statistics of the batch at hand, of the whole test set in evaluation.",
    ]
