r"""The style that `lstm_style` was trained on, 64×64, photographs that it was not trained on.

    python -m experiments.style_board --config=experiments/configs/style_board/church_64.py \
        --content_dir=DIR --workdir=DIR

DIR has folders train, valid and test with photographs; the first 100 of test are painted, 6 of
valid tune. Other rules: --config.rules="('PATH/theta.npz', 'adam')". Where the 100 are crops of
fewer photographs, intervals over photographs are wider than those that are shown.

Run time: about 30 minutes on 2 cores.

Expected, mean loss after 128 updates: lstm_style .814, L-BFGS .813 with 1.5 gradients a step, Adam
.853, Momentum .869, Nesterov .903, RMSProp .987, SGD 1.134. After 32: lstm_style and L-BFGS .939,
Nesterov 1.18, Adam 1.19.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": {"name": "style_transfer", "style": ("church_at_auvers",), "size": 64},
            "rules": ("lstm_style", "adam", "sgd", "momentum", "nesterov", "rmsprop", "lbfgs"),
            "rates": {
                "adam": (0.03, 0.6),
                "sgd": (30.0, 600.0),
                "momentum": (3.0, 60.0),
                "nesterov": (3.0, 60.0),
                "rmsprop": (0.003, 0.1),
                "lbfgs": (0.6, 10.0),
            },
            "num_seeds": 100,
            "num_steps": 128,
            "report_steps": (16, 32, 128),
            "shown": (2, 7, 33),
            "tuning": {"num_steps": (128,), "num_seeds": 6, "per_decade": 4, "split": ""},
        }
    )
