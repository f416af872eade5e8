r"""How to choose a hyperparameter with little data, and is K-fold allowed on time series?

    python -m experiments.generalization \
        --config=experiments/configs/generalization/cross_validation.py --workdir=DIR

Forty sets of 100 digits, where a penalty is chosen by hold-out, K-fold, stratified, repeated and
nested cross-validation; and 60 series that are correlated in time, and 20 that are not, where the
estimates of K-fold and of TimeSeriesSplit meet a future that none of them saw.

Run time: about fifteen minutes on one core. Expected: on the series with memory shuffled K-fold
promises 0.49 and gets 1.48; TimeSeriesSplit with a gap promises 1.15 and gets 1.22.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"experiment": "cross_validation"})
