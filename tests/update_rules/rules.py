"""The table of rules that the tests of their contract go over, and what they share."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from learned_opt.update_rules import hand_designed, hierarchy
from learned_opt.update_rules.by_label import by_label
from learned_opt.update_rules.celo2 import celo2
from learned_opt.update_rules.learned_muon import learned_muon
from learned_opt.update_rules.lstm import lstm
from learned_opt.update_rules.rnnprop import rnnprop

RULES = {
    "sgd": hand_designed.sgd(),
    "momentum": hand_designed.momentum(),
    "nesterov": hand_designed.nesterov(),
    "adagrad": hand_designed.adagrad(),
    "adadelta": hand_designed.adadelta(),
    "rmsprop": hand_designed.rmsprop(),
    "adam": hand_designed.adam(),
    "nadam": hand_designed.nadam(),
    "adamw": hand_designed.adamw(),
    "muon": hand_designed.muon(),
    **{
        f"hierarchy.{name}": getattr(hierarchy, name)(decay_factor=0.5)
        for name in (
            "sgd",
            "momentum",
            "nesterov",
            "adagrad",
            "adadelta",
            "rmsprop",
            "adam",
            "nadam",
        )
    },
    "lstm": lstm((4, 3)),
    "lstm_raw": lstm((4,), preprocess=None),
    "rnnprop": rnnprop((4, 3), input_size=3),
    "celo2": celo2(),
    "celo2_base": celo2(orthogonalize=False, vectors="rule"),
    "learned_muon": learned_muon(),
    "by_label": by_label(
        {"bias": lstm((4, 3)), "rest": lstm((3,), preprocess=None)},
        lambda path, param: "bias" if path.startswith("['b") else "rest",
    ),
}

# The rules that take complex parameters, and what of optax they must agree with.
COMPLEX = {
    "sgd": optax.sgd,
    "momentum": lambda learning_rate, decay: optax.sgd(learning_rate, decay),
    "nesterov": lambda learning_rate, decay: optax.sgd(learning_rate, decay, nesterov=True),
    "adagrad": optax.adagrad,
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
    "nadam": optax.nadam,
    "adamw": optax.adamw,
}

# Rules of the hierarchy are alike: RMSProp and NAdam stand for the others in the fast tests.
FAST = ("hierarchy.rmsprop", "hierarchy.nadam")
SLOW = [n for n in RULES if n.startswith("hierarchy.") and n not in FAST] + ["celo2_base"]
every_rule = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in RULES],
)


def make_theta(name, seed=0):
    """θ of a rule, moved off its start so that a learned rule moves the parameters."""
    theta = RULES[name].init(jax.random.key(seed))
    if not name.startswith(("lstm", "rnnprop", "learned_muon", "by_label")):
        return theta
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return treedef.unflatten(
        [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def make_tx(name, *, jit=True):
    """The rule's transformation, compiled as a whole where the test does not compile it."""
    tx = RULES[name].transform(make_theta(name))
    return tx._replace(update=jax.jit(tx.update)) if jit else tx


def make_params(dtype=jnp.float32):
    """Nested parameters with a matrix, a scalar, an empty matrix and a None."""
    w = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    params = {
        "layer": [{"w": w}, (w.sum(0), None)],
        "scalar": jnp.array(0.5),
        "empty": jnp.zeros((0, 3)),
    }
    return jax.tree.map(lambda p: p.astype(dtype), params)


def make_grads(params):
    return jax.tree.map(lambda p: (jnp.cos(3 * p) - 0.2).astype(p.dtype), params)


def assert_equal(a, b):
    chex.assert_trees_all_close(a, b, rtol=2e-5, atol=1e-6)


def assert_same_types(a, b):
    """Same structure, shapes, dtypes and weak types."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.map(jax.typeof, a) == jax.tree.map(jax.typeof, b)
