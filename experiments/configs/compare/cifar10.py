r"""CIFAR-10 at 16×16, the paper's network with 8 channels: `general` beside tuned rules.

    python -m experiments.compare --config=experiments/configs/compare/cifar10.py --workdir=DIR

A rule that you have meta-trained, with meta_train/lstm_cifar10.py perhaps, is compared by its file:
--config.rules="('PATH/theta.npz', 'general', 'adam', …)". Hand-designed rules are tuned for the
training loss after 1,000 updates, the mean over the last 50 of them; `general` runs at its default
rate. Rules then go on to 1,500. CIFAR-10 is read from TFDS_DATA_DIR or --data_dir.

Run time: about 75 minutes on one core.

Expected, with 10 seeds, 4 rates a decade and 1,000 updates, the mean training loss over all of them
and the test accuracy at their end: general 1.485 and 51.3 %, Nesterov 1.519 and 50.6 %, Adam 1.519
and 50.3 %, Muon 1.550 and 50.1 %, lstm_cifar10_start.py 1.572 and 48.4 %.
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
