"""Six rules on MNIST, a small convolutional network.

    python -m experiments.tune --config=experiments/configs/tune/cnn_mnist.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The final spaces are narrowed by hand from initial ones, until no plain default beat a winner.

Run time: about 20 minutes on one core.

Expected: test errors of the winners, %: SGD 4.6, Momentum 3.3, Nesterov 3.4, RMSProp 3.1, Adam 2.5,
NAdam 2.5, lstm_mnist 20.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "cnn_mnist",
        {"name": "image_classifier", "dataset": "mnist", "network": "small_cnn", "batch_size": 64},
        lanes=10,
        num_steps=300,
        segments=5,
    )
