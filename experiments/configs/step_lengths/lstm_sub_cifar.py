r"""The lengths of LSTM-sub's steps, as lstm_cifar10.py, on the labels that it may see.

    python -m experiments.step_lengths --config=experiments/configs/step_lengths/lstm_sub_cifar.py \
        --config.theta=TRAINED/theta.npz --workdir=DIR

TRAINED is the work directory of meta_train/lstm_sub_cifar.py.

Run time: about 6 minutes on one core. Expected: conv × 2.83, rest × 1; the mean training loss over
1,000 steps is then 0.726, and 0.757 before.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import HELD_OUT, small_cifar
from experiments.configs.step_lengths import lstm_cifar10


def get_config() -> ConfigDict:
    return lstm_cifar10.get_config(small_cifar(HELD_OUT))
