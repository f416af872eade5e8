r"""CIFAR-2, airplanes and automobiles: otherwise as cifar10.py.

    python -m experiments.compare --config=experiments/configs/compare/cifar2.py --workdir=DIR

`lstm_cifar10` was meta-trained on all ten labels; lstm_sub_cifar, of meta_train/lstm_sub_cifar.py,
on the five others, so that it was never shown any image of these.

Run time: about 40 minutes on one core. Expected, the mean training loss over 1,000
updates: general .199, lstm_sub_cifar .209, Nesterov .210, lstm_cifar10 .212, Adam .215.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import CIFAR_2, small_cifar
from experiments.configs.compare import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config(small_cifar(CIFAR_2))
    config.rules = ("experiments/thetas/lstm_sub_cifar.npz", *config.rules)
    return config
