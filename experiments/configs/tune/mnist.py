"""Six rules on MNIST, the LSTM paper's network, from learning rates alone to everything tuned.

    python -m experiments.tune --config=experiments/configs/tune/mnist.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The final spaces are those that `--config.levels="('initial',)" --config.num_trials=32` suggested.

Run time: about 5 minutes on 2 cores.

Expected: test errors of the winners in the final spaces, %: SGD 8.3, Momentum 7.6, Nesterov 7.4,
RMSProp 7.4, Adam 8.5, NAdam 7.8, lstm_mnist 6.8.
"""

from ml_collections import ConfigDict

from experiments.common.small_mlp import small_mlp
from experiments.common.study_config import study_config


def get_config() -> ConfigDict:
    return study_config(
        "mlp_mnist",
        small_mlp("mnist"),
        lanes=50,
        levels=("learning_rate", "momentum", "eps", "final"),
        num_steps=200,
    )
