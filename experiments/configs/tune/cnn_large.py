"""Six rules on Fashion-MNIST, a small convolutional network, with a budget for accelerators.

    python -m experiments.tune --config=experiments/configs/tune/cnn_large.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=32` suggested.

Run time: about a day on one accelerator; several machines share it with --config.num_shards.

Expected: not run yet.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "cnn_fashion_mnist",
        {
            "name": "image_classifier",
            "dataset": "fashion_mnist",
            "network": "small_cnn",
            "batch_size": 256,
        },
        lanes=50,
        num_steps=10000,
        num_trials=500,
        winner_seeds=100,
    )
