"""Six rules on Fashion-MNIST, a small convolutional network.

    python -m experiments.tune --config=experiments/configs/tune/cnn_fashion_mnist.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=16` suggested.

Run time: about 30 minutes on one core.

Expected: test errors of the winners in the final spaces, %: SGD 18.2, Momentum 16.1, Nesterov
15.9, RMSProp 14.7, Adam 14.6, NAdam 15.7, the learned rule 30.
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
                "batch_size": 64,
            },
            "rules": ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam", "lstm_mnist"),
            "spaces": "experiments/spaces/cnn_fashion_mnist",
            "levels": ("final",),
            "num_trials": 50,
            "num_steps": 300,
            "num_seeds": 1,
            "segments": 5,
            "lanes": 10,
            "metric": "error",
            "winner_seeds": 10,
        }
    )
