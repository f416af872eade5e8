r"""As lstm_cifar10.py, at the paper's size: 32×32 pixels, 16 channels, minibatches of 128.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_cifar10_paper.py \
        --workdir=DIR

Some fifteen times the work an inner step, 80 ms with its meta-gradient on one core; on an
accelerator add --config.mapping=vmap --config.num_tasks=16. CIFAR-10 is read from TFDS_DATA_DIR or
--data_dir.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import lstm_training, paper_cifar


def get_config() -> ConfigDict:
    return lstm_training(paper_cifar())
