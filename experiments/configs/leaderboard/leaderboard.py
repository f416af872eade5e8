"""Eleven rules on ten workloads, from digits to a character transformer.

    python -m experiments.leaderboard --config=experiments/configs/leaderboard/leaderboard.py \
        --text_file=FILE --workdir=DIR
    python -m experiments.leaderboard_report --workdirs=DIR --output=docs/leaderboard

Data are read from TFDS_DATA_DIR or --data_dir; the text is any file in UTF-8. None of the workloads
is one that a rule was meta-trained on, but for `lstm_mnist`, which was trained on mnist_mlp.
Celo2's published weights are read from --config.celo2_weights=PATH, and left out without it.

Run time: about 70 minutes on one core, half of them for the LSTM rules.

Expected: see docs/leaderboard/README.md.
"""

from typing import Any

from ml_collections import ConfigDict

from learned_opt.studies.rate_search import half_decades

GENERAL_RATE = 0.03  # the default learning rate of `general`


def get_config() -> ConfigDict:
    images: dict[str, Any] = {"name": "image_classifier"}
    text: dict[str, Any] = {
        "name": "language_model",
        "length": 32,
        "batch_size": 32,
        "evaluation_pieces": 200,
    }
    workloads: dict[str, tuple[dict[str, Any], int, int]] = {
        "digits_mlp": (
            images | {"dataset": "digits", "hidden_sizes": (32,), "activation": "relu"},
            64,
            200,
        ),
        "digits_cnn": (images | {"dataset": "digits", "network": "normed_cnn"}, 64, 200),
        "mnist_mlp": (
            images | {"dataset": "mnist", "hidden_sizes": (20,), "activation": "sigmoid"},
            128,
            1000,
        ),
        "fashion_mlp": (
            images | {"dataset": "fashion_mnist", "hidden_sizes": (100,), "activation": "relu"},
            128,
            600,
        ),
        "fashion_cnn": (images | {"dataset": "fashion_mnist", "network": "small_cnn"}, 64, 400),
        "cifar10_cnn": (images | {"dataset": "cifar10", "network": "pooled_cnn"}, 64, 500),
        "char_lstm": (
            text | {"network": "lstm", "hidden_size": 64, "num_layers": 1},
            32,
            400,
        ),
        "char_transformer": (
            text | {"network": "transformer", "hidden_size": 32, "num_layers": 2},
            32,
            400,
        ),
        "diabetes": (
            {"name": "regression", "hidden_sizes": (32, 32), "activation": "tanh"},
            32,
            200,
        ),
        "mnist_autoencoder": (
            {"name": "autoencoder", "dataset": "mnist", "hidden_sizes": (64, 16, 64)},
            64,
            400,
        ),
    }
    rules = {
        "adam": {"rule": "adam", "rates": half_decades(1e-4), "adam_factor": 4},
        "adamw_cosine": {
            "rule": "adamw",
            "schedule": "cosine",
            "weight_decay": (1e-4, 1e-1),
            "rates": half_decades(1e-3),
        },
        "nag_cosine": {"rule": "nag", "schedule": "cosine", "rates": half_decades(1e-3)},
        "muon_cosine": {"rule": "muon", "schedule": "cosine", "rates": half_decades(1e-3)},
        "schedule_free_adamw": {"rule": "schedule_free_adamw", "rates": half_decades(1e-3)},
        "celo2_cosine": {"rule": "celo2", "schedule": "cosine", "rates": half_decades(1e-4)},
        "lstm_mnist": {"rule": "lstm_mnist", "rates": half_decades(1e-2)},
        "lstm_mnist_guarded": {"rule": "lstm_mnist", "guard": True, "rates": (1.0,)},
        "general": {
            "rule": "general",
            "schedule": "cosine",
            "rates": half_decades(1e-3),
        },
        "general_default": {"rule": "general", "schedule": "cosine", "rates": (GENERAL_RATE,)},
        "general_guarded": {
            "rule": "general",
            "schedule": "cosine",
            "guard": True,
            "rates": (GENERAL_RATE,),
        },
    }
    return ConfigDict(
        {
            "seed": 0,
            "workloads": {
                name: {"task": task | {"batch_size": batch_size}, "num_steps": num_steps}
                for name, (task, batch_size, num_steps) in workloads.items()
            },
            "rules": rules,
            "num_seeds": 5,
            "search_seeds": 2,
            "points": 50,
            "timed": ("digits_mlp", "mnist_autoencoder", "char_transformer"),
            "celo2_weights": "",
            "task": {},
        }
    )
