"""Several rules for one network: each moves the parameters of its own label."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from learned_opt.types import Key, Theta, UpdateRule
from learned_opt.unroll import labels
from learned_opt.update_rules import checks


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
      knobs: its parts run with the defaults of theirs.

    Raises:
      TypeError: what is in `rules` is no `UpdateRule`, or no name, or `label_fn` is no function.
      ValueError: no rule; from `transform`, a θ of another rule; from `init` and `update` of the
        transformation, a label without a rule.

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

    if not callable(label_fn):
        raise TypeError(f"label_fn must be a function (path, param) -> label, got {label_fn!r}")

    def init(key: Key) -> Theta:
        keys = jax.random.split(key, len(rules))
        return {label: rule.init(k) for (label, rule), k in zip(rules.items(), keys, strict=True)}

    theta_shapes = jax.eval_shape(init, jax.random.key(0))

    def transform(theta: Theta) -> optax.GradientTransformationExtraArgs:
        checks.check_theta(theta, theta_shapes, rule="by_label")
        parts = {label: rule.transform(theta[label]) for label, rule in rules.items()}
        tx = optax.partition(parts, functools.partial(labels, label_fn, tuple(rules)))

        def update_fn(updates, state, params=None, **extra_args: Any):
            if params is not None:
                checks.check_same_tree(updates, params)
            return tx.update(updates, state, params, **extra_args)

        return optax.GradientTransformationExtraArgs(tx.init, update_fn)

    return UpdateRule(
        init,
        transform,
        coordinatewise=all(rule.coordinatewise for rule in rules.values()),
        parts=tuple(rules.items()),
        label_fn=label_fn,
    )
