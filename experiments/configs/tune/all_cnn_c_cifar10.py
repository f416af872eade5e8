"""Six rules on CIFAR-10, All-CNN-C, with a budget for accelerators.

    python -m experiments.tune --config=experiments/configs/tune/all_cnn_c_cifar10.py --workdir=DIR

Data are read from TFDS_DATA_DIR or --data_dir.
The spaces are initial ones: no study has been run to narrow them.

Run time: about two days on one accelerator; several machines share it with --config.num_shards.

Expected: not run yet.
"""

from ml_collections import ConfigDict

from experiments.common.study_config import TUNED, study_config


def get_config() -> ConfigDict:
    return study_config(
        "all_cnn_c_cifar10",
        {
            "name": "image_classifier",
            "dataset": "cifar10",
            "network": "all_cnn_c",
            "batch_size": 128,
        },
        lanes=8,
        levels=("initial",),
        num_steps=20000,
        num_trials=100,
        rules=TUNED,
    )
