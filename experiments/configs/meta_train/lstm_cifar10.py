r"""Two LSTMs, one for convolution kernels and one for the rest, on the paper's CIFAR-10 network.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_cifar10.py \
        --config.start_from=START/theta.npz --workdir=DIR

START is the work directory of lstm_cifar10_start.py.
Small enough for a CPU: images averaged to 16×16, 8 channels, minibatches of 64. CIFAR-10 is read
from TFDS_DATA_DIR or --data_dir.

Run time: about two and a half hours on one core. Expected: probe .557 at meta-update 1,450. Its
steps are then made longer by experiments.step_lengths, with the config of the same name: that is
`learned_opt.pretrained('lstm_cifar10')`.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import lstm_training, small_cifar


def get_config() -> ConfigDict:
    return lstm_training(small_cifar())
