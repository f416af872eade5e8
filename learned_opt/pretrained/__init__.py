"""Trained rules that come with the library: NAME.npz holds θ, NAME.json is its card.

`learned_opt.pretrained` is the *function* below, although this folder has the same name; the other
names are imported as `from learned_opt.pretrained import load_pretrained`.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from learned_opt import update_rules
from learned_opt.theta_files import load_metadata, load_theta
from learned_opt.types import Params, Theta, UpdateRule
from learned_opt.update_rules import by_label, celo2, learned_muon, lstm, rnnprop
from learned_opt.update_rules.celo2 import is_published, theta_from_published

_FOLDER = Path(__file__).parent
_RULES: dict[str, Callable[..., UpdateRule]] = {
    "by_label": by_label,
    "celo2": celo2,
    "learned_muon": learned_muon,
    "lstm": lstm,
    "rnnprop": rnnprop,
}
_HAND_DESIGNED = (
    "sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "nadam", "adamw",
    "muon",
)  # fmt: skip
_PARTS = _RULES | {name: getattr(update_rules, name) for name in _HAND_DESIGNED}  # of `by_label`


def pretrained(
    name: str,
    *,
    learning_rate: float | optax.Schedule | None = None,
    weight_decay: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Returns a trained optimizer, ready to use wherever an optax optimizer is.

    .. math:: p_{t+1} = p_t + \eta_t\, (u_t - \lambda\, p_t)

    with the rule's own update u. The LSTM rules need no learning rate η, but far from what they
    were trained on η = 0.1 is worth a try; 'general' has one, .03 by default, and gains from a
    schedule that brings it down to zero. Read `pretrained_card(name)` for what that was and where
    it fails.

    Args:
      name: one of `pretrained_names()`.
      learning_rate: η, a number or an optax schedule; None is the rule's own, 1 for LSTM rules.
      weight_decay: λ, decoupled as in AdamW. With it `update` needs the parameters, and all of
        them move, those without a gradient too.

    Returns:
      An optax transformation.

    Raises:
      ValueError: there is no such optimizer, or a negative or infinite number; from `update`, when
        `weight_decay` is given and the parameters are not.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import learned_opt
      >>> tx = learned_opt.pretrained('lstm_mnist', learning_rate=0.1)
      >>> params = {'w': jnp.ones((3, 2))}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> optax.apply_updates(params, updates)['w'].shape
      (3, 2)
    """
    return _ready(*load_pretrained(name), learning_rate, weight_decay)


def load(
    path: str | os.PathLike,
    *,
    learning_rate: float | optax.Schedule | None = None,
    weight_decay: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of one's own `theta.npz`, as `pretrained` does those of the library.

    Args:
      path: a file that `save_theta(path, theta, {'rule': {'name': 'lstm', …}})` wrote, or a run of
        `experiments.meta_train`; or the published weights of Celo2, see
        `update_rules.celo2.theta_from_published`.
      learning_rate: see `pretrained`; for a rule with a learning rate of its own, as `celo2` has,
        that one.
      weight_decay: see `pretrained`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged or does not name a rule of the library, or θ is not one of
        it; for the numbers see `pretrained`.
    """
    return _ready(*load_rule_file(path), learning_rate, weight_decay)


def load_rule_file(path: str | os.PathLike) -> tuple[UpdateRule, Theta]:
    """Returns the rule and θ of a file, as `load_pretrained` does; see `load`."""
    return _with_theta(_settings_in(path), path)


def _settings_in(path: str | os.PathLike) -> dict[str, Any]:
    """How the rule that a file is for is made."""
    if is_published(load_theta(path)):
        return {"name": "celo2"}
    settings = load_metadata(path).get("rule")
    if not isinstance(settings, dict) or "name" not in settings:
        raise ValueError(
            f"{path} does not say which rule it is for: save it with "
            "save_theta(path, theta, {'rule': {'name': 'lstm', …}})"
        )
    return settings


def load_pretrained(name: str) -> tuple[UpdateRule, Theta]:
    """Returns a trained optimizer as its rule and θ, for evaluation or further meta-training.

    Raises:
      ValueError: there is no such optimizer, or its θ is damaged or not one of its rule.
    """
    return _with_theta(pretrained_card(name)["rule"], _FOLDER / f"{name}.npz")


def pretrained_names() -> tuple[str, ...]:
    """Returns the names that `pretrained` knows."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.npz")))


class Card(dict[str, Any]):
    """A trained optimizer's card: a dict that prints as a page."""

    def __str__(self) -> str:
        """The page."""
        cost, step = self["cost"], self["typical_step"]
        lines = [
            f"{self['name']}: a pretrained {_rule(self['rule'])} optimizer",
            "",
            "Use      " + f"optimizer = learned_opt.pretrained({self['name']!r})",
            "Trained  on " + _listed(self["task"]),
            f"         {cost['inner_steps']:,} inner steps, {cost['minutes']} minutes "
            f"({cost['device']}), seed {self['seed']}",
            f"         {self['command']}",
            *_lengths(**self.get("step_lengths", {})),
            f"Step     {step['median']:.2g} a parameter (root mean square; 5th to 95th percentile "
            f"of a run: {step['low']:.2g} to {step['high']:.2g})",
            f"Costs    {self['step_cost']}",
            f"Figure   {self['figure']}: its steps beside Adam's, by the gradients seen",
            "",
            "How good",
            *(f"  - {name.replace('_', ' ')}: {value}" for name, value in self["results"].items()),
            *_paragraphs("Tested on", self["tested"]),
            *_paragraphs("Where it fails", self["fails"]),
            *_paragraphs("What to try there", self["try"]),
            "",
            "Made with " + ", ".join(f"{k} {v}" for k, v in self["versions"].items()),
        ]
        return "\n".join(lines)


def _listed(settings: Mapping[str, Any]) -> str:
    """Settings without the name; of a task made of another one, that one's too."""
    return ", ".join(
        _listed(value) if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in settings.items()
        if name != "name"
    )


def _rule(settings: Mapping[str, Any]) -> str:
    """The rule's name; of several rules for one network, theirs: 'lstm (conv) and lstm (rest)'."""
    parts = settings.get("rules", {})
    return " and ".join(f"{_rule(part)} ({label})" for label, part in parts.items()) or str(
        settings["name"]
    )


def _lengths(command: str = "", factors: Mapping[str, float] | None = None) -> list[str]:
    """What became of the steps after meta-training, and how, if anything did."""
    if not factors:
        return []
    times = ", ".join(f"{part} × {factor:.3g}" for part, factor in factors.items())
    return [f"         then, for steps of another length ({times}):", f"         {command}"]


def _paragraphs(title: str, sentences: Sequence[str]) -> list[str]:
    return ["", title, *(f"  - {sentence}" for sentence in sentences)]


def pretrained_card(name: str) -> Card:
    """Returns a trained optimizer's card; print it to read it.

    Args:
      name: one of `pretrained_names()`.

    Returns:
      A dict with the entries `name`; `rule`, how the rule is made; `task`, what it was trained on;
      `command`, which repeats the meta-training; `step_lengths`, where steps were made longer or
      shorter after it, with their `factors` and a `command`; `figure`, in the repository, what its
      steps are made of (see `studies.responses`); `seed`; `versions`; `cost`, in inner steps,
      minutes and the device used; `typical_step`, see `evaluation.typical_step`; `step_cost`, of
      an update; `results`; `tested`, the widths and activations tried; `fails`, where it is known
      not to work; and `try`, what helps there.

    Raises:
      ValueError: there is no such optimizer.
    """
    if name not in pretrained_names():
        raise ValueError(
            f"unknown pretrained optimizer {name!r}; known: {', '.join(pretrained_names())}"
        )
    return Card(json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def _make(
    settings: Mapping[str, Any] | str,
    known: Mapping[str, Callable[..., UpdateRule]],
    path: str | os.PathLike,
) -> UpdateRule:
    """The rule that a card or a file describes."""
    settings = {"name": settings} if isinstance(settings, str) else dict(settings)
    name = settings.pop("name")
    own = settings.get("label_fn")
    if name not in known or own:
        kind, name = ("labels of", own) if own else ("rule", name)
        raise ValueError(
            f"{path} is for the {kind} {name!r}, which is none of the library "
            f"({', '.join(known)}): use your rule's own transform(learned_opt.load_theta(path))"
        )
    if name == "by_label":
        rules = settings.pop("rules").items()
        return by_label({label: _make(part, _PARTS, path) for label, part in rules})
    return known[name](**settings)


def _with_theta(settings: Mapping[str, Any], path: str | os.PathLike) -> tuple[UpdateRule, Theta]:
    rule = _make(settings, _RULES, path)
    if is_published(load_theta(path)):
        return rule, theta_from_published(path)
    return rule, load_theta(path, like=jax.eval_shape(rule.init, jax.random.key(0)))


def _ready(
    rule: UpdateRule,
    theta: Theta,
    learning_rate: float | optax.Schedule | None,
    weight_decay: float,
) -> optax.GradientTransformationExtraArgs:
    """The rule with its knobs set; η (u − λ p) in place of its update u where it has none."""
    if not callable(learning_rate):
        _check_number("learning_rate", 1.0 if learning_rate is None else learning_rate)
    _check_number("weight_decay", weight_decay)
    if "learning_rate" in dict(rule.knobs):
        rate = {} if learning_rate is None else {"learning_rate": learning_rate}
        return rule.transform(theta, weight_decay=weight_decay, **rate)
    tx = rule.transform(theta)
    parts: list[optax.GradientTransformation] = [tx]
    if isinstance(weight_decay, jax.core.Tracer) or weight_decay != 0:
        parts.append(optax.stateless(lambda updates, params: _decay(updates, params, weight_decay)))
    if learning_rate is not None:
        parts.append(optax.scale_by_learning_rate(learning_rate, flip_sign=False))
    return tx if len(parts) == 1 else optax.chain(*parts)


def _decay(updates: Params, params: Params | None, weight_decay: float) -> Params:
    if params is None:
        raise ValueError("weight_decay needs the parameters: call update(grads, state, params)")
    return optax.tree.add_scale(updates, -weight_decay, params)


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    number = isinstance(value, int | float | np.ndarray | np.generic | jax.Array)
    if not number or np.ndim(value) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}")
