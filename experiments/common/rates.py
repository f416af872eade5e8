"""Rules with nothing open but their rate and a decoupled weight decay, whatever else they have."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from experiments.common.build import load_rule
from learned_opt.types import Theta, UpdateRule


@functools.cache
def open_rate(name: str) -> UpdateRule:
    """A rule by name, see `experiments.common.build.load_rule`, with its rate and a decay open."""
    return with_open_rate(*load_rule(name))


def with_open_rate(rule: UpdateRule, theta: Theta) -> UpdateRule:
    """A rule whose θ is `{'rate': [], 'weight_decay': []}`, of a rule and all of its θ.

    The rate is the learning rate of rules that have one; of others it multiplies the steps. The
    decay is decoupled and shrinks arrays of two axes and more: w ← w − rate · decay · w.
    """

    def step(rate):
        if "learning_rate" in dict(rule.knobs):
            return rule.transform(theta, learning_rate=rate)
        if isinstance(theta, dict) and "learning_rate" in theta:
            own = {"weight_decay": jnp.float32(0)} if "weight_decay" in theta else {}
            return rule.transform(theta | own | {"learning_rate": rate})
        return optax.chain(rule.transform(theta), optax.scale(rate))

    def transform(theta: Theta) -> optax.GradientTransformationExtraArgs:
        shrink = theta["rate"] * theta["weight_decay"]

        def decay(updates, params):
            return jax.tree.map(lambda u, w: u - shrink * w if w.ndim >= 2 else u, updates, params)

        return optax.chain(step(theta["rate"]), optax.stateless(decay))

    def init(key):
        del key
        return {"rate": jnp.float32(1), "weight_decay": jnp.float32(0)}

    return UpdateRule(init, transform)


def stacked_rates(rates: Sequence[float], decays: Sequence[float] = (0.0,)) -> Theta:
    """θs of `open_rate`, stacked: every rate with the first decay, then with the second, …."""
    pairs = jnp.asarray([(rate, decay) for decay in decays for rate in rates], jnp.float32)
    return {"rate": pairs[:, 0], "weight_decay": pairs[:, 1]}
