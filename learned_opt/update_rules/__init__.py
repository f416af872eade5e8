"""How parameters move: hand-designed rules (θ = hyperparameters) and learned ones (θ = weights)."""

from learned_opt.update_rules import hierarchy
from learned_opt.update_rules.by_label import by_label, conv_or_rest
from learned_opt.update_rules.celo2 import Celo2State, celo2
from learned_opt.update_rules.fan_in import scaled_by_fan_in
from learned_opt.update_rules.hand_designed import (
    adadelta,
    adagrad,
    adam,
    adamw,
    momentum,
    muon,
    nadam,
    nesterov,
    rmsprop,
    sgd,
)
from learned_opt.update_rules.knobs import with_knobs_as_theta
from learned_opt.update_rules.learned_muon import LearnedMuonState, learned_muon
from learned_opt.update_rules.lstm import LSTMState, lstm
from learned_opt.update_rules.rnnprop import RNNpropState, rnnprop

__all__ = [
    "Celo2State",
    "LSTMState",
    "LearnedMuonState",
    "RNNpropState",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "by_label",
    "celo2",
    "conv_or_rest",
    "hierarchy",
    "learned_muon",
    "lstm",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "rmsprop",
    "rnnprop",
    "scaled_by_fan_in",
    "sgd",
    "with_knobs_as_theta",
]
