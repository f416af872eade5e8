r"""The LSTM optimizer on the paper's MNIST network: 784-20-10, sigmoid, minibatches of 128.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_mnist.py \
        --workdir=DIR

Four stages: unrolls of 20 steps, as in the paper; whole unrolls of 100, because truncated ones
settle on a greedy rule that gives away final loss; and twice, from the best θ so far, whole unrolls
with a low learning rate and losses weighted by their step, linearly and then by its fourth power,
because late losses are what an optimizer is judged by.
MNIST is read from TFDS_DATA_DIR or --data_dir.

2.32 million inner steps, 172 minutes: 115 on one core to meta-update 7,000, then 57 on two, with a
process each (--num_processes=2) and the same command otherwise.

Expected: validation score .255 (Nesterov, finely tuned: .31). Another machine, another version of
JAX or another number of processes rounds differently, and training amplifies that: expect the third
digit to differ.
"""

from ml_collections import ConfigDict

from experiments.common.small_mlp import small_mlp


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": small_mlp("mnist"),
            "rule": {
                "name": "lstm",
                "hidden_sizes": (20, 20),
                "preprocess": "log_sign",
                "output_scale": 0.1,
            },
            "num_meta_steps": 9_800,
            "num_tasks": 4,
            "unroll_length": 20,
            "curriculum": (
                (5_000, {"unroll_length": 100}),
                (
                    7_000,
                    {
                        "learning_rate": 3e-4,
                        "final_learning_rate": 3e-6,
                        "weight_power": 1.0,
                        "replay_fraction": 0.05,
                    },
                ),
                (
                    8_200,
                    {"learning_rate": 3e-4, "final_learning_rate": 3e-6, "weight_power": 4.0},
                ),
            ),
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
