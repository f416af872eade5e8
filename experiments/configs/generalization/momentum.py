r"""Why does momentum overshoot and circle, and when does it not converge?

    python -m experiments.generalization \
        --config=experiments/configs/generalization/momentum.py --workdir=DIR

The theory of momentum on quadratics, measured; gradient descent, heavy ball, Nesterov, Adam and two
learned rules in ravines of growing condition number and beside a saddle.

Run time: about five minutes on one core.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"experiment": "momentum"})
