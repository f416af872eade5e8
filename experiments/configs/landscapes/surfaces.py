r"""Every rule on every 2-D surface, 200 updates.

    python -m experiments.landscapes --config=experiments/configs/landscapes/surfaces.py \
        --workdir=DIR

Run time: about 1 minute on 2 cores.

Expected: most hand-designed rules come close to a minimum on every surface that has one; RMSProp
keeps circling it, and Adadelta, whose learning rate ends at 1 here, hardly leaves the start of
Beale's function and Rosenbrock's. The LSTMs were trained on other problems: they do well on the
ravine, those for quadratics on Beale's function too, and get lost on some of the others.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "surfaces": ("saddle", "rosenbrock", "beale", "ravine", "multimodal"),
            "rules": (
                "sgd",
                "momentum",
                "nesterov",
                "adagrad",
                "adadelta",
                "rmsprop",
                "adam",
                "nadam",
                "adamw",
                "muon",
                "lstm_quadratic",
                "lstm_quadratic_gaussian",
                "lstm_mnist",
            ),
            "num_steps": 200,
            "tune_unbounded_on": "ravine",
            "tuning": {
                "num_steps": (200,),
                "num_seeds": 1,
                "low": 1e-4,
                "high": 1.0,
                "per_decade": 8,
                "max_extensions": 0,
                "split": "",
                "window": 100,
            },
        }
    )
