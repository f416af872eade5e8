"""The arrows of Choi et al. (2019) on quadratics and on a small network, ε from 1e2 to 1e10.

    python -m experiments.inclusion --config=experiments/configs/inclusion/arrows.py --workdir=DIR

Run time: about 1 minute on 2 cores.

Expected: exact inclusions differ by rounding alone; for the others error × ε is the same number, to
a few percent, at every ε.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "tasks": {
                "quadratic": {"name": "quadratic"},
                "digits": {
                    "name": "image_classifier",
                    "dataset": "digits",
                    "hidden_sizes": (16,),
                    "batch_size": 64,
                },
            },
            "learning_rates": {"quadratic": 0.01, "digits": 0.1},
            "momentum": 0.9,
            "decay_factor": 0.01,
            "num_steps": 200,
            "eps": tuple(10.0**n for n in range(2, 11)),
        }
    )
