"""How a rule is learned: estimators of the meta-gradient, and the trainer."""

from learned_opt.meta_training.trainer import (
    Best,
    TrainState,
    init_state,
    meta_step,
    restart_from_best,
    train,
)
from learned_opt.meta_training.truncated_bptt import TruncatedBPTT, TruncatedBPTTState

__all__ = [
    "Best",
    "TrainState",
    "TruncatedBPTT",
    "TruncatedBPTTState",
    "init_state",
    "meta_step",
    "restart_from_best",
    "train",
]
