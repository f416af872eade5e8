"""What a user sets of a learned rule, as what a study searches."""

import jax.numpy as jnp

from learned_opt.types import Theta, UpdateRule


def with_knobs_as_theta(rule: UpdateRule, theta: Theta) -> UpdateRule:
    """Makes a learned rule one whose θ are its knobs, as those of hand-designed rules are.

    Args:
      rule: a rule with knobs.
      theta: its θ, which stays as it is.

    Returns:
      A rule whose θ is {name: float32 `[]`} of every knob, starting from the defaults; a default
      that is a schedule is left to the rule.

    Raises:
      ValueError: the rule has no knobs that are numbers.

    Example:
      >>> import jax
      >>> from learned_opt.update_rules import learned_muon, with_knobs_as_theta
      >>> rule = learned_muon()
      >>> theta = rule.init(jax.random.key(0))
      >>> sorted(with_knobs_as_theta(rule, theta).init(jax.random.key(0)))
      ['learning_rate', 'weight_decay']
    """
    numbers = {name: value for name, value in rule.knobs if not callable(value)}
    if not numbers:
        raise ValueError("the rule has no knobs that are numbers: there is nothing to search")

    def init(key):
        del key
        return {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}

    return UpdateRule(init, lambda knobs: rule.transform(theta, **knobs))
