r"""What every rule answers to gradients, and each pretrained one beside Adam.

    python -m experiments.responses --config=experiments/configs/responses/responses.py \
        --workdir=DIR

Run time: about 1 minute on 1 core.

Expected: see docs/responses/README.md.
"""

from ml_collections import ConfigDict

from learned_opt.pretrained import pretrained_names


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
                *pretrained_names(),
            ),
            "pairs": (*((name, "adam") for name in pretrained_names()), ("momentum", "adam")),
        }
    )
