"""Six rules on a character LSTM, 2 × 128.

    python -m experiments.tune --config=experiments/configs/tune/char_lstm.py --workdir=DIR

The text is any file in UTF-8: add --text_file=FILE. Its first 80 % train, the next 10 % validate.
The spaces are initial ones: no study has narrowed them.

Run time: about 70 minutes on one core.

Expected on War and Peace: test losses (nats a character) of the winners: SGD 3.10, Momentum 3.09,
Nesterov 3.03, RMSProp 2.86, Adam 2.94, NAdam 3.08, the learned rule 2.60, untuned.
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
            "num_trials": 50,
            "num_steps": 100,
            "num_seeds": 1,
            "segments": 5,
            "lanes": 5,
            "metric": "loss",
            "winner_seeds": 10,
        }
    )
