r"""A guarded `lstm_mnist` beside its fallback, on five problems; it was trained on that of MNIST.

    python -m experiments.guard --config=experiments/configs/guard/five.py --workdir=DIR \
        --text_file=FILE

The text is any file in UTF-8. The data sets are read from TFDS_DATA_DIR or --data_dir.

Run time: about 20 minutes on one core.

Expected, guarded / fallback, training losses after 500 steps (five seeds; largest of a seed): MLP
on Fashion-MNIST 1.03 (1.05), conv net 1.05 (1.05), diabetes 1.02 (1.03), transformer 1.03 (1.03),
MNIST .32 (.33). The rule alone ends at 1.2, .9, 94,000, 283 and .19, the fallback at .44, .38, .45,
2.4 and .63. Two lost duels take 100 of the fallback's 500 steps: that is what the guard costs.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    images = {"name": "image_classifier", "batch_size": 128}
    return ConfigDict(
        {
            "seed": 0,
            "task": {"length": 32, "batch_size": 32},  # of the text
            "problems": {
                "Fashion-MNIST, MLP 784-100-10, ReLU": {
                    **images,
                    "dataset": "fashion_mnist",
                    "hidden_sizes": (100,),
                    "activation": "relu",
                },
                "Fashion-MNIST, conv net, BatchNorm": {
                    "name": "experiments.common.guard_tasks:conv_net"
                },
                "text, transformer": {
                    "name": "language_model",
                    "network": "transformer",
                    "hidden_size": 32,
                    "num_layers": 2,
                },
                "diabetes, MLP 10-32-1, ReLU": {"name": "experiments.common.guard_tasks:diabetes"},
                "MNIST, MLP 784-20-10, sigmoid": {
                    **images,
                    "dataset": "mnist",
                    "hidden_sizes": (20,),
                    "activation": "sigmoid",
                },
            },
            "rule": "lstm_mnist",
            "fallback": "adam",
            "num_seeds": 5,
            "num_steps": 500,
        }
    )
