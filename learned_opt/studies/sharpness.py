"""How sharp a minimum is: curvature of a loss at some parameters, and slices through it.

A loss here is a function of the parameters alone, such as that of `whole_loss(task, instance)`. It
is compiled once for all parameters of the same shapes, so make it once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from learned_opt.tasks.checks import positive
from learned_opt.types import Instance, Key, Params, Scalar, Task

Loss: TypeAlias = Callable[[Params], Scalar]


def whole_loss(task: Task, instance: Instance = (), split: str = "train") -> Loss:
    """The mean loss over a whole split, as `task.evaluate` measures it."""
    return lambda params: task.evaluate(params, instance, split)["loss"]


class Trace(NamedTuple):
    """An estimate, and its standard error over the probes."""

    mean: float
    standard_error: float


def top_eigenvalues(
    loss: Loss, params: Params, count: int = 1, *, seed: int = 0, tolerance: float = 1e-4
) -> np.ndarray:
    """The largest eigenvalues of the Hessian ∇²f(w), by Lanczos on Hessian-vector products.

    Args:
      loss: f.
      params: w, of n numbers.
      count: how many, less than n.
      seed: of the vector that Lanczos starts from.
      tolerance: relative accuracy, of `scipy.sparse.linalg.eigsh`.

    Returns:
      Eigenvalues from the largest down, float64 `[count]`.

    Raises:
      ValueError: a count that is not from 1 to n − 1, or a loss whose curvature is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = lambda w: 3 * w[0] ** 2 + w[1] ** 2 + w[0] * w[2]
      >>> top_eigenvalues(loss, jnp.ones(3)).round(2)
      array([6.16])
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    flat, _ = ravel_pytree(params)
    count = positive("count", count)
    if count >= len(flat):
        raise ValueError(f"count must be less than the {len(flat)} parameters, got {count}")

    def multiply(vector: np.ndarray) -> np.ndarray:
        v = jnp.asarray(vector.ravel(), flat.dtype)
        found = np.asarray(_times_hessian(loss, params, v), np.float64)
        if not np.isfinite(found).all():
            raise ValueError("the curvature is not finite: the loss may be, or have, no derivative")
        return found

    operator = LinearOperator((len(flat), len(flat)), matvec=multiply, dtype=np.float64)
    start = np.random.default_rng(seed).normal(size=len(flat))
    values = eigsh(operator, count, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return np.sort(values)[::-1]


def trace(loss: Loss, params: Params, key: Key, num_probes: int = 100) -> Trace:
    r"""The trace of the Hessian, by Hutchinson's estimator.

    .. math:: \mathrm{tr} H = E[z^\top H z], \quad z_i = \pm 1 \text{ at random}

    With as many probes as there are parameters the sum of e_iᵀ H e_i costs no more and is exact, so
    that is taken; the standard error is then zero.

    Raises:
      ValueError: fewer than two probes.

    Reference: Hutchinson, *A stochastic estimator of the trace of the influence matrix*, 1989.
    """
    if positive("num_probes", num_probes) < 2:
        raise ValueError("num_probes must be at least 2, for a standard error")
    size = sum(w.size for w in jax.tree.leaves(params))
    if num_probes >= size:
        diagonal = np.asarray(_diagonal(loss, params), np.float64)
        return Trace(float(diagonal.sum()), 0.0)
    values = np.asarray(_probes(loss, params, jax.random.split(key, num_probes)), np.float64)
    return Trace(float(values.mean()), float(values.std(ddof=1) / num_probes**0.5))


def epsilon_sharpness(
    loss: Loss, params: Params, epsilon: float = 1e-3, *, iterations: int = 10, seed: int = 0
) -> float:
    r"""How much worse the loss can become close by, in percent.

    .. math:: \phi = 100\; \frac{\max_z f(w + z) - f(w)}{1 + f(w)}, \quad
              |z_i| \le \epsilon\,(|w_i| + 1)

    The maximum is sought by L-BFGS-B, in so many iterations, as in the paper, here from two starts:
    uphill, and a random one (`seed`).

    Raises:
      ValueError: an ε that is not positive and finite, or no iteration.

    Reference: Keskar et al., *On large-batch training for deep learning*, 2017, section 2.2.2.
    """
    from scipy.optimize import minimize

    if not 0 < epsilon < np.inf:
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    positive("iterations", iterations)
    flat, _ = ravel_pytree(params)

    def objective(z: np.ndarray):
        value, grad = _value_and_grad(loss, params, jnp.asarray(z, flat.dtype))
        return -float(value), -np.asarray(grad, np.float64)

    size = len(flat)
    bound = epsilon * (np.abs(np.asarray(flat, np.float64)) + 1)
    middle, grad = objective(np.zeros(size))
    # From where the gradient points, and from anywhere: at a minimum it points nowhere.
    starts = [-np.sign(grad), np.random.default_rng(seed).uniform(-1, 1, size)]
    lowest = min(
        minimize(
            objective,
            0.5 * bound * start,
            jac=True,
            method="L-BFGS-B",
            bounds=np.stack([-bound, bound], axis=1),
            options={"maxiter": iterations},
        ).fun
        for start in starts
    )
    return 100 * max(middle - lowest, 0.0) / (1 - middle)


def filter_normalized(key: Key, params: Params) -> Params:
    """A random direction in which every filter is as long as that of the parameters.

    A filter is what makes one output: a column of a matrix `[in, out]`, `[h, w, in, out]` without
    its last axis. Biases and scales do not move. Rescaled networks then have the same slices.

    Reference: Li et al., *Visualizing the loss landscape of neural nets*, 2018, section 4.
    """
    leaves, treedef = jax.tree.flatten(params)
    found = []
    for n, w in enumerate(leaves):
        if w.ndim < 2:
            found.append(jnp.zeros_like(w))
            continue
        d = jax.random.normal(jax.random.fold_in(key, n), w.shape, w.dtype)
        axes = tuple(range(w.ndim - 1))
        lengths = [jnp.sqrt(jnp.square(x).sum(axes)) for x in (w, d)]
        found.append(d * lengths[0] / jnp.maximum(lengths[1], 1e-10))
    return jax.tree.unflatten(treedef, found)


def slice_of(
    loss: Loss, params: Params, directions: Sequence[Params], reach: float = 1.0, points: int = 21
) -> tuple[np.ndarray, np.ndarray]:
    """Losses on a line or a plane through the parameters.

    Args:
      loss: the loss.
      params: the middle.
      directions: one direction or two, trees like the parameters.
      reach: how far to go, in lengths of the directions.
      points: points along a direction, an odd number, so that the middle is one of them.

    Returns:
      Where, `[points]` from −reach to reach; and the losses, `[points]` or `[points, points]` with
      the first direction along the first axis.

    Raises:
      ValueError: not one or two directions, a reach that is not positive, or an even number of
        points.
    """
    if len(directions) not in (1, 2):
        raise ValueError(f"a slice has one direction or two, got {len(directions)}")
    if not 0 < reach < np.inf:
        raise ValueError(f"reach must be positive and finite, got {reach}")
    if positive("points", points) % 2 == 0:
        raise ValueError(f"points must be odd, so that the middle is one of them, got {points}")
    places = jnp.linspace(-reach, reach, points)
    grid = jnp.stack(jnp.meshgrid(*[places] * len(directions), indexing="ij"), axis=-1)

    losses = _losses_at(loss, params, tuple(directions), grid.reshape(-1, len(directions)))
    return np.asarray(places), np.asarray(losses).reshape(grid.shape[:-1])


@functools.partial(jax.jit, static_argnames="loss")
def _times_hessian(loss: Loss, params: Params, vector: jax.Array) -> jax.Array:
    """The product of the Hessian with a flat vector."""
    flat, unravel = ravel_pytree(params)
    return jax.jvp(jax.grad(lambda w: loss(unravel(w))), (flat,), (vector,))[1]


@functools.partial(jax.jit, static_argnames="loss")
def _diagonal(loss, params):
    flat, _ = ravel_pytree(params)

    def entry(n):
        return _times_hessian(loss, params, jnp.zeros_like(flat).at[n].set(1))[n]

    return jax.lax.map(entry, jnp.arange(len(flat)))


@functools.partial(jax.jit, static_argnames="loss")
def _probes(loss, params, keys):
    flat, _ = ravel_pytree(params)

    def probe(key):
        z = jax.random.rademacher(key, flat.shape, flat.dtype)
        return z @ _times_hessian(loss, params, z)

    return jax.lax.map(probe, keys)


@functools.partial(jax.jit, static_argnames="loss")
def _value_and_grad(loss, params, z):
    flat, unravel = ravel_pytree(params)
    return jax.value_and_grad(lambda z: loss(unravel(flat + z)))(z)


@functools.partial(jax.jit, static_argnames="loss")
def _losses_at(loss, params, directions, places):
    def at(place):
        def move(w, *ds):
            return w + sum(
                (p * d for p, d in zip(place, ds, strict=True)), jnp.zeros((), w.dtype)
            ).astype(w.dtype)

        return loss(jax.tree.map(move, params, *directions))

    return jax.lax.map(at, places)
