"""Six rules tuned over all of their hyperparameters on Fashion-MNIST, an MLP, 64 trials each.

    python -m experiments.tune --config=experiments/configs/tune_fashion_mnist.py --workdir=DIR

Fashion-MNIST is read from TFDS_DATA_DIR or --data_dir.

Run time: RUNTIME

Expected: RULES
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "workload": "mlp_fashion_mnist",
            "task": {
                "name": "image_classifier",
                "dataset": "fashion_mnist",
                "hidden_sizes": (100,),
                "activation": "relu",
                "batch_size": 128,
            },
            "rules": ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam", "lstm_mnist"),
            "spaces": "experiments/spaces/mlp_fashion_mnist",
            "num_trials": 64,
            "num_steps": 1000,
            "segments": 10,
            "lanes": 64,
            "metric": "error",
            "winner_seeds": 10,
        }
    )
