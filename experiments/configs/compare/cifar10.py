r"""CIFAR-10 at 16×16, the paper's network with 8 channels: learned rules beside tuned ones.

    python -m experiments.compare --config=experiments/configs/compare/cifar10.py --workdir=DIR

A rule that you have meta-trained, with meta_train/lstm_cifar10.py perhaps, is compared by its file:
--config.rules="('PATH/theta.npz', 'general', 'adam', …)". Hand-designed rules are tuned for the
training loss after 1,000 updates, the mean over the last 50 of them; `general` runs at its default
rate. Rules then go on to 1,500. CIFAR-10 is read from TFDS_DATA_DIR or --data_dir.

Run time: about 40 minutes on one core.

Expected, the mean training loss over 1,000 updates and the test accuracy at their end: general
1.483 and 51.4 %, lstm_cifar10 1.504 and 49.8 %, Nesterov 1.517 and 50.2 %, Adam 1.526 and 50.0 %,
Muon 1.527 and 50.3 %.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.common.cifar import small_cifar

TUNED = ("sgd", "nesterov", "rmsprop", "adam", "muon")


def get_config(task: dict[str, Any] | None = None) -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": task or small_cifar(),
            "rules": ("lstm_cifar10", "general", *TUNED),
            "num_seeds": 10,
            "num_steps": 1500,
            "report_steps": (100, 200, 500, 1000, 1500),
            "test_every": 250,
            "tuning": {
                "num_steps": (1000,),
                "num_seeds": 2,
                "low": 1e-3,
                "high": 1.0,
                "per_decade": 6,
                "split": "",
                "window": 50,
            },
        }
    )
