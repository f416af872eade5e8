"""CIFAR-2, airplanes and automobiles: LSTM-sub, which was never shown its labels, and others.

    python -m experiments.compare --config=experiments/configs/compare/cifar2.py --workdir=DIR

Otherwise as cifar10.py: the labels of CIFAR-2 alone, and `lstm_sub_cifar` among the rules.

Run time: about 80 minutes on one core.

Expected: not run yet.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import CIFAR_2, small_cifar
from experiments.configs.compare import cifar10


def get_config() -> ConfigDict:
    learned = ("lstm_cifar10", "lstm_sub_cifar", "general")
    return cifar10.get_config(small_cifar(CIFAR_2), learned)
