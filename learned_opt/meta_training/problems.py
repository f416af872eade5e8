"""Inner problems in flight: started staggered, replaced at the horizon, sharded over devices.

What every estimator of the meta-gradient does with them, whatever it then makes of their losses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from learned_opt.types import InnerState, Instance, Key, Task, Theta, UpdateRule
from learned_opt.unroll import checked_loss, draw, init_inner

AXIS = "tasks"  # the name of the mesh axis along which the inner problems are sharded


class Problems(NamedTuple):
    """The inner problems in flight; every leaf has a leading axis of the N problems.

    Attributes:
      inner: the optimizees and the states of their optimizers.
      inner_step: int32 `[N]`, inner steps done; a problem is replaced when it reaches the horizon.
    """

    inner: InnerState
    inner_step: jax.Array


def check_mesh(mesh: Mesh | None, num_tasks: int) -> None:
    """Raises `ValueError` unless the mesh has the one axis 'tasks', which divides `num_tasks`."""
    if mesh is not None and (mesh.axis_names != (AXIS,) or num_tasks % mesh.size):
        raise ValueError(
            f"the mesh must have the single axis {AXIS!r} and a size that divides num_tasks "
            f"({num_tasks}), got {mesh}"
        )


def sharded(fn: Callable[..., Any], mesh: Mesh | None, *, in_specs: Any, out_specs: Any) -> Any:
    """`fn` on each device's own problems: `jax.shard_map`, or `fn` itself without a mesh."""
    if mesh is None:
        return fn
    return jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def local_problems(mesh: Mesh | None, num_tasks: int) -> jax.Array:
    """The numbers of this device's problems; call it inside of `sharded`."""
    if mesh is None:
        return jnp.arange(num_tasks)
    local = num_tasks // mesh.size
    return jax.lax.axis_index(AXIS) * local + jnp.arange(local)


def start(
    tx: optax.GradientTransformation,
    task: Task,
    key: Key,
    *,
    mesh: Mesh | None,
    num_tasks: int,
    segment: int,
    horizon: int,
) -> Problems:
    """Draws this device's problems, in segments staggered over the horizon.

    Args:
      tx: the rule's transformation.
      task: where the problems come from.
      key: problem n uses `fold_in(key, n)`.
      mesh: as given to `sharded`.
      num_tasks: N, problems over all devices.
      segment: inner steps between two estimates.
      horizon: inner steps of one problem, a multiple of `segment`.
    """
    index = local_problems(mesh, num_tasks)
    inner = jax.vmap(lambda n: init_inner(tx, task, jax.random.fold_in(key, n)))(index)
    begun = segment * (index * (horizon // segment) // num_tasks)
    return Problems(inner, begun.astype(jnp.int32))


def renew(
    tx: optax.GradientTransformation, task: Task, key: Key, problem: Problems, *, horizon: int
) -> tuple[InnerState, jax.Array, Key]:
    """One problem to go on with, a fresh one at the horizon; its step; the key of its segment."""
    key_reset, key_segment = jax.random.split(key)
    fresh = problem.inner_step >= horizon
    inner = jax.lax.cond(fresh, lambda: init_inner(tx, task, key_reset), lambda: problem.inner)
    return inner, jnp.where(fresh, 0, problem.inner_step), key_segment


class FlatTask:
    """A task whose parameters are one flat vector `[P]`; lives only while a function is traced."""

    def __init__(self, task: Task):
        """Finds out the sizes of the parameters' leaves."""
        self.task = task
        params = jax.eval_shape(lambda key: draw(task, key)[1], jax.random.key(0))
        self.sizes = tuple(p.size for p in jax.tree.leaves(params))
        self.unravel = ravel_pytree(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params))[1]

    def sample(self, key: Key) -> Instance:
        """As the task."""
        return self.task.sample(key)

    def init(self, key: Key, instance: Instance) -> jax.Array:
        """The task's starting parameters, `[P]`."""
        return ravel_pytree(self.task.init(key, instance))[0]

    def loss(
        self, params: jax.Array, instance: Instance, key: Key, split: str = "train"
    ) -> jax.Array:
        """The task's loss at the parameters `[P]`."""
        return checked_loss(self.task, self.unravel(params), instance, key, split)


def flat_transform(
    rule: UpdateRule,
) -> Callable[[Theta], optax.GradientTransformationExtraArgs]:
    """A coordinatewise rule's `transform` for one flat vector of parameters `[P]`.

    The transformation of a single number is vmapped over the coordinates, with those of the state
    on the *last* axis, `[features, P]`, whatever the rule's own layout is: a layer of a learned
    rule then is one product W `[m, n]` · x `[n, P]`, and blocks of coordinates are slices of the
    last axis. Counts and the like stay as they are. A rule may bring that itself
    (`UpdateRule.coordinates_last`).
    """
    if rule.coordinates_last is not None:
        return rule.coordinates_last

    def transform(theta: Theta) -> optax.GradientTransformationExtraArgs:
        tx = rule.transform(theta)
        scalar = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((), jnp.float32))
        axes = optax.tree.map_params(tx, lambda _: -1, scalar, transform_non_params=lambda _: None)

        def init_fn(params):
            if not jax.tree.leaves(params):  # the placeholder of optax.tree.map_params
                return tx.init(params)
            return jax.vmap(tx.init, out_axes=axes)(params)

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args  # the update of a coordinate depends on its own history alone
            return jax.vmap(
                tx.update, in_axes=(0, axes, None if params is None else 0), out_axes=(0, axes)
            )(updates, state, params)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return transform


def at_least_float32(x: jax.Array) -> jax.Array:
    """For sums and means: bfloat16 adds up to 256 and no further."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
