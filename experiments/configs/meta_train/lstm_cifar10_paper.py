r"""As lstm_cifar10.py, at the paper's size: 32×32 pixels, 16 channels, minibatches of 128.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_cifar10_paper.py \
        --config.start_from=learned_opt/pretrained/lstm_cifar10.npz --workdir=DIR

Some fifteen times the work an inner step, 80 ms with its meta-gradient on one core: so few
meta-updates, from where the small network's many have led. On an accelerator add
--config.mapping=vmap --config.num_tasks=16 --config.num_meta_steps=1600. CIFAR-10 is read from
TFDS_DATA_DIR or --data_dir.
"""

from ml_collections import ConfigDict

from experiments.common.cifar import lstm_training, paper_cifar


def get_config() -> ConfigDict:
    config = lstm_training(paper_cifar())
    config.num_meta_steps = 46
    config.curriculum = (
        (24, {"horizon": 300, "unroll_length": 300}),
        (40, {"horizon": 1_000, "unroll_length": 1_000}),
    )
    config.learning_rate = 5e-4
    (probe,) = config.probe
    config.probe = ({**probe, "num_seeds": 1},)
    config.validate_every = 23
    config.log_every = 1
    config.save_every = 2
    return config
