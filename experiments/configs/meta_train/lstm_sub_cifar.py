r"""LSTM-sub: as lstm_cifar10.py, but it never sees the labels of CIFAR-5 and CIFAR-2.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_sub_cifar.py \
        --config.start_from=START/theta.npz --workdir=DIR

START is the work directory of lstm_sub_cifar_start.py.
Trained on dogs, frogs, horses, ships and trucks; CIFAR-5 is airplanes, automobiles, birds, cats and
deer, and CIFAR-2 the first two of them.

Run time: an hour to meta-update 1,300 on one core, two hours to the end. Expected: probe .349 at
meta-update 1,250, the best of the first 1,300, after which the run was stopped: that θ, with steps
made longer by experiments.step_lengths and the config of the same name, is
experiments/thetas/lstm_sub_cifar.npz.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import HELD_OUT, lstm_training, small_cifar


def get_config() -> ConfigDict:
    return lstm_training(small_cifar(HELD_OUT))
