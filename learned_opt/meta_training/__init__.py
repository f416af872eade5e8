"""How a rule is learned: estimators of the meta-gradient, and the trainer."""

from learned_opt.meta_training.evolution import NRES, PES, FullES, TruncatedES
from learned_opt.meta_training.imitation import Imitation
from learned_opt.meta_training.mixture import Mixture, MixtureState
from learned_opt.meta_training.problems import Problems
from learned_opt.meta_training.trainer import (
    Best,
    TrainState,
    init_state,
    meta_step,
    redraw_problems,
    restart_from_best,
    train,
)
from learned_opt.meta_training.truncated_bptt import TruncatedBPTT

__all__ = [
    "NRES",
    "PES",
    "Best",
    "FullES",
    "Imitation",
    "Mixture",
    "MixtureState",
    "Problems",
    "TrainState",
    "TruncatedBPTT",
    "TruncatedES",
    "init_state",
    "meta_step",
    "redraw_problems",
    "restart_from_best",
    "train",
]
