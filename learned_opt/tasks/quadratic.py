"""Random quadratic functions: the synthetic family of the paper."""

import dataclasses

import jax
import jax.numpy as jnp

from learned_opt.tasks import datasets

_INIT_SCALE = {'uniform': 0.01, 'gaussian': 1.0}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quadratic:
    r"""Functions :math:`f(\theta) = \lVert W \theta - y \rVert^2` with random W and y.

    Two families are common. ``'uniform'`` is the one of the paper's published code and of the scale
    of its figure: :math:`W_{ij}, y_i \sim U[0, 1)` and :math:`\theta_0 \sim N(0, 0.01^2)`.
    ``'gaussian'`` is the one of the paper's text: :math:`W_{ij}, y_i \sim N(0, 1)` and
    :math:`\theta_0 \sim N(0, 1)`.

    Attributes:
        num_dims: Dimension d of the problem.
        family: ``'uniform'`` or ``'gaussian'``.
        init_scale: Standard deviation of the start :math:`\theta_0`; ``None`` takes the family's.

    Raises:
        ValueError: If ``num_dims`` is below 1, the family is unknown or the scale is negative.

    Example:
        >>> import jax
        >>> from learned_opt.tasks import Quadratic
        >>> task = Quadratic(num_dims=3)
        >>> key = jax.random.key(0)
        >>> instance = task.sample(key)
        >>> params = task.init(key, instance)
        >>> instance['W'].shape, params.shape, task.loss(params, instance, key).shape
        ((3, 3), (3,), ())

    References:
        Andrychowicz et al., `Learning to learn by gradient descent by gradient descent
        <https://arxiv.org/abs/1606.04474>`_, 2016.
    """

    num_dims: int = dataclasses.field(default=10, metadata={'static': True})
    family: str = dataclasses.field(default='uniform', metadata={'static': True})
    init_scale: float | None = dataclasses.field(default=None, metadata={'static': True})

    def __post_init__(self):
        if self.num_dims < 1:
            raise ValueError(f'num_dims must be at least 1, got {self.num_dims}')
        if self.family not in _INIT_SCALE:
            raise ValueError(f'unknown family {self.family!r}; known: {", ".join(_INIT_SCALE)}')
        if self.init_scale is not None and not self.init_scale >= 0:
            raise ValueError(f'init_scale must not be negative, got {self.init_scale}')

    def sample(self, key):
        """Draws one function.

        Args:
            key: A random key.

        Returns:
            ``{'W': [d, d], 'y': [d]}``.
        """
        draw = jax.random.uniform if self.family == 'uniform' else jax.random.normal
        w_key, y_key = jax.random.split(key)
        return {'W': draw(w_key, (self.num_dims, self.num_dims)), 'y': draw(y_key, (self.num_dims,))}

    def init(self, key, instance):
        """Draws the start of an optimization, an array [d]."""
        del instance  # The start does not depend on the function.
        scale = _INIT_SCALE[self.family] if self.init_scale is None else self.init_scale
        return scale * jax.random.normal(key, (self.num_dims,))

    def loss(self, params, instance, key):
        """The function's value, a scalar; it is deterministic, so ``key`` plays no part."""
        del key
        return jnp.sum((instance['W'] @ params - instance['y']) ** 2)

    def evaluate(self, params, instance, split):
        """The function's value as ``{'loss': scalar}``, the same for every split."""
        datasets.check_split(split)
        return {'loss': self.loss(params, instance, None)}
