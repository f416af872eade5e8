"""Functions of two variables, to look at how an optimizer moves."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from learned_opt.tasks import datasets
from learned_opt.types import Key, Metrics, Scalar

Point: TypeAlias = tuple[float, float]  # (x, y)


class _Shape(NamedTuple):
    value: Callable[[jax.Array, jax.Array], jax.Array]
    start: Point
    window: tuple[Point, Point]
    minima: tuple[Point, ...]


def _saddle(x, y):
    return x**2 - y**2


def _rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _beale(x, y):
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def _ravine(x, y):
    # Curvature 0.1 along the diagonal and 10 across it.
    return 0.025 * (x + y) ** 2 + 2.5 * (x - y) ** 2


def _six_hump_camel(x, y):
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (4 * y**2 - 4) * y**2


_SHAPES = {
    "saddle": _Shape(_saddle, (-1.5, 0.01), ((-2.0, 2.0), (-2.0, 2.0)), ()),
    "rosenbrock": _Shape(_rosenbrock, (-1.2, 1.0), ((-2.0, 2.0), (-1.0, 3.0)), ((1.0, 1.0),)),
    "beale": _Shape(_beale, (1.0, 1.5), ((-4.5, 4.5), (-4.5, 4.5)), ((3.0, 0.5),)),
    "ravine": _Shape(_ravine, (-2.5, -1.5), ((-3.0, 3.0), (-3.0, 3.0)), ((0.0, 0.0),)),
    "multimodal": _Shape(
        _six_hump_camel,
        (-1.1, 1.1),
        ((-2.2, 2.2), (-1.3, 1.3)),
        (
            (0.089842, -0.712656),
            (-0.089842, 0.712656),
            (1.703607, -0.796084),
            (-1.703607, 0.796084),
            (1.607105, 0.568651),
            (-1.607105, -0.568651),
        ),
    ),
}
SURFACES = tuple(_SHAPES)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Surface:
    """A fixed function f(x, y), minimized from a fixed start.

    - `"saddle"`: x² − y², without a minimum; the start is almost on the line that leads to 0.
    - `"rosenbrock"`: (1 − x)² + 100 (y − x²)², a curved valley with its minimum at (1, 1).
    - `"beale"`: (1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)², plains and steep walls
      around a minimum at (3, 0.5).
    - `"ravine"`: (x + y)² / 40 + 5 (x − y)² / 2, a quadratic of condition number 100 that is not
      aligned with the axes.
    - `"multimodal"`: (4 − 2.1 x² + x⁴/3) x² + xy + (4 y² − 4) y², the six-hump camel function, with
      six minima, two of them global.

    Attributes:
      name: one of the names above.

    Raises:
      ValueError: the name is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from learned_opt.tasks import Surface
      >>> surface = Surface("rosenbrock")
      >>> surface.start, surface.minima
      ((-1.2, 1.0), ((1.0, 1.0),))
      >>> (x_low, x_high), (y_low, y_high) = surface.window
      >>> x, y = jnp.meshgrid(jnp.linspace(x_low, x_high, 5), jnp.linspace(y_low, y_high, 5))
      >>> surface.value(x, y).shape
      (5, 5)
    """

    name: str = dataclasses.field(default="saddle", metadata={"static": True})

    def __post_init__(self) -> None:
        """Checks the name."""
        if self.name not in _SHAPES:
            raise ValueError(f"unknown surface {self.name!r}; known: {', '.join(_SHAPES)}")

    @property
    def start(self) -> Point:
        """Where optimizations start, (x, y)."""
        return _SHAPES[self.name].start

    @property
    def window(self) -> tuple[Point, Point]:
        """What to plot, ((x_low, x_high), (y_low, y_high)); the start and all minima lie in it."""
        return _SHAPES[self.name].window

    @property
    def minima(self) -> tuple[Point, ...]:
        """Every local minimum, (x, y), the lowest first."""
        return _SHAPES[self.name].minima

    def value(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns f(x, y), element by element."""
        return _SHAPES[self.name].value(x, y)

    def sample(self, key: Key) -> tuple[()]:
        """Returns `()`: there is one problem in this family."""
        del key
        return ()

    def init(self, key: Key, instance: tuple[()]) -> jax.Array:
        """Returns the start as an array `[2]`; it is fixed, so `key` plays no part."""
        del key, instance
        return jnp.array(self.start)

    def loss(
        self, params: jax.Array, instance: tuple[()], key: Key, split: str = "train"
    ) -> Scalar:
        """Returns f at params `[2]`, for every key and split: there are no examples to draw."""
        del instance, key
        datasets.check_split(split)
        return self.value(params[0], params[1])

    def evaluate(self, params: jax.Array, instance: tuple[()], split: str) -> Metrics:
        """Returns `{"loss": f(params)}`, the same for every split."""
        del instance
        datasets.check_split(split)
        return {"loss": self.value(params[0], params[1])}
