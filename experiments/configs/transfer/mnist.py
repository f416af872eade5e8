"""The LSTM trained on MNIST's 784-20-10 sigmoid network, on networks that it was not trained on.

    python -m experiments.transfer --config=experiments/configs/transfer/mnist.py --workdir=DIR

Figures 5 and 6 of Andrychowicz et al. (2016). MNIST is read from TFDS_DATA_DIR or --data_dir.

Run time: about 60 minutes on 2 cores.

Expected, step 100: the LSTM .206 ± .004 on 40 units (Nesterov .266), .299 ± .005 on two layers
(.361), and .97 on ReLU (Nesterov .32): it fails there, as the paper's does.
"""

from ml_collections import ConfigDict

from experiments.common.small_mlp import small_mlp


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": small_mlp("mnist"),
            "problems": {
                "as trained": {},
                "40 units": {"hidden_sizes": (40,)},
                "two layers": {"hidden_sizes": (20, 20)},
                "ReLU": {"activation": "relu"},
            },
            "rules": ("sgd", "nesterov", "rmsprop", "adam", "lstm_mnist"),
            "num_seeds": 256,
            "num_steps": 200,
            "report_steps": (100, 200),
            "tuning": {
                "num_steps": (100,),
                "num_seeds": 8,
                "low": 1e-2,
                "high": 1.0,
                "per_decade": 8,
            },
            "sweep": {
                "widths": (5, 10, 15, 20, 25, 30, 35, 40, 45, 50),
                "layers": (1, 2),
                "num_steps": 100,
                "num_seeds": 16,
                "tuning": {
                    "num_steps": (100,),
                    "num_seeds": 4,
                    "low": 1e-2,
                    "high": 1.0,
                    "per_decade": 4,
                },
            },
        }
    )
