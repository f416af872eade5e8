"""Neural style transfer: the picture itself is what is optimized."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.tasks import datasets, pictures
from learned_opt.tasks.checks import static
from learned_opt.types import Key, Metrics, Params, Scalar

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet's pixels, from 0 to 1
_STANDARD_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class Target(NamedTuple):
    """An array x that another is compared with: ‖y − x‖² / ‖x‖² = ‖y/‖x‖ − x/‖x‖‖².

    Attributes:
      unit: x / ‖x‖.
      scale: 1 / ‖x‖.
    """

    unit: jax.Array
    scale: jax.Array

    @classmethod
    def of(cls, x: jax.Array) -> "Target":
        """The target x."""
        scale = 1 / jnp.sqrt(jnp.sum(x**2))
        return cls(x * scale, scale)

    def error(self, y: jax.Array) -> Scalar:
        """‖y − x‖² / ‖x‖²."""
        return jnp.sum((y * self.scale - self.unit) ** 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StyleTransfer:
    r"""A picture with the content of one and the style of another.

        f(θ) = α ‖F₃ − P‖² / ‖P‖² + β mean_l ‖G_l − A_l‖² / ‖A_l‖² + γ V(θ)

    θ is the picture, `[height, width, 3]`, normalized as ImageNet's are: (pixel from 0 to 1 − mean)
    / standard deviation of the channel. It starts from the content. F₁, F₂, F₃ are what VGG-16 has
    at relu1_1, relu2_1 and relu3_1, see `networks.vgg.features`; P is F₃ of the content,
    G_l = F_lᵀ F_l / positions the Gram matrix `[channels, channels]` and A_l that of the style. V
    is the total variation, the mean squared difference of neighbours in a row plus that of
    neighbours in a column, of pixels from 0 to 1.

    An instance is a content with the style to give it. What is constant in it is computed once, by
    `sample`; the Gram matrices of the styles when the task is made. There are no minibatches: the
    loss depends on the picture alone.

    Make one with `style_transfer` (pictures by name or folder) or `StyleTransfer.from_arrays`. The
    pictures and the network are leaves of this PyTree.

    Attributes:
      contents: uint8 RGB `[n, height, width, 3]`.
      styles: uint8 RGB `[m, height, width, 3]`.
      grams: the targets A_l, in the order of the layers, each with a leading axis of the styles.
      trunk: from `networks.vgg.load_trunk`.
      content_weight: α.
      style_weight: β.
      variation_weight: γ.

    References:
      Gatys et al., *Image style transfer using convolutional neural networks*, 2016; Andrychowicz
      et al., *Learning to learn by gradient descent by gradient descent*, 2016, section 3.4. Their
      layers and weights are others.
    """

    contents: jax.Array
    styles: jax.Array
    grams: tuple[Target, ...]
    trunk: Params
    content_weight: float = static(default=1.0)
    style_weight: float = static(default=10.0)
    variation_weight: float = static(default=2.0)

    @classmethod
    def from_arrays(
        cls,
        contents: Any,
        styles: Any,
        *,
        content_weight: float = 1.0,
        style_weight: float = 10.0,
        variation_weight: float = 2.0,
    ) -> "StyleTransfer":
        """Makes a task of pictures.

        Args:
          contents: uint8 RGB `[n, height, width, 3]`; multiples of 4 pixels.
          styles: the same, of any height and width that are.
          content_weight: α.
          style_weight: β.
          variation_weight: γ.

        Returns:
          The task, with its pictures on the default device.

        Raises:
          FileNotFoundError: the VGG-16 weights, a part of the library, are missing.
          ValueError: pictures of another kind or shape, or a negative or infinite weight.

        Example:
          >>> import numpy as np
          >>> from learned_opt.tasks import StyleTransfer
          >>> content, style = np.full((2, 1, 8, 8, 3), 127, np.uint8)
          >>> task = StyleTransfer.from_arrays(content, style)
          >>> key = jax.random.key(0)
          >>> instance = task.sample(key)
          >>> sorted(task.evaluate(task.init(key, instance), instance, "test"))
          ['content', 'loss', 'style', 'variation']
        """
        from learned_opt.networks import vgg  # Flax takes half a second to import

        weights = {
            "content_weight": content_weight,
            "style_weight": style_weight,
            "variation_weight": variation_weight,
        }
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {weight}")
        contents = _checked("contents", contents)
        styles = _checked("styles", styles)
        trunk = vgg.load_trunk()
        return cls(contents, styles, _gram_targets(trunk, styles), trunk, **weights)

    def sample(self, key: Key) -> dict[str, Any]:
        """Draws a content and a style; see `instance`."""
        key_content, key_style = jax.random.split(key)
        content = jax.random.randint(key_content, (), 0, len(self.contents))
        return self.instance(content, jax.random.randint(key_style, (), 0, len(self.styles)))

    def instance(self, content: int | jax.Array, style: int | jax.Array = 0) -> dict[str, Any]:
        """The problem of a certain content and style, by their numbers.

        Returns:
          `{"start": the content as θ, "content": the target P, "style": int32}`.
        """
        from learned_opt.networks import vgg

        start = normalized(self.contents[content])
        seen = vgg.features(self.trunk, start[None]).relu3_1
        return {"start": start, "content": Target.of(seen), "style": jnp.asarray(style, jnp.int32)}

    def init(self, key: Key, instance: dict[str, Any]) -> jax.Array:
        """Returns the content picture as θ, `[height, width, 3]`."""
        del key
        return instance["start"]

    def loss(
        self, params: jax.Array, instance: dict[str, Any], key: Key, split: str = "train"
    ) -> Scalar:
        """Returns f(params), for every key and split: a picture has no examples to draw."""
        del key
        return self.evaluate(params, instance, split)["loss"]

    def evaluate(self, params: jax.Array, instance: dict[str, Any], split: str) -> Metrics:
        """Returns f(params), the same for every split, and its three terms before weighting.

        Returns:
          `{"loss": f, "content": …, "style": …, "variation": V}`.

        Raises:
          ValueError: an unknown split.
        """
        from learned_opt.networks import vgg

        datasets.check_split(split)
        params = params.astype(jnp.promote_types(params.dtype, jnp.float32))
        seen = vgg.features(self.trunk, params[None])
        targets = jax.tree.map(lambda x: x[instance["style"]], self.grams)
        errors = [t.error(_gram(x)) for t, x in zip(targets, _by_picture(seen), strict=True)]
        pixels = params * _STANDARD_DEVIATION
        terms = {
            "content": instance["content"].error(seen.relu3_1),
            "style": sum(errors) / len(errors),
            "variation": sum(jnp.mean(jnp.diff(pixels, axis=axis) ** 2) for axis in (0, 1)),
        }
        loss = (
            self.content_weight * terms["content"]
            + self.style_weight * terms["style"]
            + self.variation_weight * terms["variation"]
        )
        return {"loss": loss, **terms}


def style_transfer(
    style: str | Sequence[str] | None = None,
    *,
    size: int = 64,
    split: str = "train",
    content_dir: str | os.PathLike[str] | None = None,
    style_dir: str | os.PathLike[str] | None = None,
    content_weight: float = 1.0,
    style_weight: float = 10.0,
    variation_weight: float = 2.0,
) -> StyleTransfer:
    """Makes a `StyleTransfer` of pictures by name or from folders, cut square and resized.

    Args:
      style: one or several: names of paintings that come with the library, 'church_at_auvers' (the
        default), 'starry_night', 'scream' and 'minotaur'; names of pictures in `style_dir`, by
        default all; or paths.
      size: pixels of a side, a multiple of 4.
      split: the contents that `sample` draws from, those of 'train', 'valid' or 'test'.
      content_dir: a folder that has folders 'train', 'valid' and 'test' with pictures, or pictures
        itself, which then belong to every split. By default two photographs of scikit-learn's, in
        every split.
      style_dir: a folder with style pictures.
      content_weight: α.
      style_weight: β.
      variation_weight: γ.

    Raises:
      FileNotFoundError: a folder is missing or holds no pictures.
      ValueError: an unknown name, a file that is no picture, or a choice out of range.

    Example:
      >>> from learned_opt.tasks import style_transfer
      >>> style_transfer("scream", size=16).contents.shape
      (2, 16, 16, 3)
    """
    size = pictures.check_size(size)
    return StyleTransfer.from_arrays(
        pictures.contents(content_dir, size, split),
        pictures.styles(style, style_dir, size),
        content_weight=content_weight,
        style_weight=style_weight,
        variation_weight=variation_weight,
    )


def normalized(pixels: jax.Array) -> jax.Array:
    """Pixels from 0 to 255, `[…, 3]`, as θ in float32."""
    return (pixels.astype(jnp.float32) / 255 - _MEAN) / _STANDARD_DEVIATION


def as_picture(params: Any) -> np.ndarray:
    """θ as pixels, uint8 `[…, 3]`: rounded, and cut to what a screen can show."""
    pixels = np.asarray(params, np.float32) * _STANDARD_DEVIATION + _MEAN
    return np.round(255 * np.clip(np.nan_to_num(pixels), 0, 1)).astype(np.uint8)


def _checked(name: str, images: Any) -> jax.Array:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size or images.dtype != np.uint8:
        raise ValueError(
            f"{name} must be uint8 RGB [n, height, width, 3] and not empty, got {images.dtype} "
            f"{list(images.shape)}"
        )
    for side in images.shape[1:3]:
        pictures.check_size(side)
    return jnp.asarray(images)


@jax.jit
def _gram_targets(trunk: Params, styles: jax.Array) -> tuple[Target, ...]:
    from learned_opt.networks import vgg

    def one(style):
        seen = vgg.features(trunk, normalized(style)[None])
        return tuple(Target.of(_gram(x)) for x in _by_picture(seen))

    return jax.lax.map(one, styles)


def _by_picture(seen: Any) -> list[jax.Array]:
    """Features of a single picture, `[positions, channels]` each."""
    return [x.reshape(-1, x.shape[-1]) for x in seen]


def _gram(x: jax.Array) -> jax.Array:
    """xᵀ x / positions, `[channels, channels]`."""
    return x.T @ x / len(x)
