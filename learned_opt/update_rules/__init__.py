"""How parameters move: hand-designed rules (θ = hyperparameters) and learned ones (θ = weights)."""

from learned_opt.update_rules import hierarchy
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
from learned_opt.update_rules.learned_muon import LearnedMuonState, learned_muon
from learned_opt.update_rules.lstm import LSTMState, lstm

__all__ = [
    "LSTMState",
    "LearnedMuonState",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "hierarchy",
    "learned_muon",
    "lstm",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "rmsprop",
    "sgd",
]
