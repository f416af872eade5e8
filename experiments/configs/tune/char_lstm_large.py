"""Six rules on a character LSTM, 2 × 128, with a budget for accelerators.

    python -m experiments.tune --config=experiments/configs/tune/char_lstm_large.py --workdir=DIR

The text is any file in UTF-8: add --text_file=FILE. Its first 80 % train, the next 10 % validate.
The spaces are initial ones: no study has narrowed them.

Run time: about a day on one accelerator; several machines share it with --config.num_shards.

Expected: not run yet.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "char_lstm",
        {"name": "language_model", "network": "lstm"},
        lanes=50,
        levels=("initial",),
        metric="loss",
        num_steps=200000,
        num_trials=500,
        winner_seeds=100,
    )
