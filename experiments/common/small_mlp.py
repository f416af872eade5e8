"""The task of Andrychowicz et al. (2016) on images, which several configs have in common."""

from typing import Any


def small_mlp(dataset: str) -> dict[str, Any]:
    """One hidden layer of 20 sigmoid units, minibatches of 128; see `build.make_task`."""
    return {
        "name": "image_classifier",
        "dataset": dataset,
        "hidden_sizes": (20,),
        "activation": "sigmoid",
        "batch_size": 128,
    }
