"""What tasks on data have in common: their static fields, and checks before they are made."""

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.networks import Network
from learned_opt.tasks import datasets


def static(**kwargs: Any) -> Any:
    """A field of a task that is part of its structure, not one of its arrays."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def positive(name: str, value: Any) -> int:
    """Returns an integer that is at least one, or raises a `ValueError` that names it."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a positive integer, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be positive, got {number}")
    return number


def not_negative(**values: float) -> None:
    """Raises a `ValueError` that names the first number that is negative or not finite."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value}")


def check_splits(
    splits: Mapping[str, tuple[Any, Any]], num_classes: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns images `[n, …]` and int32 labels `[n]` of each split, or raises a ValueError."""
    if "train" not in splits:
        raise ValueError("splits must have an entry 'train'")
    arrays = {}
    for split, (images, labels) in splits.items():
        datasets.check_split(split)
        arrays[split] = _check_examples(split, np.asarray(images), np.asarray(labels), num_classes)
    kinds = {(np.shape(images)[1:], np.asarray(images).dtype) for images, _ in splits.values()}
    if len(kinds) > 1:
        raise ValueError("the images of all splits must have one shape and one dtype")
    return arrays


def check_batch(
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]], batch_size: Any, max_pixel: float | None
) -> tuple[int, float]:
    """Returns a batch size that the training data allow, and what to divide pixels by."""
    train_images, _ = arrays["train"]
    batch_size = positive("batch_size", batch_size)
    if batch_size > len(train_images):
        raise ValueError(
            f"batch_size {batch_size} is larger than the {len(train_images)} training examples"
        )
    if max_pixel is None:
        max_pixel = 255.0 if train_images.dtype == np.uint8 else 1.0
    if not (max_pixel > 0 and math.isfinite(max_pixel)):
        raise ValueError(f"max_pixel must be finite and positive, got {max_pixel}")
    return batch_size, float(max_pixel)


def _check_examples(
    split: str, images: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"{split}: images must be [n, …] and not empty, got {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{split}: images [n, …] need labels [n], got {images.shape} and {labels.shape}"
        )
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{split}: images must be uint8 or floating point, got {images.dtype}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{split}: labels must be integers, got {labels.dtype}")
    if images.dtype != np.uint8 and not np.isfinite(images).all():
        raise ValueError(f"{split}: images hold NaN or infinite values")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{split}: labels must be from 0 to {num_classes - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
    return images, labels.astype(np.int32)


def check_network(
    network: Network, example: jax.ShapeDtypeStruct, expected: tuple[int, ...]
) -> None:
    """Checks that a network maps inputs to outputs of the shape that a task needs.

    Raises:
      ValueError: it cannot be made as a pure function, or the outputs have another shape.
    """
    try:
        params = jax.eval_shape(network.init, jax.random.key(0))
    except ValueError as error:
        if "Non-exhaustive filters" not in str(error):
            raise
        raise ValueError(
            "the network holds state beside its parameters, such as BatchNorm's statistics or "
            "Dropout's key: make the task with learned_opt.tasks.from_flax"
        ) from None
    outputs = jax.eval_shape(network.apply, params, example)
    found = jax.tree.map(lambda x: list(x.shape), outputs)
    if found != list(expected):
        raise ValueError(
            f"the network must map inputs {list(example.shape)} to logits {list(expected)}, got "
            f"{found}"
        )
