"""The LSTM optimizer on the paper's MNIST network: 784-20-10, sigmoid, minibatches of 128.

    python -m experiments.meta_train --config=experiments/configs/lstm_mnist.py --workdir=DIR

1.2 million inner steps, about 70 minutes on one CPU core. Unrolls of 20 steps, as in the paper, are
followed by whole unrolls of 100: truncated ones settle on a greedy rule that gives away final loss.
MNIST is read from TFDS_DATA_DIR or --data_dir.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": {
                "name": "image_classifier",
                "dataset": "mnist",
                "hidden_sizes": (20,),
                "activation": "sigmoid",
                "batch_size": 128,
            },
            "rule": {
                "name": "lstm",
                "hidden_sizes": (20, 20),
                "preprocess": "log_sign",
                "output_scale": 0.1,
            },
            "num_meta_steps": 7_000,
            "num_tasks": 4,
            "unroll_length": 20,
            "curriculum": ((5_000, 100),),
            "horizon": 100,
            "learning_rate": 3e-3,
            "final_learning_rate": 3e-5,
            "clip_norm": 20.0,
            "replay_fraction": 0.1,
            "validate_every": 250,
            "validation_problems": 32,
            "validation_window": 10,
            "log_every": 50,
            "save_every": 250,
        }
    )
