"""Momentum on quadratics in two dimensions: theory, and rules beside each other.

f(θ) = ½ θᵀ H θ with curvatures 1 and 1/κ along axes that are turned by 30° (a ravine), or 1 and −1
along the coordinates' own (a saddle).
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.common.build import load_rule
from experiments.common.launch import check_positive
from experiments.common.workdir import kept
from experiments.lab.momentum_report import draw, report
from learned_opt.studies.momentum import best_settings, ravine, spectral_radius

__all__ = ["DEFAULTS", "draw", "report", "run"]

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "rules": ("sgd", "momentum", "nesterov", "adam", "general", "lstm_quadratic_gaussian"),
        "ratios": (1, 3, 10, 30, 100, 300, 1000),  # condition numbers κ
        "target": 1e-6,  # of the loss at the start
        "num_steps": 4000,
        "num_starts": 8,  # of each κ, and as many others on which rates are chosen
        # factors on the rates of rules that have no theory, tried for each κ
        "factors": tuple(10 ** (k / 4) for k in range(-8, 9)),
        "drawn_ratio": 100,  # one of them
        "drawn_steps": 150,  # updates of the drawn curves
        # ways through a ravine that are drawn: momentum with the rate of gradient descent
        "ways": {
            "ratio": 20,
            "steps": 40,
            "sgd": {"learning_rate": 0.3},
            "momentum": {"learning_rate": 0.3, "decay": 0.9},
            "adam": {"learning_rate": 0.3},
            "general": {},
        },
        "decays": (0.0, 0.81, 0.95, 0.99),  # of the swings that are drawn
        "swing_rate": 0.01,  # times curvature
        "saddle_rate": 0.1,  # of all rules at the saddle
        "saddle_decay": 0.9,  # of momentum there
        # of the start from the line that leads to the saddle
        "offsets": tuple(10.0**-k for k in range(1, 13)),
        "map_points": 61,  # a side of the map of rates over (η, γ)
    }
)
_THEORY = ("sgd", "momentum", "nesterov")
_START = (-2.3, 0.6)  # of what is drawn
_rule = functools.cache(load_rule)  # one compiled program a rule


def run(config: ConfigDict, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Runs theory, ravines and the saddle."""
    del data_dir
    check_positive(config, "num_steps", "num_starts", "drawn_steps", "map_points")
    found: dict[str, Any] = {
        "swings": {f"{g:g}": _swing(g, config) for g in config.decays},
        "swing_rate": config.swing_rate,
        "map": kept(workdir / "cells" / "map.json", lambda: _map(config)),
        "ratios": list(config.ratios),
        "target": config.target,
        "num_steps": config.num_steps,
        "ravines": {},
        "saddle": {},
        "offsets": list(config.offsets),
    }
    for name in config.rules:
        found["ravines"][name] = {}
        for ratio in config.ratios:
            cell = kept(
                workdir / "cells" / f"ravine_{name}_{ratio}.json",
                functools.partial(_ravine, name, ratio, config),
            )
            found["ravines"][name][str(ratio)] = cell
        found["saddle"][name] = kept(
            workdir / "cells" / f"saddle_{name}.json", functools.partial(_saddle, name, config)
        )
    found["drawn_ratio"] = config.drawn_ratio
    found["ways"] = _ways(config)
    return found


def _swing(decay: float, config: ConfigDict) -> list[float]:
    """θ_t of momentum from 1 along a single direction."""
    points, previous = [1.0], 1.0
    for _ in range(120):
        now = points[-1]
        points.append((1 + decay - config.swing_rate) * now - decay * previous)
        previous = now
    return np.round(points, 3).tolist()


def _map(config: ConfigDict) -> dict[str, Any]:
    """How far the radii that the rules show are from those of the theory, for many (ηλ, γ)."""
    rates, decays = np.linspace(0.05, 3.95, 27), np.linspace(0, 0.98, 15)
    grid = np.stack(np.meshgrid(rates, decays), axis=-1).reshape(-1, 2)
    found = {}
    for name in ("momentum", "nesterov"):
        rule, theta = _rule(name)
        measured = np.array([_measured_radius(rule, theta, *settings) for settings in grid])
        exact = spectral_radius(name, grid[:, 0], grid[:, 1], 1.0)
        found[name] = {
            "settings": len(grid),
            "worst": np.abs(measured - exact).max(),
            "wrong": int(((measured < 1) != (exact < 1))[np.abs(exact - 1) > 0.01].sum()),
        }
    return found


@functools.partial(jax.jit, static_argnums=0)
def _shrinking(rule, theta):
    """Logarithms of the growth of (θ_t, v_t), rescaled to length one in every step."""
    tx = rule.transform(theta)
    params = jnp.float32(1.0)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(params, state, params)
        params = params + updates
        size = jnp.sqrt(sum(jnp.square(x) for x in jax.tree.leaves((params, state))))
        scaled = jax.tree.map(lambda x: x / size, (params, state))
        return scaled, jnp.log(size)

    return jax.lax.scan(step, (params, tx.init(params)), length=600)[1]


def _measured_radius(rule, theta, rate, decay) -> float:
    theta = theta | {"learning_rate": jnp.float32(rate), "decay": jnp.float32(decay)}
    return float(np.exp(np.asarray(_shrinking(rule, theta), np.float64)[200:].mean()))


@functools.partial(jax.jit, static_argnames=("rule", "num_steps"))
def _descend(rule, theta, factor, matrix, starts, *, num_steps):
    """Points after 0, 1, … steps, `[starts, num_steps + 1, 2]`."""

    def one(start):
        tx = optax.chain(rule.transform(theta), optax.scale(factor))

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(matrix @ params, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        points = jax.lax.scan(step, (start, tx.init(start)), length=num_steps)[1]
        return jnp.concatenate([start[None], points])

    return jax.vmap(one)(starts)


def _points(name, factor, matrix, starts, num_steps, **settings) -> np.ndarray:
    rule, theta = _rule(name)
    theta = theta | {key: jnp.float32(value) for key, value in settings.items()}
    found = _descend(
        rule, theta, jnp.float32(factor), jnp.asarray(matrix, jnp.float32),
        jnp.asarray(starts, jnp.float32), num_steps=num_steps,
    )  # fmt: skip
    return np.asarray(found, np.float64)


def _ravine(name: str, ratio: float, config: ConfigDict) -> dict[str, Any]:
    """Steps until the loss stays below the target, with the best settings of a rule."""
    matrix = ravine(ratio)
    angles = 2 * np.pi * (np.arange(2 * config.num_starts) + 0.3) / (2 * config.num_starts)
    circle = 2.5 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    chosen, starts = circle[1::2], circle[::2]
    settings: dict[str, float] = {}
    factor = 1.0
    if name in _THEORY:
        best = best_settings(name, 1 / ratio, 1.0)
        settings = {"learning_rate": best.rate} | ({"decay": best.decay} if name != "sgd" else {})
    else:
        # Adam's rate is its default times a factor; so are the steps of learned rules.
        scores = [
            _steps(_points(name, f * _unit(name), matrix, chosen, config.num_steps), matrix, config)
            for f in config.factors
        ]
        factor = config.factors[int(np.argmin([x[0].mean() for x in scores]))] * _unit(name)
    points = _points(name, factor, matrix, starts, config.num_steps, **settings)
    steps, stayed = _steps(points, matrix, config)
    cell = {
        "steps": steps.mean(),
        "least": steps.min(),
        "most": steps.max(),
        "reached": (steps <= config.num_steps).sum(),
        "below at the end": stayed.sum(),
        "factor": factor,
        **settings,
    }
    if ratio == config.drawn_ratio:
        way = _points(name, factor, matrix, [_START], config.drawn_steps, **settings)[0]
        losses = np.einsum("ti,ij,tj->t", way, matrix, way)
        cell["losses"] = losses / losses[0]
    print(f"{name}, κ = {ratio}: {cell['steps']:.0f} steps", flush=True)
    return cell


def _ways(config: ConfigDict) -> dict[str, Any]:
    """Ways through a ravine, with settings that are not tuned."""
    ratio, steps = config.ways.ratio, config.ways.steps
    found: dict[str, Any] = {}
    for name, settings in config.ways.items():
        if name not in ("ratio", "steps"):
            points = _points(name, 1.0, ravine(ratio), [_START], steps, **settings)[0]
            found[name] = points.round(3).tolist()
    return {"ratio": ratio, "start": list(_START), "points": found}


def _unit(name: str) -> float:
    """What a factor of one means: a rate of 0.1 for Adam, the rule as it is for learned ones."""
    return 100.0 if name == "adam" else 1.0


def _steps(points: np.ndarray, matrix: np.ndarray, config: ConfigDict) -> np.ndarray:
    """The step at which the loss first reaches the target; one more than there are if it does not.

    Beside it, whether the loss is at or below the target at the end.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        losses = np.einsum("nti,ij,ntj->nt", points, matrix, points)
        below = losses <= config.target * losses[:, :1]
    first = np.where(below.any(axis=1), below.argmax(axis=1), below.shape[1])
    return np.stack([first, below[:, -1]])


def _saddle(name: str, config: ConfigDict) -> dict[str, Any]:
    """Steps until |y| > 1 from (1, offset), at ½ (x² − y²); infinity where that never comes."""
    settings: dict[str, float] = {}
    if name in _THEORY:
        settings = {"learning_rate": config.saddle_rate}
        settings |= {"decay": config.saddle_decay} if name != "sgd" else {}
    if name == "adam":
        settings = {"learning_rate": config.saddle_rate}
    starts = [[1.0, offset] for offset in (*config.offsets, 0.0)]
    points = _points(name, 1.0, np.diag([1.0, -1.0]), starts, config.num_steps, **settings)
    with np.errstate(invalid="ignore"):
        away = ~(np.abs(points[:, :, 1]) <= 1)
    first = np.where(away.any(axis=1), away.argmax(axis=1), -1)  # -1: never
    return {"steps": first[:-1], "from the ridge itself": int(first[-1]), **settings}
