"""10-dimensional quadratics, W and y uniform in [0, 1): the pretrained LSTM beside tuned rules.

    python -m experiments.compare --config=experiments/configs/compare/quadratic.py --workdir=DIR

Run time: about 1 minute on 2 cores.

Expected, mean loss at step 100 over 4,096 fresh functions (± .002): SGD .208, Nesterov .077,
Momentum .060, Adam .094, RMSProp .174; the LSTM below all of them (its card has the number).

With four learning rates a decade the tuned rules are those of the literature. Curvature varies so
much between the functions that a finer grid finds still better ones on the brink of divergence:
with --config.tuning.per_decade=16 SGD .172, Momentum .050.
"""

from ml_collections import ConfigDict


def get_config(family: str = "uniform", per_decade: int = 4) -> ConfigDict:
    learned = "lstm_quadratic" if family == "uniform" else "lstm_quadratic_gaussian"
    return ConfigDict(
        {
            "seed": 0,
            "task": {"name": "quadratic", "num_dims": 10, "family": family},
            "rules": ("sgd", "nesterov", "momentum", "rmsprop", "adam", learned),
            "num_seeds": 4096,
            "num_steps": 100,
            "report_steps": (20, 50, 100),
            "tuning": {
                "num_steps": (100,),
                "num_seeds": 4096,
                "low": 1e-3,
                "high": 1.0,
                "per_decade": per_decade,
            },
        }
    )
