"""Networks as pure functions: what tasks optimize, and what learned rules are made of.

`images` and `sequences` import Flax, which takes half a second: import them where they are needed.
"""

from learned_opt.networks.functional import FlaxNetwork, Network, functional
from learned_opt.networks.perceptron import Perceptron

__all__ = ["FlaxNetwork", "Network", "Perceptron", "functional"]
