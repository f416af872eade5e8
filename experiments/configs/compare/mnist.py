"""MNIST, MLP 784-20-10, sigmoid, minibatches of 128: the pretrained LSTM beside finely tuned rules.

    python -m experiments.compare --config=experiments/configs/compare/mnist.py --workdir=DIR

Every hand-designed rule is tuned twice, for 100 and for 200 updates. MNIST is read from
TFDS_DATA_DIR or --data_dir.

Run time: about 15 minutes on 2 cores.

Expected, mean training loss at step 100 over 256 seeds (± .005): SGD .378, Nesterov .307, Momentum
.337, RMSProp .358, Adam .342, LSTM .259; at step 200: .297, .256, .278, .286, .280, .223.
"""

from ml_collections import ConfigDict

from experiments.common.small_mlp import small_mlp


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": small_mlp("mnist"),
            "rules": ("sgd", "nesterov", "momentum", "rmsprop", "adam", "lstm_mnist"),
            "num_seeds": 256,
            "num_steps": 200,
            "report_steps": (20, 100, 200),
            "tuning": {
                "num_steps": (100, 200),
                "num_seeds": 32,
                "low": 1e-2,
                "high": 1.0,
                "per_decade": 8,
            },
        }
    )
