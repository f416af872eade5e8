r"""The U-curve of bias and variance, and where networks leave it.

    python -m experiments.generalization \
        --config=experiments/configs/generalization/bias_variance.py --workdir=DIR

Polynomials of growing degree and networks of growing width, each fitted to 1,000 training sets of
16 examples; bias², variance and noise, and the error that they add up to.

Run time: about five minutes on one core. Expected: the polynomials' error falls, rises a
thousandfold up to as many coefficients as examples, and falls again; the networks' rises little
and stays.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"experiment": "bias_variance"})
