"""10-dimensional quadratics, W, y and start from N(0, 1): the pretrained LSTM beside tuned rules.

    python -m experiments.compare --config=experiments/configs/compare_quadratic_gaussian.py \
        --workdir=DIR

Run time: about 1 minute on 2 cores.
"""

from ml_collections import ConfigDict

from experiments.configs import compare_quadratic


def get_config() -> ConfigDict:
    return compare_quadratic.get_config(family="gaussian", per_decade=8)
