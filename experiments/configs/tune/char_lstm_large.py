"""Six rules on a character LSTM, 2 × 128, with a budget for accelerators.

    python -m experiments.tune --config=experiments/configs/tune/char_lstm_large.py --workdir=DIR

The text is any file in UTF-8: add --text_file=FILE. Its first 80 % train, the next 10 % validate.
The spaces are initial ones: no study has narrowed them.

Run time: about a day on one accelerator; several machines share it with --config.num_shards.

Expected: not run yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "workload": "char_lstm",
            "task": {"name": "language_model", "network": "lstm"},
            "rules": ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam", "lstm_mnist"),
            "spaces": "experiments/spaces/char_lstm",
            "levels": ("initial",),
            "num_trials": 500,
            "num_steps": 200000,
            "num_seeds": 1,
            "segments": 10,
            "lanes": 50,
            "metric": "loss",
            "winner_seeds": 100,
        }
    )
