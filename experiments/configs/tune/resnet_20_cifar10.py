"""Six rules on CIFAR-10, ResNet-20, with a budget for accelerators.

    python -m experiments.tune --config=experiments/configs/tune/resnet_20_cifar10.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The spaces are initial ones: no study has been run to narrow them.

Run time: about two days on one accelerator; several machines share it with --config.num_shards.

Expected: not run yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "workload": "resnet_20_cifar10",
            "task": {
                "name": "image_classifier",
                "dataset": "cifar10",
                "network": "resnet_20",
                "batch_size": 128,
            },
            "rules": ("sgd", "momentum", "nesterov", "rmsprop", "adam", "nadam"),
            "spaces": "experiments/spaces/resnet_20_cifar10",
            "levels": ("initial",),
            "num_trials": 100,
            "num_steps": 20000,
            "num_seeds": 1,
            "segments": 10,
            "lanes": 8,
            "metric": "error",
            "winner_seeds": 10,
        }
    )
