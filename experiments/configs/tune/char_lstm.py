"""Six rules on a character LSTM, 2 × 128.

    python -m experiments.tune --config=experiments/configs/tune/char_lstm.py --workdir=DIR

The text is any file in UTF-8: add --text_file=FILE. Its first 80 % train, the next 10 % validate.
The final spaces are narrowed by hand from initial ones, until no plain default beat a winner.

Run time: about 70 minutes on one core.

Expected on War and Peace: test losses (nats a character) of the winners: SGD 3.10, Momentum 3.09,
Nesterov 3.03, RMSProp 2.86, Adam 2.94, NAdam 3.08, lstm_mnist 2.60, untuned.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "char_lstm",
        {"name": "language_model", "network": "lstm"},
        lanes=5,
        metric="loss",
        num_steps=100,
        segments=5,
    )
