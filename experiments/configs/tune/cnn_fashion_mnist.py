"""Six rules on Fashion-MNIST, a small convolutional network.

    python -m experiments.tune --config=experiments/configs/tune/cnn_fashion_mnist.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=16` suggested.

Run time: about 30 minutes on one core.

Expected: test errors of the winners in the final spaces, %: SGD 18.2, Momentum 16.1, Nesterov
15.9, RMSProp 14.7, Adam 14.6, NAdam 15.7, lstm_mnist 30.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "cnn_fashion_mnist",
        {
            "name": "image_classifier",
            "dataset": "fashion_mnist",
            "network": "small_cnn",
            "batch_size": 64,
        },
        lanes=10,
        num_steps=300,
        segments=5,
    )
