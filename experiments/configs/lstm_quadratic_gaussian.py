"""The LSTM optimizer on 10-dimensional quadratics with standard normal W, y and start.

python -m experiments.meta_train --workdir=DIR \
        --config=experiments/configs/lstm_quadratic_gaussian.py
"""

from ml_collections import ConfigDict

from experiments.configs import lstm_quadratic


def get_config() -> ConfigDict:
    return lstm_quadratic.get_config(family="gaussian")
