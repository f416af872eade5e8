"""The LSTM optimizer on 10-dimensional quadratics with standard normal W, y and start.

    python -m experiments.meta_train --workdir=DIR \
        --config=experiments/configs/meta_train/lstm_quadratic_gaussian.py

26 million inner steps. Whole unrolls of 100 steps did worse here than the paper's 20: the mean loss
is that of the few ill-conditioned functions, and so is its gradient.
"""

from ml_collections import ConfigDict

from experiments.configs.meta_train import lstm_quadratic


def get_config() -> ConfigDict:
    config = lstm_quadratic.get_config(family="gaussian")
    config.num_meta_steps = 10_000
    return config
