r"""Two LSTMs, one for convolution kernels and one for the rest, on the paper's CIFAR-10 network.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_cifar10.py \
        --config.start_from=START/theta.npz --workdir=DIR

START is the work directory of lstm_cifar10_start.py.
Small enough for a CPU: images averaged to 16×16, 8 channels, minibatches of 64. CIFAR-10 is read
from TFDS_DATA_DIR or --data_dir.

Run time: about two and a half hours on one core. Expected: probe .557 at meta-update 1,450; that θ
is experiments/thetas/lstm_cifar10.npz. In compare/cifar10.py, with 10 seeds, 4 rates a decade and
1,000 updates, the sums of its training losses are 186.3 ± 0.6 over 100 steps, 813.5 ± 1.7 over 500
and 1534 ± 3 over 1,000; those of tuned Adam 189.9 ± 0.7, 813.9 ± 1.5 and 1523 ± 4: it is ahead for
some 200 updates, and behind in the end.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import lstm_training, small_cifar


def get_config() -> ConfigDict:
    return lstm_training(small_cifar())
