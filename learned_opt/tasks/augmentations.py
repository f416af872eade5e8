"""What is done to a minibatch before it is learned from: noise, other pictures, softer targets.

Each is a small frozen dataclass, called as `transform(key, inputs, targets)` with inputs
`[batch, …]` in the network's units and targets `[batch, K]` (classes as one-hot rows), and returns
both, of the same shapes and dtypes. What it draws, it draws for every example by itself.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from learned_opt.tasks.checks import positive
from learned_opt.types import Key


def _in_range(name: str, value: float, low: float, high: float, closed: bool = False) -> None:
    """Raises a `ValueError` unless low ≤ value < high (≤ high where `closed`)."""
    inside = low <= value <= high if closed else low <= value < high
    if not (inside and math.isfinite(value)):
        bracket = "]" if closed else ")"
        raise ValueError(f"{name} must be in [{low:g}, {high:g}{bracket}, got {value}")


@dataclasses.dataclass(frozen=True)
class LabelSmoothing:
    r"""Targets that leave a little to every class.

    .. math:: y' = (1 - \epsilon)\, y + \epsilon / K

    Attributes:
      epsilon: ε, in [0, 1).

    Reference: Szegedy et al., *Rethinking the Inception architecture*, 2016, section 7.
    """

    epsilon: float = 0.1
    classes_only = True
    mixes_targets = True

    def __post_init__(self) -> None:
        """Checks ε."""
        _in_range("epsilon", self.epsilon, 0, 1)

    def __call__(self, key: Key, inputs: jax.Array, targets: jax.Array):
        """Returns the inputs, and smoother targets."""
        del key
        return inputs, (1 - self.epsilon) * targets + self.epsilon / targets.shape[1]


@dataclasses.dataclass(frozen=True)
class Mixup:
    r"""Examples on the way from one to another, and targets alike.

    .. math:: x' = \lambda x_i + (1 - \lambda) x_j, \quad y' = \lambda y_i + (1 - \lambda) y_j,
              \quad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    with j the example before i in the minibatch, whose examples are drawn independently.

    Attributes:
      alpha: α; 0 mixes nothing.

    Reference: Zhang et al., *mixup: beyond empirical risk minimization*, 2018, section 2.
    """

    alpha: float = 0.2
    mixes_targets = True

    def __post_init__(self) -> None:
        """Checks α."""
        _in_range("alpha", self.alpha, 0, math.inf)

    def __call__(self, key: Key, inputs: jax.Array, targets: jax.Array):
        """Returns mixed inputs and targets."""
        if self.alpha == 0:
            return inputs, targets
        share = jax.random.beta(key, self.alpha, self.alpha, (len(inputs),), inputs.dtype)
        return _mix(inputs, share), _mix(targets, share)


@dataclasses.dataclass(frozen=True)
class CutMix:
    r"""A box of each picture comes from another one, and as much of the target.

    A box of width W√(1−λ) and height H√(1−λ), with λ ~ Beta(α, α) and its centre anywhere, is taken
    from the picture before; where it hangs over the border it is cut off. With s the share of
    pixels that stay, y' = s y_i + (1 − s) y_j.

    Attributes:
      alpha: α; 0 cuts nothing.

    Reference: Yun et al., *CutMix*, 2019, section 3.1.
    """

    alpha: float = 1.0
    pictures_only = True
    classes_only = True
    mixes_targets = True

    def __post_init__(self) -> None:
        """Checks α."""
        _in_range("alpha", self.alpha, 0, math.inf)

    def __call__(self, key: Key, inputs: jax.Array, targets: jax.Array):
        """Returns mixed pictures and targets."""
        if self.alpha == 0:
            return inputs, targets
        key_share, key_place = jax.random.split(key)
        share = jax.random.beta(key_share, self.alpha, self.alpha, (len(inputs),), inputs.dtype)
        height, width = inputs.shape[1:3]
        side = jnp.sqrt(1 - share)
        box = _boxes(key_place, side * height, side * width, height, width)
        stays = 1 - box.mean((1, 2), dtype=targets.dtype)
        box = box[..., None]
        return jnp.where(box, jnp.roll(inputs, 1, 0), inputs), _mix(targets, stays)


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A square of each picture is covered, its centre anywhere; it may hang over the border.

    Attributes:
      size: pixels of a side of the square; 0 covers nothing.
      fill: what covers it, in the network's units.

    Reference: DeVries and Taylor, *Improved regularization of convolutional neural networks with
    cutout*, 2017, section 3.2.
    """

    size: int = 8
    fill: float = 0.0
    pictures_only = True

    def __post_init__(self) -> None:
        """Checks the size."""
        if self.size != 0:
            positive("size", self.size)
        _in_range("fill", self.fill, -math.inf, math.inf)

    def __call__(self, key: Key, inputs: jax.Array, targets: jax.Array):
        """Returns covered pictures."""
        side = jnp.full((len(inputs),), float(self.size))
        box = _boxes(key, side, side, *inputs.shape[1:3])[..., None]
        return jnp.where(box, jnp.asarray(self.fill, inputs.dtype), inputs), targets


@dataclasses.dataclass(frozen=True)
class InputNoise:
    r"""Gaussian noise on the inputs, :math:`x' = x + \sigma \varepsilon`.

    Attributes:
      std: σ, in the network's units; 0 for none.

    Reference: Bishop, *Training with noise is equivalent to Tikhonov regularization*, 1995.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        """Checks σ."""
        _in_range("std", self.std, 0, math.inf)

    def __call__(self, key: Key, inputs: jax.Array, targets: jax.Array):
        """Returns noisy inputs."""
        return inputs + self.std * jax.random.normal(key, inputs.shape, inputs.dtype), targets


@dataclasses.dataclass(frozen=True)
class Shift:
    """Pictures moved by whole pixels, up to `pixels` up or down, left or right; zeros come in.

    Attributes:
      pixels: the most pixels in either direction; 0 for none.
    """

    pixels: int = 2
    pictures_only = True

    def __post_init__(self) -> None:
        """Checks the number of pixels."""
        if self.pixels != 0:
            positive("pixels", self.pixels)

    def __call__(self, key: Key, inputs: jax.Array, targets: jax.Array):
        """Returns moved pictures."""
        p, (_, height, width, channels) = self.pixels, inputs.shape
        padded = jnp.pad(inputs, ((0, 0), (p, p), (p, p), (0, 0)))
        starts = jax.random.randint(key, (len(inputs), 2), 0, 2 * p + 1)

        def move(picture, start):
            start = (start[0], start[1], jnp.zeros_like(start[0]))
            return jax.lax.dynamic_slice(picture, start, (height, width, channels))

        return jax.vmap(move)(padded, starts), targets


@dataclasses.dataclass(frozen=True)
class Rotation:
    """Pictures turned by an angle ~ U(−degrees, degrees), bilinear; zeros come in.

    Attributes:
      degrees: at most 45, since a 6 that is turned too far is a 9; 0 for none.
    """

    degrees: float = 15.0
    pictures_only = True

    def __post_init__(self) -> None:
        """Checks the angle."""
        _in_range("degrees", self.degrees, 0, 45, closed=True)

    def __call__(self, key: Key, inputs: jax.Array, targets: jax.Array):
        """Returns turned pictures."""
        if self.degrees == 0:
            return inputs, targets
        limit = math.radians(self.degrees)
        angles = jax.random.uniform(key, (len(inputs),), inputs.dtype, -limit, limit)
        return jax.vmap(_turn)(inputs, angles), targets


@dataclasses.dataclass(frozen=True)
class Flip:
    """Every second picture is mirrored, left to right: for animals and cars, not for letters.

    Attributes:
      probability: of being mirrored; 0 for never.
    """

    probability: float = 0.5
    pictures_only = True

    def __post_init__(self) -> None:
        """Checks the probability."""
        _in_range("probability", self.probability, 0, 1, closed=True)

    def __call__(self, key: Key, inputs: jax.Array, targets: jax.Array):
        """Returns pictures of which some are mirrored."""
        mirrored = jax.random.bernoulli(key, self.probability, (len(inputs), 1, 1, 1))
        return jnp.where(mirrored, inputs[:, :, ::-1], inputs), targets


def _mix(x: jax.Array, share: jax.Array) -> jax.Array:
    """`share` of each example and the rest of the one before it."""
    share = share.reshape(-1, *(1 for _ in x.shape[1:])).astype(x.dtype)
    return share * x + (1 - share) * jnp.roll(x, 1, axis=0)


def _boxes(key: Key, heights: jax.Array, widths: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels lie in a box whose centre is drawn from the picture, `[batch, H, W]`."""

    def inside(key, sizes, length):
        centres = jax.random.uniform(key, sizes.shape, maxval=float(length))
        starts = jnp.round(centres - sizes / 2)[:, None]
        pixels = jnp.arange(length)
        return (pixels >= starts) & (pixels < starts + jnp.round(sizes)[:, None])

    key_row, key_column = jax.random.split(key)
    rows, columns = inside(key_row, heights, height), inside(key_column, widths, width)
    return rows[:, :, None] & columns[:, None, :]


def _turn(picture: jax.Array, angle: jax.Array) -> jax.Array:
    """A picture `[H, W, C]` turned about its centre."""
    height, width, _ = picture.shape
    y, x = (jnp.arange(n, dtype=picture.dtype) - (n - 1) / 2 for n in (height, width))
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    rows = cosine * y[:, None] - sine * x[None, :] + (height - 1) / 2
    columns = sine * y[:, None] + cosine * x[None, :] + (width - 1) / 2
    turn = jax.vmap(lambda c: map_coordinates(c, [rows, columns], order=1), in_axes=2, out_axes=2)
    return turn(picture)


AUGMENTATIONS = {
    "label_smoothing": LabelSmoothing,
    "mixup": Mixup,
    "cutmix": CutMix,
    "cutout": Cutout,
    "input_noise": InputNoise,
    "shift": Shift,
    "rotation": Rotation,
    "flip": Flip,
}
