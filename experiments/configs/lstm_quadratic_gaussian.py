"""The LSTM optimizer on 10-dimensional quadratics with standard normal W, y and start.

    python -m experiments.meta_train --workdir=DIR \
        --config=experiments/configs/lstm_quadratic_gaussian.py

67 million inner steps. The mean loss is that of the few ill-conditioned functions, on which
progress takes a whole run: unrolls of 20 steps are followed by whole unrolls of 100.
"""

from ml_collections import ConfigDict

from experiments.configs import lstm_quadratic


def get_config() -> ConfigDict:
    config = lstm_quadratic.get_config(family="gaussian")
    config.num_meta_steps = 10_000
    config.curriculum = ((6_000, 100),)
    return config
