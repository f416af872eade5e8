"""Trained rules that come with the library: NAME.npz holds θ, NAME.json is its card.

`learned_opt.pretrained` is the *function* below, although this folder has the same name; the other
names are imported as `from learned_opt.pretrained import load_pretrained`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax

from learned_opt.theta_files import load_theta
from learned_opt.types import Theta, UpdateRule
from learned_opt.update_rules import lstm

_FOLDER = Path(__file__).parent
_RULES: dict[str, Callable[..., UpdateRule]] = {"lstm": lstm}


def pretrained(name: str) -> optax.GradientTransformationExtraArgs:
    """Returns a trained optimizer, ready to use wherever an optax optimizer is.

    It has no learning rate to set: `params += update`. Read `pretrained_card(name)` for what it was
    trained on and where it fails.

    Args:
      name: one of `pretrained_names()`.

    Returns:
      An optax transformation.

    Raises:
      ValueError: there is no such optimizer.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> import learned_opt
      >>> tx = learned_opt.pretrained('lstm_mnist')
      >>> params = {'w': jnp.ones((3, 2))}
      >>> updates, state = tx.update(params, tx.init(params))
      >>> optax.apply_updates(params, updates)['w'].shape
      (3, 2)
    """
    rule, theta = load_pretrained(name)
    return rule.transform(theta)


def load_pretrained(name: str) -> tuple[UpdateRule, Theta]:
    """Returns a trained optimizer as its rule and θ, for evaluation or further meta-training.

    Raises:
      ValueError: there is no such optimizer, or its θ is damaged or not one of its rule.
    """
    settings = dict(pretrained_card(name)["rule"])
    rule = _RULES[settings.pop("name")](**settings)
    shapes = jax.eval_shape(rule.init, jax.random.key(0))
    return rule, load_theta(_FOLDER / f"{name}.npz", like=shapes)


def pretrained_names() -> tuple[str, ...]:
    """Returns the names that `pretrained` knows."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.npz")))


def pretrained_card(name: str) -> dict[str, Any]:
    """Returns a trained optimizer's card.

    Args:
      name: one of `pretrained_names()`.

    Returns:
      A dict with the entries `name`; `rule`, how the rule is made; `command`, which repeats the
      meta-training; `seed`; `versions`; `cost`, in inner steps, minutes and the device used;
      `results`; and `fails`, where it is known not to work.

    Raises:
      ValueError: there is no such optimizer.
    """
    if name not in pretrained_names():
        raise ValueError(
            f"unknown pretrained optimizer {name!r}; known: {', '.join(pretrained_names())}"
        )
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
