"""What the CIFAR configs share: the network at two sizes, and how an LSTM is trained on it."""

from typing import Any

from ml_collections import ConfigDict

# No image of a held-out label is in a split that LSTM-sub sees.
CIFAR_5 = (0, 1, 2, 3, 4)  # airplane, automobile, bird, cat, deer
CIFAR_2 = (0, 1)
HELD_OUT = (5, 6, 7, 8, 9)  # dog, frog, horse, ship, truck


def small_cifar(labels: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The paper's network with 8 channels, on images averaged to 16×16, batch 64."""
    task = {
        "name": "image_classifier",
        "dataset": "cifar10",
        "network": "narrow_paper_cnn",
        "side": 16,
        "color": True,
        "batch_size": 64,
    }
    return task if labels is None else task | {"labels": labels}


def paper_cifar() -> dict[str, Any]:
    """The paper's own network: 16 channels, 32×32 pixels, batch 128."""
    return {
        "name": "image_classifier",
        "dataset": "cifar10",
        "network": "paper_cnn",
        "batch_size": 128,
    }


_LSTM = {"name": "lstm", "hidden_sizes": (20, 20), "preprocess": "log_sign"}
_LSTMS = {"name": "by_label", "rules": {"conv": _LSTM, "rest": _LSTM}}


def imitation(task: dict[str, Any]) -> ConfigDict:
    """Two LSTMs, for convolution kernels and for the rest, learn to make Adam's steps."""
    return ConfigDict(
        {
            "seed": 0,
            "task": task,
            "rule": _LSTMS,
            "estimator": {"name": "imitation", "teacher_rate": 0.0056},
            "num_meta_steps": 120,
            "num_tasks": 4,
            "unroll_length": 50,
            "horizon": 1_000,
            "learning_rate": 3e-3,
            "final_learning_rate": 3e-4,
            "clip_norm": 1.0,
            "probe": ({"name": "cifar", "task": task, "num_steps": 1_000, "num_seeds": 2},),
            "validate_every": 40,
            "log_every": 10,
            "save_every": 40,
        }
    )


def lstm_training(task: dict[str, Any]) -> ConfigDict:
    """The two LSTMs, by whole unrolls that grow from 100 steps to 300 and 500.

    Coordinates have random signs, see `Rescaled`: without them meta-gradients of several draws from
    one θ point opposite ways. Truncated unrolls of 100 steps within a horizon of 1,000 made θ worse
    within 50 to 100 meta-updates, at three learning rates; whole unrolls of 1,000 after those of
    300 made nothing better in 250 meta-updates.
    """
    flipped = {"name": "rescaled", "task": task, "decades": 0.0, "per": "coordinate", "signs": True}
    return ConfigDict(
        {
            "seed": 0,
            "task": flipped,
            "rule": _LSTMS,
            "num_meta_steps": 1_600,
            "num_tasks": 2,
            "unroll_length": 100,
            "horizon": 100,
            "curriculum": (
                (900, {"horizon": 300, "unroll_length": 300}),
                (1_050, {"horizon": 500, "unroll_length": 500}),
            ),
            "learning_rate": 1.5e-3,
            "final_learning_rate": 1e-5,
            "clip_norm": 1.0,
            "replay_fraction": 0.3,
            "probe": ({"name": "cifar", "task": task, "num_steps": 1_000, "num_seeds": 4},),
            "validate_every": 50,
            "log_every": 10,
            "save_every": 50,
        }
    )
