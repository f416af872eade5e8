r"""The LSTM optimizer on 10-dimensional quadratics with W and y uniform in [0, 1).

python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_quadratic.py \
    --workdir=DIR
"""

from ml_collections import ConfigDict


def get_config(family: str = "uniform") -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": {"name": "quadratic", "num_dims": 10, "family": family},
            "rule": {
                "name": "lstm",
                "hidden_sizes": (20, 20),
                "preprocess": None,
                "output_scale": 0.1,
            },
            "num_meta_steps": 20_000,
            "num_tasks": 128,
            "unroll_length": 20,
            "horizon": 100,
            "learning_rate": 3e-3,
            "final_learning_rate": 3e-5,
            "clip_norm": 1.0,
            "mapping": "vmap",
            "block_size": 0,
            "validate_every": 100,  # the score moves much from one to the next
            "validation_problems": 2048,
            "validation_window": 1,
            "log_every": 100,
            "save_every": 1000,
        }
    )
