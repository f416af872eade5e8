"""Six rules on 10-dimensional quadratics, from learning rates alone to everything tuned.

    python -m experiments.tune --config=experiments/configs/tune/quadratics.py --workdir=DIR

Each trial is the mean over 64 functions.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=32` suggested.

Run time: about 3 minutes on 2 cores.

Expected: test losses of the winners in the final spaces: SGD .19, Momentum .068, Nesterov .075,
RMSProp .067, Adam .084, NAdam .078, lstm_quadratic .040. With the learning rate alone RMSProp is
the last; with ε and ρ it is the first of the tuned ones.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import TUNED, study_config


def get_config() -> ConfigDict:
    return study_config(
        "quadratics",
        {"name": "quadratic", "num_dims": 10, "family": "uniform"},
        lanes=50,
        levels=("learning_rate", "momentum", "eps", "final"),
        metric="loss",
        num_seeds=64,
        num_steps=100,
        rules=(*TUNED, "lstm_quadratic"),
    )
