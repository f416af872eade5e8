"""Which optimizer is better: search spaces, studies of many trials, and their statistics."""

from learned_opt.early_stopping import Stopped, stop_early
from learned_opt.studies import inclusion, spaces, statistics
from learned_opt.studies.costs import break_even, break_even_interval
from learned_opt.studies.lanes import Lanes, default_lanes, run_lanes, start_loss
from learned_opt.studies.spaces import SearchSpace, load_space
from learned_opt.studies.study import digest, run_study
from learned_opt.studies.trials import TrialStore, read_trials, scores
from learned_opt.studies.trials_table import read_trials_table, write_trials_table
from learned_opt.studies.tuning import Tuned, tune

__all__ = [
    "Lanes",
    "SearchSpace",
    "Stopped",
    "TrialStore",
    "Tuned",
    "break_even",
    "break_even_interval",
    "default_lanes",
    "digest",
    "inclusion",
    "load_space",
    "read_trials",
    "read_trials_table",
    "run_lanes",
    "run_study",
    "scores",
    "spaces",
    "start_loss",
    "stop_early",
    "statistics",
    "tune",
    "write_trials_table",
]
