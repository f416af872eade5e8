r"""Five surfaces, sixteen starts, six rules; and digits.

    python -m experiments.explorer --config=experiments/configs/explorer/explorer.py --workdir=DIR

Run time: about 1 minute on 1 core.

Expected: explorer.html of 0.9 MB.
"""

from ml_collections import ConfigDict

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "surfaces": ("ravine", "rosenbrock", "beale", "saddle", "multimodal"),
            "rules": (
                ("sgd", RATES),
                ("momentum", RATES),
                ("rmsprop", RATES),
                ("adam", RATES),
                ("general", RATES),
                ("lstm_quadratic", (0.1, 0.3, 1.0)),
            ),
            "start_side": 4,
            "num_steps": 100,
            "training_task": {"name": "image_classifier", "dataset": "digits"},
            "training_rules": (
                ("sgd", 0.3),
                ("momentum", 0.1),
                ("rmsprop", 0.01),
                ("adam", 0.01),
                ("general", 0.03),
                ("lstm_mnist", 1.0),
            ),
            "training_steps": 200,
        }
    )
