r"""Why does Adam's ε matter, and why does nobody use Adadelta?

    python -m experiments.generalization \
        --config=experiments/configs/generalization/epsilon.py --workdir=DIR

Adam and Adadelta with 14 rates × 15 ε on two tasks on digits; the best of them, by validation loss,
on ten fresh seeds; and how long their steps are.

Run time: about five minutes on one core.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"experiment": "epsilon"})
