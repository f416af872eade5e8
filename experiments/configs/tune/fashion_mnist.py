"""Six rules on Fashion-MNIST, an MLP with 100 ReLU units.

    python -m experiments.tune --config=experiments/configs/tune/fashion_mnist.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=16` suggested.

Run time: about 45 minutes on one core.

Expected: test errors of the winners in the final spaces, %: SGD 15.8, Momentum 14.6, Nesterov 13.5,
RMSProp 12.9, Adam 13.9, NAdam 13.3, the learned rule 33.
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
            "levels": ("final",),
            "num_trials": 50,
            "num_steps": 1000,
            "num_seeds": 1,
            "segments": 10,
            "lanes": 10,
            "metric": "error",
            "winner_seeds": 10,
        }
    )
