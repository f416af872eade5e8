"""How a rule is learned: the inner loop, estimators of the meta-gradient, and the trainer."""

from learned_opt.meta_training.estimators import TruncatedBPTT, TruncatedBPTTState
from learned_opt.meta_training.trainer import (
    Best,
    TrainState,
    init_state,
    meta_step,
    restart_from_best,
    train,
)
from learned_opt.meta_training.unroll import init_inner, inner_step, unroll

__all__ = [
    "Best",
    "TrainState",
    "TruncatedBPTT",
    "TruncatedBPTTState",
    "init_inner",
    "init_state",
    "inner_step",
    "meta_step",
    "restart_from_best",
    "train",
    "unroll",
]
