r"""Why does Adam's ε matter, and why does nobody use Adadelta?

    python -m experiments.generalization \
        --config=experiments/configs/generalization/epsilon.py --workdir=DIR

Adam and Adadelta with 13 rates × 14 ε on two tasks on digits; the best of them, by validation loss,
on ten fresh seeds; and how long their steps are.

Run time: about seven minutes on one core. Expected: below the size of the gradients Adam's ε does
nothing, above it the best rate grows with ε; Adadelta as published trails tuned Adam on both tasks.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"experiment": "epsilon"})
