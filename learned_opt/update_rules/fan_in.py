"""Steps that shrink as layers grow wider, as μP has them."""

import math
from typing import Any

import jax
import optax

from learned_opt.types import Params, Theta, UpdateRule


def scaled_by_fan_in(rule: UpdateRule, fan_in: int) -> UpdateRule:
    r"""A rule whose steps of a matrix W are multiplied by `fan_in` / (the fan-in of W).

    A step of every weight by δ moves a unit's input by up to δ times its fan-in: with the factor,
    networks of any width move as far as those of width `fan_in`. The fan-in is the product of all
    axes but the last (Flax's kernels are `[…, in, out]`); parameters with less than two axes keep
    their steps. μLO scales hidden matrices alone, with a constant for the others.

    Args:
      rule: any rule.
      fan_in: the fan-in that keeps the rule's own steps.

    Returns:
      A rule with the same θ, which is not coordinatewise.

    Raises:
      ValueError: `fan_in` is below one.

    Reference: Thérien et al., *μLO: compute-efficient meta-generalization of learned optimizers*,
    2024.
    """
    if fan_in < 1:
        raise ValueError(f"fan_in must be at least 1, got {fan_in}")

    def scale(update: Any) -> jax.Array:
        own = math.prod(update.shape[:-1]) if update.ndim > 1 else fan_in
        return (fan_in / max(own, 1)) * update

    def scaled(updates: Params, params: Params | None) -> Params:
        del params
        return jax.tree.map(scale, updates)

    def transform(theta: Theta, **knobs: Any) -> optax.GradientTransformationExtraArgs:
        return optax.chain(rule.transform(theta, **knobs), optax.stateless(scaled))

    return UpdateRule(rule.init, transform, knobs=rule.knobs)
