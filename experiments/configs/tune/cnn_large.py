"""Six rules on Fashion-MNIST, a small convolutional network, with a budget for accelerators.

    python -m experiments.tune --config=experiments/configs/tune/cnn_large.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=32` suggested.

Run time: about a day on one accelerator; several machines share it with --config.num_shards.

Expected: not run yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "workload": "cnn_fashion_mnist",
            "task": {
                "name": "image_classifier",
                "dataset": "fashion_mnist",
                "network": "small_cnn",
                "batch_size": 256,
            },
            "rules": ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam", "lstm_mnist"),
            "spaces": "experiments/spaces/cnn_fashion_mnist",
            "levels": ("final",),
            "num_trials": 500,
            "num_steps": 10000,
            "num_seeds": 1,
            "segments": 10,
            "lanes": 50,
            "metric": "error",
            "winner_seeds": 100,
        }
    )
