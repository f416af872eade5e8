r"""Where LSTM-sub starts: as lstm_cifar10_start.py, on the labels that LSTM-sub may see.

    python -m experiments.meta_train \
        --config=experiments/configs/meta_train/lstm_sub_cifar_start.py --workdir=DIR

Run time: 4 minutes on one core. Expected: probe .361, at meta-update 40.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import HELD_OUT, imitation, small_cifar


def get_config() -> ConfigDict:
    return imitation(small_cifar(HELD_OUT))
