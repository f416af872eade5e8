"""Six rules on a small character transformer.

    python -m experiments.tune --config=experiments/configs/tune/char_transformer.py --workdir=DIR

The text is any file in UTF-8: add --text_file=FILE. Its first 80 % train, the next 10 % validate.
The final spaces are narrowed by hand from initial ones, until no plain default beat a winner.

Run time: about 45 minutes on one core.

Expected on War and Peace: test losses (nats a character) of the winners: SGD 2.70, Momentum 2.64,
Nesterov 2.62, RMSProp 2.42, Adam 2.38, NAdam 2.41, lstm_mnist 48: it fails.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "char_transformer",
        {"name": "language_model", "network": "transformer", "hidden_size": 64, "num_layers": 2},
        lanes=5,
        metric="loss",
        num_steps=100,
        segments=5,
    )
