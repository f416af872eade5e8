r"""Two LSTMs, one for convolution kernels and one for the rest, on the paper's CIFAR-10 network.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_cifar10.py \
        --config.start_from=START/theta.npz --workdir=DIR

START is the work directory of lstm_cifar10_start.py.
Small enough for a CPU: images averaged to 16×16, 8 channels, minibatches of 64. CIFAR-10 is read
from TFDS_DATA_DIR or --data_dir.

Expected: not run to its end, some 3 hours on one core. 200 meta-updates lower the loss over the
first 100 steps, which is the meta-loss, from 1.98 to 1.88, and raise that of late steps.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import lstm_training, small_cifar


def get_config() -> ConfigDict:
    return lstm_training(small_cifar())
