"""Why do rules learned on a sigmoid network fail on ReLU networks, and what cures it?

    python -m experiments.relu_study --config=experiments/configs/relu_study/relu_study.py \
        --workdir=DIR

Six learners with the same budget of inner steps, tested on 27 networks on the digits that come with
scikit-learn, and on MNIST's 784-20-10 and 784-100-10, which is read from TFDS_DATA_DIR.

Run time: about 50 minutes on one core.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    digits = {"name": "image_classifier", "dataset": "digits", "batch_size": 64}
    network = digits | {"hidden_sizes": (20,), "activation": "sigmoid"}
    mixed = {
        "sigmoid_20": {"hidden_sizes": (20,), "activation": "sigmoid"},
        "tanh_40": {"hidden_sizes": (40,), "activation": "tanh"},
        "relu_64": {"hidden_sizes": (64,), "activation": "relu"},
        "relu_32x32": {"hidden_sizes": (32, 32), "activation": "relu"},
    }

    def imitation(weight):
        return {
            "name": "mixture",
            "scaling": "running",
            "parts": (
                {"name": "digits", "task": network},
                {
                    "name": "adam",
                    "task": network,
                    "weight": weight,
                    "estimator": {"name": "imitation", "teacher_rate": 0.03},
                },
            ),
        }

    mnist = {"name": "image_classifier", "dataset": "mnist", "batch_size": 128}
    return ConfigDict(
        {
            "seed": 0,
            "inner_steps": 40_000,
            "common": {
                "task": network,
                "num_tasks": 8,
                "unroll_length": 20,
                "horizon": 100,
                "replay_fraction": 0.3,
                "learning_rate": 3e-3,
                "final_learning_rate": 3e-4,
                "validate_every": 50,
                "validation_problems": 16,
                "save_every": 100,
            },
            "learners": {
                "lstm": ({},),
                "rnnprop": ({"rule": {"name": "rnnprop"}},),
                "rnnprop_tricks": (
                    {
                        "rule": {"name": "rnnprop"},
                        "task": network | {"name": "experiments.common.relu_tasks:with_tricks"},
                    },
                ),
                "lstm_mixture": (
                    {
                        "num_tasks": 2,
                        "estimator": {
                            "name": "mixture",
                            "scaling": "running",
                            "parts": tuple(
                                {"name": name, "task": digits | settings}
                                for name, settings in mixed.items()
                            ),
                        },
                    },
                ),
                "lstm_curriculum": (
                    {"share": 2.0, "num_tasks": 4, "estimator": imitation(1.0)},
                    {"share": 1.5, "num_tasks": 4, "estimator": imitation(0.3), "horizon": 200},
                    {"share": 1.5, "horizon": 500, "learning_rate": 1e-3},
                ),
                "lstm_fan_in": ({"rule": {"name": "lstm", "fan_in": 20}, "replay_fraction": 1.0},),
            },
            "task": digits,
            "max_work": 7e6,
            "extra": tuple(
                (
                    f"MNIST {activation} 784-{width}-10",
                    mnist | {"hidden_sizes": (width,), "activation": activation},
                )
                for activation in ("sigmoid", "relu")
                for width in (20, 100)
            ),
        }
    )
