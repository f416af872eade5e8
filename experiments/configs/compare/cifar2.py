r"""CIFAR-2, airplanes and automobiles: otherwise as cifar10.py.

    python -m experiments.compare --config=experiments/configs/compare/cifar2.py --workdir=DIR

LSTM-sub, which was never shown these labels, is what meta_train/lstm_sub_cifar.py makes:
--config.rules="('LSTM/theta.npz', 'SUB/theta.npz', 'general', 'adam', …)".

Run time: about 75 minutes on one core.

Expected: not run yet.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import CIFAR_2, small_cifar
from experiments.configs.compare import cifar10


def get_config() -> ConfigDict:
    return cifar10.get_config(small_cifar(CIFAR_2))
