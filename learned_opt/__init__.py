"""Optimizers that are learned, in JAX, as ordinary optax transformations.

θ is to a learned rule what the learning rate is to SGD: `rule.transform(theta)` is an optax
transformation. `pretrained(name)` gives one that is ready to use.
"""

from learned_opt import (
    checkpoints,
    evaluation,
    meta_training,
    networks,
    studies,
    tasks,
    update_rules,
)
from learned_opt.evaluation import evaluate
from learned_opt.guard import guard, guard_report
from learned_opt.meta_training import Mixture, TruncatedBPTT, init_state, meta_step, train
from learned_opt.pretrained import (
    load,
    load_pretrained,
    pretrained,
    pretrained_card,
    pretrained_names,
)
from learned_opt.theta_files import load_theta, save_theta
from learned_opt.types import Estimator, InnerState, MetaState, Task, UpdateRule
from learned_opt.unroll import unroll

__version__ = "0.1.0"

__all__ = [
    "Estimator",
    "InnerState",
    "MetaState",
    "Mixture",
    "Task",
    "TruncatedBPTT",
    "UpdateRule",
    "__version__",
    "checkpoints",
    "evaluate",
    "evaluation",
    "guard",
    "guard_report",
    "init_state",
    "load",
    "load_pretrained",
    "load_theta",
    "meta_step",
    "meta_training",
    "networks",
    "pretrained",
    "pretrained_card",
    "pretrained_names",
    "save_theta",
    "studies",
    "tasks",
    "train",
    "unroll",
    "update_rules",
]
