"""Six rules on a character LSTM, 2 × 128.

    python -m experiments.tune --config=experiments/configs/tune/char_lstm.py --workdir=DIR

The text is any file in UTF-8: add --text_file=FILE. Its first 80 % train, the next 10 % validate.
The final spaces are narrowed by hand from initial ones, until no plain default beat a winner.

Run time: about 70 minutes on one core.

Expected on War and Peace: test losses (nats a character) of the winners: SGD 5.2 ± 1.1 (3 of 10
seeds end above their start), Momentum 3.06, Nesterov 2.98, RMSProp 2.04, Adam 2.16, NAdam 2.34,
lstm_mnist 2.56.
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
