"""Six rules on scikit-learn's digits, an MLP, from learning rates alone to everything tuned.

    python -m experiments.tune --config=experiments/configs/tune/digits.py --workdir=DIR

Each trial is the mean over 4 seeds, for the validation split has but 360 examples.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=32` suggested.

Run time: about 8 minutes on 2 cores.

Expected: test errors of the winners in the final spaces, %: SGD 2.4, Momentum 2.3, Nesterov 2.5,
RMSProp 2.8 (2.5 in another run, where another of its trials won), Adam 2.7, NAdam 2.2 (each
± .1), lstm_mnist 4.3.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "mlp_digits",
        {
            "name": "image_classifier",
            "dataset": "digits",
            "hidden_sizes": (32,),
            "activation": "relu",
            "batch_size": 64,
        },
        lanes=50,
        levels=("learning_rate", "momentum", "eps", "final"),
        num_seeds=4,
        num_steps=500,
    )
