r"""Where `lstm_cifar10` starts: two LSTMs that imitate Adam on its own trajectories.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_cifar10_start.py \
        --workdir=DIR

From a random θ, truncated backpropagation on horizons of 100, 300 and 1,000 found nothing better
at 1,000 steps than what it had after 200 meta-updates, a probe of .589. Adam's learning rate is the
best of four a decade for the training loss after 1,000 steps.

Run time: 6 minutes on one core. Expected: probe .554; in compare/cifar10.py a mean training loss
over 1,000 steps of 1.572 (tuned Adam: 1.519).
"""

from ml_collections import ConfigDict

from experiments.common.cifar import imitation, small_cifar


def get_config() -> ConfigDict:
    return imitation(small_cifar())
