"""Several rules for one network: each moves the parameters of its own label."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt.types import Key, Params, Theta, UpdateRule


def conv_or_rest(path: str, param: Any) -> str:
    """`'conv'` for kernels of convolutions, `[height, width, in, out]`; `'rest'` for all else."""
    del path
    return "conv" if len(param.shape) == 4 else "rest"


def by_label(
    rules: Mapping[str, UpdateRule],
    label_fn: Callable[[str, Any], str] = conv_or_rest,
) -> UpdateRule:
    """Rules that each move the parameters of one label.

    θ is a dict of the rules' own θs, θ = {label: θ_label}. A parameter p with the label l moves as
    if it were, with the others of its label, all that there is to rule l. The paper has one LSTM
    for the kernels of convolutions and one for everything else.

    Args:
      rules: label -> rule.
      label_fn: `label_fn(path, param)`, the label of a parameter, from its path (as
        `"['conv_0']['kernel']"`), shape and dtype. By default `conv_or_rest`, with the labels
        `'conv'` and `'rest'`. A label that no parameter of a network has is no error.

    Returns:
      The rule. Its state holds one state a label, which leaves the other parameters out. It has no
      knobs; give the parts theirs.

    Raises:
      TypeError: what is in `rules` is no `UpdateRule`, or no name.
      ValueError: no rule; from `init` and `update` of the transformation, a label without a rule.

    Example:
      >>> import jax
      >>> from learned_opt.update_rules import adam, by_label, lstm
      >>> rule = by_label({'conv': lstm(), 'rest': adam()})
      >>> sorted(rule.init(jax.random.key(0)))
      ['conv', 'rest']

    Reference: Andrychowicz et al., *Learning to learn by gradient descent by gradient descent*,
    2016, section 3.3.
    """
    rules = dict(sorted(rules.items()))
    if not rules:
        raise ValueError("by_label needs at least one rule: by_label({'conv': …, 'rest': …})")
    for label, rule in rules.items():
        if not isinstance(label, str) or not isinstance(rule, UpdateRule):
            raise TypeError(
                f"by_label takes label -> UpdateRule, got {label!r} -> {type(rule).__name__}; "
                "write for example by_label({'conv': lstm(), 'rest': adam()})"
            )

    def init(key: Key) -> Theta:
        keys = jax.random.split(key, len(rules))
        return {label: rule.init(k) for (label, rule), k in zip(rules.items(), keys, strict=True)}

    def transform(theta: Theta) -> optax.GradientTransformationExtraArgs:
        parts = {label: rule.transform(theta[label]) for label, rule in rules.items()}
        return optax.partition(parts, functools.partial(labels, label_fn, tuple(rules)))

    return UpdateRule(
        init,
        transform,
        coordinatewise=all(rule.coordinatewise for rule in rules.values()),
        parts=tuple(rules.items()),
        label_fn=label_fn,
    )


def labels(label_fn: Callable[[str, Any], str], known: tuple[str, ...], params: Params) -> Params:
    """The label of every parameter, a tree like the parameters.

    Raises:
      ValueError: a label is not one of those known.
    """

    def label(path: Any, param: Any) -> str:
        name = jax.tree_util.keystr(path)
        found = label_fn(name, param if hasattr(param, "shape") else jnp.asarray(param))
        if found not in known:
            raise ValueError(
                f"label_fn gives {found!r} for params{name}, which has no rule; rules: "
                f"{', '.join(known)}"
            )
        return found

    return jax.tree.map_with_path(label, params)
