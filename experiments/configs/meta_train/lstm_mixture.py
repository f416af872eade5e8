r"""One LSTM optimizer, three tasks at once: an MLP and a conv net on digits, and quadratics.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_mixture.py \
        --workdir=DIR

Meta-gradients are scaled to their own running size, so that the three count alike. The validation
score is the geometric mean over the three tasks of (loss after 100 updates / loss at the start).

Run time: 2 to 7 minutes on one core. Expected: validation score .05.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    digits = {"name": "image_classifier", "dataset": "digits", "batch_size": 32}
    return ConfigDict(
        {
            "seed": 0,
            "rule": {"name": "lstm"},
            "estimator": {
                "name": "mixture",
                "scaling": "running",
                "parts": (
                    {"name": "mlp", "task": digits | {"hidden_sizes": (20,)}},
                    {"name": "conv", "task": digits | {"network": "small_cnn"}},
                    {"name": "quadratics", "task": {"name": "quadratic"}, "mapping": "vmap"},
                ),
            },
            "num_meta_steps": 300,
            "num_tasks": 4,
            "unroll_length": 20,
            "horizon": 100,
            "replay_fraction": 0.2,
            "learning_rate": 3e-3,
            "final_learning_rate": 3e-5,
            "validate_every": 50,
            "validation_problems": 8,
            "log_every": 10,
            "save_every": 50,
        }
    )
