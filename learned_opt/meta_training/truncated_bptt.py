"""Estimators: how the gradient of the meta-loss with respect to θ is found."""

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from learned_opt.meta_training import replay
from learned_opt.types import InnerState, Instance, Key, Metrics, Task, Theta, UpdateRule
from learned_opt.unroll import draw, init_inner, inner_step

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
        "weight_power",
        "mesh",
    ],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedBPTT:
    r"""Truncated backpropagation through time over N problems in flight.

    Each call of `estimate` carries every problem on by T = `unroll_length` steps and differentiates
    the meta-loss of that segment, with the state at its start held fixed:

        L(θ) = mean over problems of Σ_{t=1…T} w_t f_t(params_t(θ)),   f_t the minibatch loss.

    The losses are counted *after* each update, so that every update is paid for. All weights w_t
    are 1 by default; with `weight_power` p > 0 the loss after s of the `horizon` steps has weight
    (p + 1) (s / horizon)^p, about 1 on average: late losses, the ones a finished optimization is
    judged by, then count for more. A problem that
    reaches `horizon` is replaced by a fresh one: new instance, new starting parameters, new
    minibatches. Problems start staggered over the horizon, so that every meta-gradient sees early
    and late steps alike.

    With `second_order=False`, as in the paper, ∂∇f/∂θ is dropped: gradients are inputs of the rule
    and are not differentiated. Then, with g_t the recorded gradients, the meta-gradient equals that
    of Σ_t w_t ⟨g_t, params_t(θ)⟩ over the *recorded* gradient sequence: the roll-out needs no
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
        replay, most of the work, shrinks in proportion. Small leaves are kept whole. Thousands of
        coordinates share one θ, so the noise this adds is small at first; near a stationary point
        of θ, where the coordinates' contributions cancel, it can match the meta-gradient.
        Coordinatewise rules with `second_order=False` only.
      weight_power: p above; 0 weights every step alike, as the paper does.
      mesh: a mesh with the single axis 'tasks' to shard the problems along, or None. θ is
        replicated, and one all-reduce of the meta-gradient is the only traffic.

    Raises:
      ValueError: a number below one, a horizon that T does not divide, a `weight_power` that is
        negative or not finite, an unknown mapping, or a number of problems that the mesh does not
        divide.

    Reference: Andrychowicz et al. (2016), section 2; the weights w_t are those of equation 3.
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
    weight_power: float = 0.0
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
        if not 0 <= self.weight_power < math.inf:
            raise ValueError(
                f"weight_power must be finite and not negative, got {self.weight_power}"
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
          a step, not weighted), `segment_end_loss` (mean loss after the segment's last update) and
          `num_diverged`.
        """

        def estimate_local(estimator, key, theta, state):
            keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(estimator._local_problems())
            over_problems = estimator._together if self.mapping == "vmap" else estimator._in_turn
            total, state = over_problems(theta, keys, state)
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

    def _in_turn(self, theta: Theta, keys: Key, state: TruncatedBPTTState):
        """Goes over the problems one after another, adding up what they give."""
        one = functools.partial(self._one_problem, theta)
        first = jax.tree.map(lambda x: x[0], (keys, state))
        zeros = optax.tree.zeros_like(jax.eval_shape(one, *first)[0])

        def add(total, problem):
            result, state = one(*problem)
            return jax.tree.map(jnp.add, total, result), state

        return jax.lax.scan(add, zeros, (keys, state))

    def _together(self, theta: Theta, keys: Key, state: TruncatedBPTTState):
        """Runs the problems as one batch; coordinatewise rules replay all of them as one vector."""
        tx = self.rule.transform(theta)
        joined = self.rule.coordinatewise and not self.second_order
        if not (joined and replay.all_per_coordinate(tx, state.inner.opt_state)):
            results = jax.vmap(functools.partial(self._one_problem, theta))(keys, state)
            return jax.tree.map(lambda x: x.sum(0), results[0]), results[1]

        def roll_out(key, state):
            inner, step, key = self._renewed(tx, key, state)
            weights = self._weights(step)
            recorded, last, losses = replay.record(
                self, self._inner_task(), tx, inner, key, weights
            )
            finite = _all_finite((losses, recorded))
            recorded = jax.tree.map(lambda x: jnp.where(finite, x, 0), recorded)
            return recorded, *self._finish(finite, losses, last, step)

        recorded, sums, state = jax.vmap(roll_out)(keys, state)
        recorded = jax.tree.map(  # [N, ..., P] -> [..., N * P]
            lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1), recorded
        )
        grads = replay.gradient(self, tx, theta, recorded)
        return (grads, jax.tree.map(lambda x: x.sum(0), sums)), state

    def _one_problem(self, theta: Theta, key: Key, state: TruncatedBPTTState):
        """One segment of one problem: (its meta-gradient, its metrics) and its next state."""
        tx = self.rule.transform(theta)
        inner, step, key = self._renewed(tx, key, state)
        task, weights = self._inner_task(), self._weights(step)
        if self.second_order:
            grads, last, losses = _through_the_unroll(self, task, theta, inner, key, weights)
        else:
            recorded, last, losses = replay.record(self, task, tx, inner, key, weights)
            grads = replay.gradient(self, tx, theta, recorded)
        finite = _all_finite((losses, grads))
        grads = jax.tree.map(lambda x: jnp.where(finite, x, 0), grads)
        sums, state = self._finish(finite, losses, last, step)
        return (grads, sums), state

    def _renewed(self, tx, key: Key, state: TruncatedBPTTState):
        """The problem to go on with, a fresh one at the horizon; its step; the segment's key."""
        key_reset, key_segment = jax.random.split(key)
        fresh = state.inner_step >= self.horizon
        inner = jax.lax.cond(
            fresh, lambda: init_inner(tx, self._inner_task(), key_reset), lambda: state.inner
        )
        return inner, jnp.where(fresh, 0, state.inner_step), key_segment

    def _weights(self, step: jax.Array) -> jax.Array | None:
        """The weights w_t `[T]` of the losses of a segment that starts after `step` steps."""
        if not self.weight_power:
            return None
        done = (step + 1 + jnp.arange(self.unroll_length)) / self.horizon
        return (self.weight_power + 1) * done**self.weight_power

    def _finish(self, finite, losses, last: InnerState, step):
        """A segment's metrics, zero if it diverged, and the problem's next state."""
        sums = {
            "meta_loss": losses.mean(),
            "segment_end_loss": losses[-1],
            "num_finite": jnp.ones((), losses.dtype),
        }
        sums = jax.tree.map(lambda x: jnp.where(finite, x, 0), sums)
        next_step = jnp.where(finite, step + self.unroll_length, self.horizon)
        return sums, TruncatedBPTTState(last, next_step)

    def _inner_task(self) -> Any:
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

    def replicated(self) -> Self:
        """This estimator with its data on every device: sent once, and not with every call."""
        shardings = self.shardings()
        return jax.device_put(self, shardings[0]) if shardings else self


class _FlatTask:
    """A task whose parameters are one flat vector `[P]`; lives only while a function is traced."""

    def __init__(self, task: Task):
        self.task = task
        params = jax.eval_shape(lambda key: draw(task, key)[1], jax.random.key(0))
        self.sizes = tuple(p.size for p in jax.tree.leaves(params))
        self.unravel = ravel_pytree(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params))[1]

    def sample(self, key: Key) -> Instance:
        return self.task.sample(key)

    def init(self, key: Key, instance: Instance) -> jax.Array:
        return ravel_pytree(self.task.init(key, instance))[0]

    def loss(self, params: jax.Array, instance: Instance, key: Key) -> jax.Array:
        return self.task.loss(self.unravel(params), instance, key)


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def _through_the_unroll(estimator: TruncatedBPTT, task, theta, inner, key, weights):
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
        total = losses.sum() if weights is None else jnp.vdot(weights, losses)
        return total, (last, losses)

    grads, (last, losses) = jax.grad(segment_loss, has_aux=True)(theta)
    return grads, last, losses
