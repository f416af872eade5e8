r"""The LSTM optimizer on neural style transfer, as in the paper: one style, 64×64, 128 steps.

    python -m experiments.meta_train --config=experiments/configs/meta_train/lstm_style.py \
        --content_dir=DIR --workdir=DIR

DIR has folders train, valid and test with photographs. The rule is trained on those of train, in
unrolls of 32 steps; θ is chosen by 8 of valid. The last third goes on from the best θ so far with
losses weighted by their step, because an optimizer is judged by where it ends.

153,600 inner steps, about an hour on one core.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "task": {"name": "style_transfer", "style": "church_at_auvers", "size": 64},
            "rule": {
                "name": "lstm",
                "hidden_sizes": (20, 20),
                "preprocess": "log_sign",
                "output_scale": 0.1,
            },
            "num_meta_steps": 1_200,
            "num_tasks": 4,
            "unroll_length": 32,
            "curriculum": (
                (
                    800,
                    {"learning_rate": 1e-3, "final_learning_rate": 1e-5, "weight_power": 1.0},
                ),
            ),
            "horizon": 128,
            "learning_rate": 3e-3,
            "final_learning_rate": 3e-5,
            "clip_norm": 1.0,
            "replay_fraction": 0.25,
            "block_size": 512,
            "probe": (
                {"name": "valid", "task": {"split": "valid"}, "num_steps": 128, "num_seeds": 8},
            ),
            "validate_every": 100,
            "log_every": 10,
            "save_every": 25,
        }
    )
