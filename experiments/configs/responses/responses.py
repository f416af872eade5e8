r"""What every rule answers to gradients, and each pretrained one beside Adam.

    python -m experiments.responses --config=experiments/configs/responses/responses.py \
        --workdir=DIR

Run time: about 1 minute on 1 core.

Expected: see docs/responses/README.md.
"""

from ml_collections import ConfigDict

PRETRAINED = (
    "general",
    "lstm_cifar10",
    "lstm_mnist",
    "lstm_quadratic",
    "lstm_quadratic_gaussian",
    "lstm_style",
)


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "rules": (
                "sgd",
                "momentum",
                "nesterov",
                "adagrad",
                "adadelta",
                "rmsprop",
                "adam",
                "nadam",
                "adamw",
                "muon",
                *PRETRAINED,
            ),
            "pairs": (*((name, "adam") for name in PRETRAINED), ("momentum", "adam")),
        }
    )
