"""Do large batches end in sharp minima, and does it cost test accuracy?

    python -m experiments.generalization --config=experiments/configs/generalization/batch_size.py \
        --workdir=DIR

SGD trains a perceptron 196-32-10 on 8,192 pictures of Fashion-MNIST, averaged down to 14×14, with
batches of 16 to 4,096, for equal numbers of updates and of epochs, with one rate for all batches,
with the rate scaled with the batch, and with the rate tuned for each. Fashion-MNIST is read from
TFDS_DATA_DIR or --data_dir.

Run time: about 5 minutes on one core.

Expected: with one rate larger batches end in sharper minima; at equal updates these have fewer test
errors, at equal epochs more, with a higher training loss too.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "experiment": "batch_size",
            "seed": 0,
            "task": {
                "name": "image_classifier",
                "dataset": "fashion_mnist",
                "side": 14,
                "hidden_sizes": (32,),
                "activation": "relu",
            },
            "rule": "sgd",
            "examples": 8192,
            "batches": (16, 64, 256, 1024, 4096),
            "reference": 64,
            "budgets": {"steps": 1024, "epochs": 24},
            "rates": (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
            "num_seeds": 10,
        }
    )
