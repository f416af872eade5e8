"""Six rules tuned over all of their hyperparameters on scikit-learn's digits, 50 trials each.

    python -m experiments.tune --config=experiments/configs/tune_digits.py --workdir=DIR

Run time: about 2 minutes on 2 cores.

Expected: RULES
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "workload": "mlp_digits",
            "task": {
                "name": "image_classifier",
                "dataset": "digits",
                "hidden_sizes": (32,),
                "activation": "relu",
                "batch_size": 64,
            },
            "rules": ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam", "lstm_mnist"),
            "spaces": "experiments/spaces/mlp_digits",
            "num_trials": 50,
            "num_steps": 500,
            "segments": 10,
            "lanes": 50,
            "metric": "error",
            "winner_seeds": 10,
        }
    )
