"""The fields of a config of `experiments.step_lengths`, and what its factors do to θ."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from learned_opt.types import Theta

DEFAULTS = ConfigDict(
    {
        "seed": 0,
        "theta": "",  # the theta.npz of a meta-training
        # name -> regular expression for the paths of its leaves of θ, as "['output']['kernel']"
        "parts": {"all": "output"},
        "task": {},
        "num_steps": 1000,  # updates of a trial; what counts is the mean training loss over them
        "num_seeds": 8,  # runs of a trial
        "notch": 2**0.5,  # neighbouring factors differ by this factor
        "max_notches": 8,  # no factor goes further than this many, up or down
    }
)


def multiplied(theta: Theta, parts: Mapping[str, str], factors: Mapping[str, float]) -> Theta:
    """θ with the leaves of each part, found by their paths, multiplied by its factor."""

    def times(path: Any, leaf: jax.Array) -> jax.Array:
        for part, pattern in parts.items():
            if re.search(pattern, jax.tree_util.keystr(path)):
                leaf = leaf * factors[part]
        return leaf

    return jax.tree.map_with_path(times, theta)
