"""Estimators: how the gradient of the meta-loss with respect to θ is found."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from learned_opt.meta_training.unroll import init_inner, inner_step
from learned_opt.types import InnerState, Instance, Key, Metrics, Params, Task, Theta, UpdateRule

AXIS = "tasks"  # the name of the mesh axis along which the inner problems are sharded


class TruncatedBPTTState(NamedTuple):
    """The inner problems in flight; every leaf has a leading axis of the N problems.

    Attributes:
      inner: the optimizees and the states of their optimizers.
      inner_step: int32 `[N]`, inner steps done; a problem is replaced when it reaches the horizon.
    """

    inner: InnerState
    inner_step: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["task"],
    meta_fields=[
        "rule",
        "num_tasks",
        "unroll_length",
        "horizon",
        "second_order",
        "mapping",
        "block_size",
        "replay_fraction",
        "mesh",
    ],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedBPTT:
    r"""Truncated backpropagation through time over N problems in flight.

    Each call of `estimate` carries every problem on by T = `unroll_length` steps and differentiates
    the meta-loss of that segment, with the state at its start held fixed:

        L(θ) = mean over problems of Σ_{t=1…T} f_t(params_t(θ)),   f_t the minibatch loss at step t.

    The losses are counted *after* each update, so that every update is paid for. A problem that
    reaches `horizon` is replaced by a fresh one: new instance, new starting parameters, new
    minibatches. Problems start staggered over the horizon, so that every meta-gradient sees early
    and late steps alike.

    With `second_order=False`, as in the paper, ∂∇f/∂θ is dropped: gradients are inputs of the rule
    and are not differentiated. Then, with g_t the recorded gradients, the meta-gradient equals that
    of Σ_t ⟨g_t, params_t(θ)⟩ over the *recorded* gradient sequence: the roll-out needs no
    derivative and the task is never differentiated twice. For coordinatewise rules the parameters
    are one flat vector, and that replay goes over it block by block, each block staying in cache.

    A problem whose loss stops being finite is left out of the mean, counted in the metric
    `num_diverged` and replaced at the next call.

    Attributes:
      task: the distribution of inner problems.
      rule: the update rule whose θ is trained.
      num_tasks: N, problems in flight (over all devices).
      unroll_length: T, steps in a segment.
      horizon: steps in one inner optimization; a multiple of T.
      second_order: whether to differentiate through the gradients too.
      mapping: 'vmap' runs the problems of a device together (accelerators), 'map' one after
        another (faster on CPU for all but tiny problems, and N times less memory).
      block_size: coordinates in a block of the replay; 0 for all at once.
      replay_fraction: share of the coordinates that the replay goes over, drawn afresh for every
        segment and weighted by the inverse, so that the meta-gradient stays unbiased while the
        replay, most of the work, shrinks in proportion. Thousands of coordinates share one θ: the
        noise this adds is small beside that between problems. Small leaves are kept whole.
        Coordinatewise rules with `second_order=False` only.
      mesh: a mesh with the single axis 'tasks' to shard the problems along, or None. θ is
        replicated, and one all-reduce of the meta-gradient is the only traffic.

    Raises:
      ValueError: a number below one, a horizon that T does not divide, an unknown mapping, or a
        number of problems that the mesh does not divide.

    Reference: Andrychowicz et al. (2016), section 2.
    """

    task: Task
    rule: UpdateRule
    num_tasks: int
    unroll_length: int
    horizon: int
    second_order: bool = False
    mapping: Literal["vmap", "map"] = "map"
    block_size: int = 512
    replay_fraction: float = 1.0
    mesh: Mesh | None = None

    def __post_init__(self):
        """Checks the static fields."""
        for name in ("num_tasks", "unroll_length", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.horizon % self.unroll_length:
            raise ValueError(
                f"horizon ({self.horizon}) must be a multiple of unroll_length "
                f"({self.unroll_length})"
            )
        if self.block_size < 0:
            raise ValueError(f"block_size must not be negative, got {self.block_size}")
        if not 0 < self.replay_fraction <= 1:
            raise ValueError(f"replay_fraction must be in (0, 1], got {self.replay_fraction}")
        if self.replay_fraction < 1 and (self.second_order or not self.rule.coordinatewise):
            raise ValueError(
                "replay_fraction below 1 needs a coordinatewise rule and second_order=False"
            )
        if self.mapping not in ("vmap", "map"):
            raise ValueError(f"unknown mapping {self.mapping!r}: expected 'vmap' or 'map'")
        if self.mesh is not None and (
            self.mesh.axis_names != (AXIS,) or self.num_tasks % self.mesh.size
        ):
            raise ValueError(
                f"the mesh must have the single axis {AXIS!r} and a size that divides "
                f"num_tasks ({self.num_tasks}), got {self.mesh}"
            )

    @property
    def steps_per_estimate(self) -> int:
        """Inner steps done by one call of `estimate`, over all problems."""
        return self.num_tasks * self.unroll_length

    def init(self, key: Key, theta: Theta) -> TruncatedBPTTState:
        """Draws the N problems, staggered over the horizon."""

        def init_local(estimator, key, theta):
            index = estimator._local_problems()
            tx = estimator.rule.transform(theta)
            task = estimator._inner_task()
            inner = jax.vmap(lambda n: init_inner(tx, task, jax.random.fold_in(key, n)))(index)
            segments = self.horizon // self.unroll_length
            start = self.unroll_length * (index * segments // self.num_tasks)
            return TruncatedBPTTState(inner, start.astype(jnp.int32))

        return self._sharded(init_local, in_specs=(P(), P(), P()), out_specs=P(AXIS))(
            self, key, theta
        )

    def estimate(
        self, key: Key, theta: Theta, state: TruncatedBPTTState
    ) -> tuple[Theta, TruncatedBPTTState, Metrics]:
        """Carries the problems on by one segment.

        Args:
          key: draws minibatches and fresh problems; problem n uses `fold_in(key, n)`.
          theta: the rule's parameters.
          state: the problems in flight.

        Returns:
          The meta-gradient (a tree like θ), the next state, and the metrics `meta_loss` (mean loss
          a step), `segment_end_loss` (mean loss after the segment's last update) and
          `num_diverged`.
        """

        def estimate_local(estimator, key, theta, state):
            keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(estimator._local_problems())
            one = functools.partial(estimator._one_problem, theta)
            if self.mapping == "vmap":
                results = jax.vmap(one)(keys, state)
                total, state = jax.tree.map(lambda x: x.sum(0), results[0]), results[1]
            else:
                first = jax.tree.map(lambda x: x[0], (keys, state))
                zeros = optax.tree.zeros_like(jax.eval_shape(one, *first)[0])
                total, state = jax.lax.scan(
                    lambda total, xs: _accumulate(total, one(*xs)), zeros, (keys, state)
                )
            if self.mesh is not None:
                total = jax.lax.psum(total, AXIS)
            grads, sums = total
            # A segment without a single finite problem gives NaN: the trainer skips and counts it.
            count = sums.pop("num_finite")
            mean = jax.tree.map(lambda x: x / count, (grads, sums))
            mean[1]["num_diverged"] = self.num_tasks - count
            return mean[0], state, mean[1]

        return self._sharded(
            estimate_local, in_specs=(P(), P(), P(), P(AXIS)), out_specs=(P(), P(AXIS), P())
        )(self, key, theta, state)

    def _one_problem(self, theta: Theta, key: Key, state: TruncatedBPTTState):
        """One segment of one problem: (its meta-gradient, its metrics) and its next state."""
        task = self._inner_task()
        tx = self.rule.transform(theta)
        key_reset, key_segment = jax.random.split(key)
        fresh = state.inner_step >= self.horizon
        inner = jax.lax.cond(
            fresh, lambda: init_inner(tx, task, key_reset), lambda: state.inner
        )
        inner_step_ = jnp.where(fresh, 0, state.inner_step)
        gradient = _second_order if self.second_order else _first_order
        grads, inner, losses = gradient(self, task, theta, inner, key_segment)
        finite = jnp.all(jnp.isfinite(losses)) & _all_finite(grads)
        sums = {
            "meta_loss": losses.mean(),
            "segment_end_loss": losses[-1],
            "num_finite": jnp.ones((), losses.dtype),
        }
        total = jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), (grads, sums))
        next_step = jnp.where(finite, inner_step_ + self.unroll_length, self.horizon)
        return total, TruncatedBPTTState(inner, next_step)

    def _inner_task(self) -> Task:
        return _FlatTask(self.task) if self.rule.coordinatewise else self.task

    def _local_problems(self) -> jax.Array:
        """The numbers of this device's problems."""
        if self.mesh is None:
            return jnp.arange(self.num_tasks)
        local = self.num_tasks // self.mesh.size
        return jax.lax.axis_index(AXIS) * local + jnp.arange(local)

    def _sharded(self, fn, *, in_specs, out_specs):
        if self.mesh is None:
            return fn
        return jax.shard_map(
            fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def shardings(self) -> tuple[NamedSharding, NamedSharding] | None:
        """The shardings of replicated values and of the problems in flight; None without a mesh."""
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, P()), NamedSharding(self.mesh, P(AXIS))


class _FlatTask:
    """A task whose parameters are one flat vector `[P]`; lives only while a function is traced."""

    def __init__(self, task: Task):
        self.task = task

        def init(key):
            key_sample, key_init = jax.random.split(key)
            return task.init(key_init, task.sample(key_sample))

        params = jax.eval_shape(init, jax.random.key(0))
        self.sizes = tuple(p.size for p in jax.tree.leaves(params))
        self.unravel = ravel_pytree(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params))[1]

    def sample(self, key: Key) -> Instance:
        return self.task.sample(key)

    def init(self, key: Key, instance: Instance) -> jax.Array:
        return ravel_pytree(self.task.init(key, instance))[0]

    def loss(self, params: jax.Array, instance: Instance, key: Key) -> jax.Array:
        return self.task.loss(self.unravel(params), instance, key)


def _accumulate(total, result):
    return jax.tree.map(jnp.add, total, result[0]), result[1]


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def _second_order(estimator: TruncatedBPTT, task, theta, inner, key):
    """Differentiates straight through the unroll."""
    length = estimator.unroll_length

    def segment_loss(theta):
        tx = estimator.rule.transform(theta)

        @jax.checkpoint
        def step(inner, t):
            inner, _ = inner_step(tx, task, inner, jax.random.fold_in(key, t))
            after = jax.random.fold_in(key, t + 1)
            return inner, task.loss(inner.params, inner.instance, after)

        last, losses = jax.lax.scan(step, inner, jnp.arange(length))
        return losses.sum(), (last, losses)

    grads, (last, losses) = jax.grad(segment_loss, has_aux=True)(theta)
    return grads, last, losses


def _first_order(estimator: TruncatedBPTT, task, theta, inner, key):
    """Rolls out, records the gradients, and differentiates the rule over the recorded sequence."""
    tx = estimator.rule.transform(theta)

    def step(inner, t):
        return inner_step(tx, task, inner, jax.random.fold_in(key, t))

    length = estimator.unroll_length
    last, (losses, grads) = jax.lax.scan(step, inner, jnp.arange(length))
    # The loss after the last update is still to be counted: one more gradient, on a minibatch that
    # belongs to this segment.
    end = jax.value_and_grad(task.loss)(
        last.params, last.instance, jax.random.fold_in(key, length)
    )
    losses, grads = jax.tree.map(
        lambda xs, x: jnp.concatenate([xs, x[None]]), (losses, grads), end
    )
    replay = functools.partial(_replay_gradient, estimator.rule, theta, losses[:-1])
    inputs, pulls = jax.tree.map(lambda x: x[:-1], grads), jax.tree.map(lambda x: x[1:], grads)
    recorded = (inputs, pulls, inner.params, inner.opt_state)
    if estimator.replay_fraction < 1:
        key_draw = jax.random.fold_in(key, length + 1)
        kept, weight = _draw_coordinates(key_draw, task.sizes, estimator.replay_fraction)
        recorded = _per_coordinate(lambda x: x[..., kept], tx, recorded)
        recorded = (recorded[0], recorded[1] * weight, *recorded[2:])
    if estimator.rule.coordinatewise and 0 < estimator.block_size < recorded[2].size:
        meta_grads = _blockwise(replay, tx, theta, recorded, estimator.block_size)
    else:
        meta_grads = replay(*recorded)
    return meta_grads, last, losses[1:]


def _draw_coordinates(
    key: Key, sizes: Sequence[int], fraction: float, at_least: int = 256
) -> tuple[jax.Array, np.ndarray]:
    """Draws coordinates of the flat parameters, without replacement within each leaf.

    Of a leaf with n coordinates `max(fraction · n, at_least)` are kept, so that small leaves
    (biases, output layers), which matter more than their size, are kept whole.

    Returns:
      The indices and, for each, the inverse of its probability of being kept.
    """
    indices, weights, start = [], [], 0
    for n, size in enumerate(sizes):
        kept = min(size, max(math.ceil(fraction * size), at_least))
        order = jnp.arange(size)
        if kept < size:
            order = jax.random.permutation(jax.random.fold_in(key, n), size)[:kept]
        indices.append(start + order)
        weights.append(np.full(kept, size / max(kept, 1), np.float32))
        start += size
    return jnp.concatenate(indices), np.concatenate(weights)


def _replay_gradient(
    rule: UpdateRule, theta: Theta, losses, inputs: Params, pulls: Params, params: Params, opt_state
) -> Theta:
    """The gradient with respect to θ of Σ_{t=1…T} ⟨g_t, params_t(θ)⟩ for recorded gradients.

    Args:
      rule: the rule.
      theta: where to differentiate.
      losses: f_0 … f_{T−1}, which some rules look at.
      inputs: g_0 … g_{T−1}, what the rule was fed.
      pulls: g_1 … g_T, which each pull at the parameters after one more update.
      params: the parameters before the first update.
      opt_state: the rule's state then.
    """

    def surrogate(theta):
        tx = optax.with_extra_args_support(rule.transform(theta))

        @jax.checkpoint
        def step(carry, recorded):
            params, opt_state = carry
            loss, g, pull = recorded
            updates, opt_state = tx.update(g, opt_state, params, value=loss, grad=g)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), optax.tree.vdot(pull, params)

        return jax.lax.scan(step, (params, opt_state), (losses, inputs, pulls))[1].sum()

    return jax.grad(surrogate)(theta)


def _per_coordinate(fn, tx, recorded, shared=lambda x: x):
    """Applies `fn` to all that has a last axis of coordinates, and `shared` to the rest."""
    *arrays, opt_state = recorded
    opt_state = optax.tree.map_params(tx, fn, opt_state, transform_non_params=shared)
    return *map(fn, arrays), opt_state


def _blockwise(replay, tx, theta: Theta, recorded, size: int) -> Theta:
    """Sums `replay` over blocks of `size` coordinates of the flat parameters.

    Padding coordinates have a zero gradient at all times and so contribute nothing.
    """
    num_coordinates = recorded[2].size
    num_blocks = -(-num_coordinates // size)

    def split(x: jax.Array) -> jax.Array:  # [..., P] -> [blocks, ..., size]
        padding = [(0, 0)] * (x.ndim - 1) + [(0, num_blocks * size - num_coordinates)]
        blocks = jnp.pad(x, padding).reshape(*x.shape[:-1], num_blocks, size)
        return jnp.moveaxis(blocks, -2, 0)

    def share(x: jax.Array) -> jax.Array:  # step counts and the like: the same for every block
        return jnp.broadcast_to(x, (num_blocks, *jnp.shape(x)))

    def block(total, xs):
        return jax.tree.map(jnp.add, total, replay(*xs)), None

    zeros = jax.tree.map(jnp.zeros_like, theta)
    return jax.lax.scan(block, zeros, _per_coordinate(split, tx, recorded, share))[0]
