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
from jax.sharding import PartitionSpec as P

from learned_opt.types import InnerState, Instance, Key, Params, Task, Theta, UpdateRule
from learned_opt.unroll import checked_loss, draw, init_inner, labels

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


def check_sizes(estimator: Any) -> None:
    """Checks `num_tasks`, `unroll_length`, `horizon` and `mesh` of an estimator over segments."""
    for name in ("num_tasks", "unroll_length", "horizon"):
        if getattr(estimator, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(estimator, name)}")
    if estimator.horizon % estimator.unroll_length:
        raise ValueError(
            f"horizon ({estimator.horizon}) must be a multiple of unroll_length "
            f"({estimator.unroll_length})"
        )
    check_mesh(estimator.mesh, estimator.num_tasks)


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
    estimator: Any,
    make: Callable[[Any, Theta], optax.GradientTransformation],
    key: Key,
    theta: Theta,
) -> Problems:
    """Draws an estimator's problems, in segments staggered over the horizon.

    Args:
      estimator: one with the fields that `check_sizes` checks, and `task` and `rule`.
      make: `make(estimator, theta)`, what moves the parameters; called on every device.
      key: problem n uses `fold_in(key, n)`.
      theta: the rule's parameters.
    """
    num_tasks, segments = estimator.num_tasks, estimator.horizon // estimator.unroll_length

    def start_local(estimator, key, theta):
        tx, task = make(estimator, theta), inner_task(estimator)
        index = local_problems(estimator.mesh, num_tasks)
        inner = jax.vmap(lambda n: init_inner(tx, task, jax.random.fold_in(key, n)))(index)
        begun = estimator.unroll_length * (index * segments // num_tasks)
        return Problems(inner, begun.astype(jnp.int32))

    in_specs, out_specs = (P(), P(), P()), P(AXIS)
    return sharded(start_local, estimator.mesh, in_specs=in_specs, out_specs=out_specs)(
        estimator, key, theta
    )


def renew(
    tx: optax.GradientTransformation, task: Task, key: Key, problem: Problems, *, horizon: int
) -> tuple[InnerState, jax.Array, Key]:
    """One problem to go on with, a fresh one at the horizon; its step; the key of its segment."""
    key_reset, key_segment = jax.random.split(key)
    fresh = problem.inner_step >= horizon
    inner = jax.lax.cond(fresh, lambda: init_inner(tx, task, key_reset), lambda: problem.inner)
    return inner, jnp.where(fresh, 0, problem.inner_step), key_segment


def inner_task(estimator: Any) -> Any:
    """An estimator's task, with flat parameters where its rule is coordinatewise."""
    rule = estimator.rule
    return FlatTask(estimator.task, rule) if rule.coordinatewise else estimator.task


def inner_transform(rule: UpdateRule) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """A rule's `transform` for the parameters of `inner_task`."""
    return flat_transform(rule) if rule.coordinatewise else rule.transform


class FlatTask:
    """A task whose parameters are one flat vector `[P]`; lives only while a function is traced.

    For a rule with parts they are a dict of such vectors, one a label.
    """

    def __init__(self, task: Task, rule: UpdateRule | None = None):
        """Finds out the sizes of the parameters' leaves, and for a rule with parts their labels."""
        self.task = task
        params = jax.eval_shape(lambda key: draw(task, key)[1], jax.random.key(0))
        leaves, self._treedef = jax.tree.flatten(params)
        self._dtypes = [p.dtype for p in leaves]
        self._shapes = [p.shape for p in leaves]
        self._labelled = rule is not None and bool(rule.parts)
        known: tuple[str, ...] = ("",)
        own = [""] * len(leaves)
        if rule is not None and rule.label_fn is not None:
            known = tuple(label for label, _ in rule.parts)
            own = jax.tree.leaves(labels(rule.label_fn, known, params))
        self._rows = {label: [n for n, x in enumerate(own) if x == label] for label in known}
        sizes = {label: tuple(leaves[n].size for n in rows) for label, rows in self._rows.items()}
        self.sizes: Any = sizes if self._labelled else sizes[""]

    def _ravel(self, params: Params) -> Any:
        leaves = jax.tree.leaves(params)
        flat = {
            label: ravel_pytree([leaves[n] for n in rows])[0] for label, rows in self._rows.items()
        }
        return flat if self._labelled else flat[""]

    def unravel(self, flat: Any) -> Params:
        """The task's own parameters."""
        leaves: list[Any] = [None] * len(self._shapes)
        for label, rows in self._rows.items():
            like = [jnp.zeros(self._shapes[n], self._dtypes[n]) for n in rows]
            back = ravel_pytree(like)[1](flat[label] if self._labelled else flat)
            for n, leaf in zip(rows, back, strict=True):
                leaves[n] = leaf
        return jax.tree.unflatten(self._treedef, leaves)

    def sample(self, key: Key) -> Instance:
        """As the task."""
        return self.task.sample(key)

    def init(self, key: Key, instance: Instance) -> Any:
        """The task's starting parameters, `[P]`."""
        return self._ravel(self.task.init(key, instance))

    def loss(self, params: Any, instance: Instance, key: Key, split: str = "train") -> jax.Array:
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
    (`UpdateRule.coordinates_last`). For a rule with parts, the parameters, and the state, are dicts
    with one entry a label.
    """
    if rule.parts:
        parts = {label: flat_transform(part) for label, part in rule.parts}
        return lambda theta: _side_by_side({k: part(theta[k]) for k, part in parts.items()})
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


def _side_by_side(
    parts: dict[str, optax.GradientTransformationExtraArgs],
) -> optax.GradientTransformationExtraArgs:
    """Each transformation on its own entry of a dict."""

    def init_fn(params):
        return {label: tx.init(params[label]) for label, tx in parts.items()}

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        done = {
            label: tx.update(
                updates[label], state[label], None if params is None else params[label]
            )
            for label, tx in parts.items()
        }
        return {k: x[0] for k, x in done.items()}, {k: x[1] for k, x in done.items()}

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def at_least_float32(x: jax.Array) -> jax.Array:
    """For sums and means: bfloat16 adds up to 256 and no further."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
