"""Six rules on Fashion-MNIST, an MLP with 100 ReLU units.

    python -m experiments.tune --config=experiments/configs/tune/fashion_mnist.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=16` suggested.

Run time: about 45 minutes on one core.

Expected: test errors of the winners in the final spaces, %: SGD 15.8, Momentum 14.6, Nesterov 13.5,
RMSProp 12.9, Adam 13.9, NAdam 13.3, lstm_mnist 33.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "mlp_fashion_mnist",
        {
            "name": "image_classifier",
            "dataset": "fashion_mnist",
            "hidden_sizes": (100,),
            "activation": "relu",
            "batch_size": 128,
        },
        lanes=10,
        num_steps=1000,
    )
