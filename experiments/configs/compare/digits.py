"""Scikit-learn's digits, MLP 64-20-10: the LSTM trained on MNIST, on data that it has never seen.

    python -m experiments.compare --config=experiments/configs/compare/digits.py --workdir=DIR

The data ship with scikit-learn.

Run time: about 1 minute on 2 cores.

Expected, mean training loss at step 100 over 64 seeds (± .003): SGD .169, Nesterov .047, Momentum
.059, RMSProp .120, Adam .056, Muon .030, each tuned on this very problem; the LSTM, which is not,
is reported as found.
"""

from ml_collections import ConfigDict

from experiments.common.small_mlp import small_mlp


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": small_mlp("digits"),
            "rules": ("sgd", "nesterov", "momentum", "rmsprop", "adam", "muon", "lstm_mnist"),
            "num_seeds": 64,
            "num_steps": 100,
            "report_steps": (20, 50, 100),
            "tuning": {
                "num_steps": (100,),
                "num_seeds": 8,
                "low": 1e-3,
                "high": 1.0,
                "per_decade": 8,
            },
        }
    )
