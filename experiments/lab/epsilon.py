"""The ε of Adam and of Adadelta: sweeps over the rate and ε, and the steps that come of them."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common.build import make_rule, make_task
from experiments.common.launch import check_positive
from experiments.common.workdir import kept
from experiments.lab.epsilon_report import draw, report
from learned_opt import evaluation
from learned_opt.studies import run_lanes
from learned_opt.studies.step_sizes import step_sizes

__all__ = ["DEFAULTS", "draw", "report", "run"]

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        # name -> task
        "tasks": {
            "classifier": {
                "name": "image_classifier", "dataset": "digits", "hidden_sizes": (32,),
                "activation": "relu", "batch_size": 64,
            },
            "autoencoder": {
                "name": "autoencoder", "dataset": "digits", "hidden_sizes": (32, 8, 32),
                "batch_size": 64,
            },
        },
        "num_steps": 600,
        "tuning_seeds": 2,  # runs that choose the rate
        "num_seeds": 10,
        "rates": tuple(10.0 ** (k / 2) for k in range(-8, 5)),  # searched, for each ε
        "eps": tuple(10.0**k for k in range(-10, 4)),  # ε
        "drawn_steps": 300,  # updates whose effective step sizes are drawn
        # rule -> ε that are drawn
        "drawn_eps": {"adam": (1e-8, 1e-3, 1e-1), "adadelta": (1e-10, 1e-6, 1e-2)},
    }
)  # fmt: skip
_DEFAULT_EPS = {"adam": 1e-8, "adadelta": 1e-6}


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Sweeps, the tuned rules on fresh seeds, and their steps."""
    check_positive(config, "num_steps", "tuning_seeds", "num_seeds", "drawn_steps")
    tasks: dict[str, Any] = {}
    for name, settings in config.tasks.items():
        task = make_task(settings, data_dir)
        folder = workdir / "cells" / name
        found: dict[str, Any] = {"sweeps": {}, "steps": {}}
        for rule in ("adam", "adadelta"):
            found["sweeps"][rule] = kept(
                folder / f"sweep_{rule}.json", partial(_sweep, rule, task, config)
            )
        found["tuned"] = {
            label: kept(
                folder / f"tuned_{label.replace(' ', '_')}.json",
                partial(_tested, *choice, task, config),
            )
            for label, choice in _choices(found["sweeps"], config).items()
        }
        for rule in ("adam", "adadelta"):
            found["steps"][rule] = kept(
                folder / f"steps_{rule}.json",
                partial(_steps, rule, task, found["sweeps"][rule], config),
            )
        tasks[name] = found
    return {
        "drawn_steps": config.drawn_steps,
        "rates": list(config.rates),
        "eps": list(config.eps),
        "num_steps": config.num_steps,
        "num_seeds": config.num_seeds,
        "tasks": tasks,
    }


def _sweep(name: str, task: Any, config: ConfigDict) -> list[list[float | None]]:
    """Validation losses at the end, `[rates, eps]`; None where a run diverged."""
    rule = make_rule(name)
    start = rule.init(jax.random.key(0))
    found = []
    for rate in config.rates:  # a row of the sweep is one program, the same for all
        thetas = {key: jnp.full(len(config.eps), value) for key, value in start.items()}
        thetas["learning_rate"] = jnp.full(len(config.eps), rate, jnp.float32)
        thetas["eps"] = jnp.asarray(config.eps, jnp.float32)
        lanes = run_lanes(
            rule, thetas, task, jax.random.key(config.seed + 1), num_steps=config.num_steps,
            num_seeds=config.tuning_seeds, segments=1,
        )  # fmt: skip
        last = lanes.heldout["valid"]["loss"][:, -1]
        found.append([_plain(x) for x in np.where(lanes.diverged_at >= 0, np.nan, last)])
        print(f"{name}: rate {rate:.2g} swept", flush=True)
    return found


def _plain(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _choices(sweeps: dict[str, Any], config: ConfigDict) -> dict[str, tuple[str, float, float]]:
    """The settings to be tested, (rule, rate, ε): the best by validation loss of what is free."""
    found: dict[str, tuple[str, float, float]] = {}
    for rule in ("adam", "adadelta"):
        losses = np.array(sweeps[rule], np.float64)
        losses = np.where(np.isfinite(losses), losses, np.inf)
        fixed = int(np.argmin(np.abs(np.log(np.array(config.eps) / _DEFAULT_EPS[rule]))))
        name = rule.capitalize()
        if rule == "adadelta":
            one = int(np.argmin(np.abs(np.log(np.array(config.rates)))))
            found["Adadelta as published"] = (rule, config.rates[one], config.eps[fixed])
            best = int(losses[one].argmin())
            found["Adadelta, ε tuned"] = (rule, config.rates[one], config.eps[best])
        best = int(losses[:, fixed].argmin())
        found[f"{name}, rate tuned"] = (rule, config.rates[best], config.eps[fixed])
        at = np.unravel_index(losses.argmin(), losses.shape)
        found[f"{name}, rate and ε tuned"] = (rule, config.rates[at[0]], config.eps[at[1]])
    return found


def _theta(rule: Any, rate: float, eps: float) -> dict[str, Any]:
    theta = rule.init(jax.random.key(0))
    return theta | {"learning_rate": jnp.float32(rate), "eps": jnp.float32(eps)}


def _tested(name: str, rate: float, eps: float, task: Any, config: ConfigDict) -> dict[str, Any]:
    """Test losses on seeds that had no part in the choice."""
    rule = make_rule(name)
    found = evaluation.evaluate(
        rule, _theta(rule, rate, eps), task, jax.random.key(config.seed),
        num_seeds=config.num_seeds, num_steps=config.num_steps, eval_steps=(config.num_steps,),
    )  # fmt: skip
    losses = found.heldout["test"]["loss"][:, 0]
    return {"rule": name, "rate": rate, "eps": eps, "test": losses.tolist()}


def _steps(name: str, task: Any, sweep: list, config: ConfigDict) -> dict[str, Any]:
    """The sizes of steps with several ε: Adam's at its best rate, Adadelta's as published."""
    rule = make_rule(name)
    found = {}
    for eps in config.drawn_eps[name]:
        column = int(np.argmin(np.abs(np.log(np.array(config.eps) / eps))))
        losses = np.array([row[column] for row in sweep], np.float64)
        rate = 1.0 if name == "adadelta" else config.rates[int(np.nanargmin(losses))]
        sizes = step_sizes(
            name, rule, _theta(rule, rate, eps), task, jax.random.key(config.seed),
            num_steps=config.drawn_steps,
        )  # fmt: skip
        thinned = np.unique(np.round(np.geomspace(1, config.drawn_steps, 40)).astype(int)) - 1
        found[f"{eps:g}"] = {
            "rate": rate,
            "step": (thinned + 1).tolist(),
            "update": [float(f"{x:.3g}") for x in sizes.update[thinned]],
            "gradient": [float(f"{x:.3g}") for x in sizes.gradient[thinned]],
            "rates": [[float(f"{x:.3g}") for x in row] for row in sizes.rates[thinned]],
        }
    return found
