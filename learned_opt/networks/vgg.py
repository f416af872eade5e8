"""VGG-16 up to its fifth convolution: a fixed network that says how alike two pictures are."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.networks.convolution import convolve
from learned_opt.types import Params

_WEIGHTS = Path(__file__).parent / "vgg16_conv3_1" / "weights.npz"
_SHAPES = {  # channels in and out of the 3×3 convolutions
    "conv1_1": (3, 64),
    "conv1_2": (64, 64),
    "conv2_1": (64, 128),
    "conv2_2": (128, 128),
    "conv3_1": (128, 256),
}


class Features(NamedTuple):
    """What the network sees in images of a height and width H × W.

    Attributes:
      relu1_1: `[batch, H, W, 64]`.
      relu2_1: `[batch, H/2, W/2, 128]`.
      relu3_1: `[batch, H/4, W/4, 256]`.
    """

    relu1_1: jax.Array
    relu2_1: jax.Array
    relu3_1: jax.Array


def load_trunk(path: str | os.PathLike[str] = _WEIGHTS) -> Params:
    """Reads the trunk, 555,328 numbers that come with the library in float16.

    Returns:
      Layer -> `{"kernel": [3, 3, in, out], "bias": [out]}` in float32, from 'conv1_1' to 'conv3_1'.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file does not hold the five convolutions.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the VGG-16 weights {path} are missing: install the library again")
    try:
        with np.load(path) as file:
            arrays = {name: np.asarray(file[name], np.float32) for name in file.files}
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(
            f"the VGG-16 weights {path} cannot be read ({type(error).__name__}: {error}): install "
            "the library again"
        ) from error
    trunk = {}
    for layer, (num_in, num_out) in _SHAPES.items():
        wanted = {"kernel": (3, 3, num_in, num_out), "bias": (num_out,)}
        for part, shape in wanted.items():
            found = arrays.get(f"{layer}/{part}")
            if found is None or found.shape != shape:
                raise ValueError(
                    f"{path} is no VGG-16 up to conv3_1: {layer}/{part} must be {list(shape)}, got "
                    f"{'nothing' if found is None else list(found.shape)}"
                )
        trunk[layer] = {part: jnp.asarray(arrays[f"{layer}/{part}"]) for part in wanted}
    return trunk


def features(trunk: Params, images: jax.Array) -> Features:
    """Applies the trunk to normalized images.

    3×3 convolutions with a bias and ReLU; means over 2×2 positions after conv1_2 and conv2_2, where
    VGG has maxima: for style transfer pictures then come out smoother (Gatys et al., 2016).
    Convolutions pad by repeating the edge: zeros would leave coloured borders.

    Args:
      trunk: from `load_trunk`.
      images: RGB `[batch, H, W, 3]`, H and W multiples of 4, normalized as ImageNet's pictures are:
        (pixel from 0 to 1 − (.485, .456, .406)) / (.229, .224, .225).

    References:
      Simonyan and Zisserman, *Very deep convolutional networks for large-scale image recognition*,
      2015; the weights are those of torchvision's `vgg16`, IMAGENET1K_V1.

    Example:
      >>> seen = features(load_trunk(), jnp.zeros((1, 8, 12, 3)))
      >>> seen.relu1_1.shape, seen.relu3_1.shape
      ((1, 8, 12, 64), (1, 2, 3, 256))
    """
    relu1_1 = _layer(trunk["conv1_1"], images)
    relu2_1 = _layer(trunk["conv2_1"], _pool(_layer(trunk["conv1_2"], relu1_1)))
    relu3_1 = _layer(trunk["conv3_1"], _pool(_layer(trunk["conv2_2"], relu2_1)))
    return Features(relu1_1, relu2_1, relu3_1)


def _layer(layer: Params, x: jax.Array) -> jax.Array:
    padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    return jax.nn.relu(convolve(padded, layer["kernel"], padding="VALID") + layer["bias"])


def _pool(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
