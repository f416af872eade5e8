r"""Why does momentum overshoot and circle, and when does it not converge?

    python -m experiments.generalization \
        --config=experiments/configs/generalization/momentum.py --workdir=DIR

The theory of momentum on quadratics, measured; gradient descent, Momentum, Nesterov, Adam and two
learned rules in ravines of growing condition number and beside a saddle.

Run time: about three minutes on one core. Expected: the measured rates are those of the theory;
steps grow with κ for gradient descent and with its root for momentum; Adam and the learned rules
leave a saddle in a time that does not depend on where they start.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"experiment": "momentum"})
