"""The leaderboard's entries: from what a config says of a rule to an open optimizer."""

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import learned_opt
from experiments.common.build import is_pretrained, load_rule
from experiments.common.lookup import find_file
from learned_opt.studies import digest
from learned_opt.studies.runs import Optimizer

FIELDS = ("rule", "schedule", "weight_decay", "rates", "guard", "adam_factor")


class Unavailable(ValueError):
    """A rule that cannot be run here, and why."""


class Entry(NamedTuple):
    """A rule of the board.

    Attributes:
      optimizer: what is run.
      rates: where the search for the learning rate starts; a single one is not searched for.
      weight_decays: the weight decays to choose from.
      factor: how many times as long its runs of the search are, to read speed-ups off them.
      identity: what its runs depend on.
    """

    optimizer: Optimizer
    rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    factor: int
    identity: dict[str, Any]


def _adam(rate, num_steps, weight_decay):
    del num_steps, weight_decay
    return optax.adam(rate)


def _adamw(rate, num_steps, weight_decay):
    del num_steps
    return optax.adamw(rate, weight_decay=weight_decay)


def _nag(rate, num_steps, weight_decay):
    del num_steps, weight_decay
    return optax.sgd(rate, momentum=0.9, nesterov=True)


def _muon(rate, num_steps, weight_decay):
    del num_steps, weight_decay
    return optax.contrib.muon(rate)


def _schedule_free_adamw(rate, num_steps, weight_decay):
    warmup = max(1, num_steps // 20)
    return optax.contrib.schedule_free_adamw(rate, warmup_steps=warmup, weight_decay=weight_decay)


# make(rate or schedule, num_steps, weight_decay)
RIVALS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": _adam,
    "adamw": _adamw,
    "nag": _nag,
    "muon": _muon,
    "schedule_free_adamw": _schedule_free_adamw,
}


def cosine(rate: Any, num_steps: int) -> optax.Schedule:
    """A rate that falls to zero along half a cosine; unlike optax's it may be traced."""
    return lambda t: rate * 0.5 * (1 + jnp.cos(math.pi * jnp.minimum(t / num_steps, 1.0)))


def make_entry(name: str, spec: Mapping[str, Any], weights: Mapping[str, str]) -> Entry:
    """Makes a rule of the board.

    Args:
      name: its name on the board.
      spec: `rule`, a name in `RIVALS` or one of `experiments.common.build.load_rule`: a pretrained
        rule, the path of a `theta.npz`, or 'module:attribute', there also an `Optimizer`;
        `schedule`, 'constant' or 'cosine'; `weight_decay`, those to choose from; `rates`, where
        the search starts; `guard`, whether `learned_opt.guard` is around it; `adam_factor`.
      weights: rule -> the path of its weights, for rules that do not come with the library.

    Raises:
      Unavailable: the rule is not here.
      ValueError: an unknown field, schedule or rule.
    """
    unknown = sorted(set(spec) - set(FIELDS))
    if unknown or "rule" not in spec or "rates" not in spec:
        raise ValueError(
            f"rule {name!r} must have 'rule' and 'rates', of the fields {', '.join(FIELDS)}"
            + (f"; unknown: {', '.join(unknown)}" if unknown else "")
        )
    schedule = spec.get("schedule", "constant")
    if schedule not in ("constant", "cosine"):
        raise ValueError(
            f"rule {name!r}: schedule must be 'constant' or 'cosine', got {schedule!r}"
        )
    rule = spec["rule"]
    if rule in weights:
        if not weights[rule]:
            raise Unavailable(f"{rule}'s weights are not given: --config.{rule}_weights=PATH")
        rule = str(find_file(weights[rule]))
    guard = _guard(name) if spec.get("guard") else None
    make, theta = _maker(name, rule)
    if isinstance(make, Optimizer):
        made = make
    else:
        made = Optimizer(
            _scheduled(make, schedule, guard),
            _evaluated if rule == "schedule_free_adamw" else Optimizer._field_defaults["evaluated"],
        )
    identity = {
        "rule": spec["rule"],
        "schedule": schedule,
        "guard": bool(guard),
        "theta": None if theta is None else digest(theta),
    }
    return Entry(
        made,
        tuple(spec["rates"]),
        tuple(float(x) for x in spec.get("weight_decay", (0.0,))),
        int(spec.get("adam_factor", 1)),
        identity,
    )


def _scheduled(
    make: Callable[..., Any], schedule: str, guard: Callable[..., Any] | None
) -> Callable[..., Any]:
    """`make` of an `Optimizer`: with the schedule, and the guard around it."""

    def scheduled(rate, num_steps, weight_decay):
        given = cosine(rate, num_steps) if schedule == "cosine" else rate
        tx = make(given, num_steps, weight_decay)
        return guard(tx) if guard else tx

    return scheduled


def _evaluated(opt_state, params):
    return optax.contrib.schedule_free_eval_params(opt_state, params)


def _guard(name: str) -> Callable[..., Any]:
    guard = getattr(importlib.import_module("learned_opt"), "guard", None)
    if not callable(guard):
        raise Unavailable(f"{name} needs learned_opt.guard, which this version has not")
    return guard


def _maker(name: str, rule: str) -> tuple[Any, Any]:
    """What makes the transformation, and θ of a learned rule."""
    if rule in RIVALS:
        return RIVALS[rule], None
    if is_pretrained(rule) and "@" not in rule:
        return _of_pretrained(rule), load_rule(rule)[1]
    if rule.endswith(".npz"):
        path = find_file(rule)
        return _of_file(str(path)), load_rule(str(path))[1]
    if ":" in rule:
        module, _, attribute = rule.partition(":")
        found = getattr(importlib.import_module(module), attribute, None) if module else None
        if isinstance(found, Optimizer):
            return found, None
        made, theta = load_rule(rule)

        def make(rate, num_steps, weight_decay):
            del num_steps
            return optax.chain(
                made.transform(theta),
                optax.add_decayed_weights(-weight_decay),
                optax.scale_by_learning_rate(rate, flip_sign=False),
            )

        return make, theta
    known = ", ".join([*RIVALS, *learned_opt.pretrained_names()])
    raise Unavailable(
        f"rule {rule!r} of {name!r} is not here; known: {known}, the path of a theta.npz, or "
        "'module:attribute' of your own"
    )


def _of_pretrained(rule: str) -> Callable[..., Any]:
    def make(rate, num_steps, weight_decay):
        del num_steps
        return learned_opt.pretrained(rule, learning_rate=rate, weight_decay=weight_decay)

    return make


def _of_file(path: str) -> Callable[..., Any]:
    def make(rate, num_steps, weight_decay):
        del num_steps
        return learned_opt.load(path, learning_rate=rate, weight_decay=weight_decay)

    return make
