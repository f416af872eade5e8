"""CIFAR-10 at 16×16, the paper's network with 8 channels: the pretrained LSTMs beside tuned rules.

    python -m experiments.compare --config=experiments/configs/compare/cifar10.py --workdir=DIR

Hand-designed rules are tuned for the training loss after 1,000 updates, the mean over the last 50
of them; `general` runs at its default rate. Rules then go on to 1,500. CIFAR-10 is read from
TFDS_DATA_DIR or --data_dir.

Run time: about 75 minutes on one core.

Expected: not run yet.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.common.cifar import small_cifar

TUNED = ("sgd", "nesterov", "rmsprop", "adam", "muon")


def get_config(
    task: dict[str, Any] | None = None, learned: tuple[str, ...] = ("lstm_cifar10", "general")
) -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": task or small_cifar(),
            "rules": (*learned, *TUNED),
            "num_seeds": 16,
            "num_steps": 1500,
            "report_steps": (100, 500, 1000, 1500),
            "test_every": 100,
            "tuning": {
                "num_steps": (1000,),
                "num_seeds": 3,
                "low": 1e-3,
                "high": 1.0,
                "per_decade": 8,
                "split": "",
                "window": 50,
            },
        }
    )
