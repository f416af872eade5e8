"""When does the test loss turn, and does the validation loss say so in time?

    python -m experiments.generalization \
        --config=experiments/configs/generalization/early_stopping.py --workdir=DIR

Four hand-designed and learned rules and the LSTM of the 2016 paper train a perceptron on 200 of the
digits that come with scikit-learn, 20 times with other examples, far beyond the point at which the
test loss is lowest. Needs no download.

Run time: about 8 minutes on one core, 5 of them for the LSTM.

Expected: the training loss goes to zero with every rule; the test loss turns and rises, the test
error hardly does; patience comes close to the oracle.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "experiment": "early_stopping",
            "seed": 0,
            "task": {
                "name": "image_classifier",
                "dataset": "digits",
                "hidden_sizes": (64,),
                "activation": "relu",
                "batch_size": 32,
            },
            "sizes": {"train": 200, "valid": 100, "test": 1497},
            "num_samples": 20,
            "num_steps": 2000,
            "checks": 50,
            "rules": (
                ("sgd", (0.03, 0.1, 0.3, 1.0)),
                ("adam", (3e-4, 1e-3, 3e-3, 1e-2)),
                ("muon", (3e-4, 1e-3, 3e-3, 1e-2)),
                ("general", (1e-3, 3e-3, 1e-2, 3e-2)),
                ("lstm_mnist", (0.01, 0.03, 0.1, 0.3)),  # factors on its steps
            ),
            "patiences": (2, 5, 10),
        }
    )
