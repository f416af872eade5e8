"""10,000 steps from 20 seeds on five small workloads, at each rule's default rate.

    python -m experiments.stability --config=experiments/configs/stability/stability.py \
        --workdir=DIR

MNIST is read from TFDS_DATA_DIR or --data_dir.

Run time: about 15 minutes on one core without lstm_mnist, whose step is many times as long; leave
it out with --rules=adam,general,general_guarded.

Expected: see docs/leaderboard/README.md.
"""

from ml_collections import ConfigDict

GENERAL_RATE = 0.03  # the default learning rate of `general`


def get_config() -> ConfigDict:
    images = {"name": "image_classifier"}
    tasks = {
        "digits_mlp": images
        | {"dataset": "digits", "hidden_sizes": (32,), "activation": "relu", "batch_size": 64},
        "mnist_mlp": images
        | {"dataset": "mnist", "hidden_sizes": (20,), "activation": "sigmoid", "batch_size": 128},
        "diabetes": {"name": "regression", "hidden_sizes": (32, 32), "activation": "tanh"},
        "digits_autoencoder": {
            "name": "autoencoder",
            "hidden_sizes": (32, 8, 32),
            "batch_size": 64,
        },
        "quadratics": {"name": "quadratic", "num_dims": 10, "family": "uniform"},
    }
    rules = {
        "adam": {"rule": "adam", "rates": (1e-3,)},
        "general": {"rule": "general", "rates": (GENERAL_RATE,)},
        "general_guarded": {"rule": "general", "guard": True, "rates": (GENERAL_RATE,)},
        "lstm_mnist": {"rule": "lstm_mnist", "rates": (1.0,)},
        "lstm_mnist_guarded": {"rule": "lstm_mnist", "guard": True, "rates": (1.0,)},
    }
    return ConfigDict(
        {
            "seed": 0,
            "workloads": {
                name: {"task": task, "num_steps": 10_000} for name, task in tasks.items()
            },
            "rules": rules,
            "num_seeds": 20,
            "points": 50,
            "task": {},
        }
    )
