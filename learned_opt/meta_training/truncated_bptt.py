"""Truncated backpropagation through time: the meta-gradient of segments of inner optimizations."""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from learned_opt.meta_training import problems, replay
from learned_opt.meta_training.problems import AXIS, Problems, at_least_float32
from learned_opt.types import InnerState, Key, Metrics, Task, Theta, UpdateRule
from learned_opt.unroll import checked_loss, inner_step


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
        "segment_loss",
        "meta_loss",
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
      segment_loss: 'sum', the L(θ) above; 'last' counts the loss after a segment's last update
        alone, as RNNprop does.
      meta_loss: the split whose minibatches give the f_t of L(θ): 'train', or 'valid' (any split
        that the task's `loss` takes), where θ is judged by data that the rule does not see. The
        rule is fed gradients of 'train' either way; another split costs one more gradient a step.
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
    block_size: int = 256
    replay_fraction: float = 1.0
    weight_power: float = 0.0
    segment_loss: Literal["sum", "last"] = "sum"
    meta_loss: str = "train"
    mesh: Mesh | None = None

    def __post_init__(self):
        """Checks the static fields."""
        problems.check_sizes(self)
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
        if self.segment_loss not in ("sum", "last"):
            raise ValueError(
                f"unknown segment_loss {self.segment_loss!r}: expected 'sum' or 'last'"
            )
        if self.mapping not in ("vmap", "map"):
            raise ValueError(f"unknown mapping {self.mapping!r}: expected 'vmap' or 'map'")

    def init(self, key: Key, theta: Theta) -> Problems:
        """Draws the N problems, staggered over the horizon."""

        def make(estimator, theta):
            return problems.inner_transform(estimator.rule)(theta)

        return problems.start(self, make, key, theta)

    def estimate(self, key: Key, theta: Theta, state: Problems) -> tuple[Theta, Problems, Metrics]:
        """Carries the problems on by one segment.

        Args:
          key: draws minibatches and fresh problems; problem n uses `fold_in(key, n)`.
          theta: the rule's parameters.
          state: the problems in flight.

        Returns:
          The meta-gradient (a tree like θ), the next state, and the metrics `meta_loss` (mean loss
          a step, not weighted), `segment_end_loss` (mean loss after the segment's last update),
          `num_diverged` and `inner_steps`.
        """

        def estimate_local(estimator, key, theta, state):
            index = problems.local_problems(self.mesh, self.num_tasks)
            keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(index)
            over_problems = estimator._together if self.mapping == "vmap" else estimator._in_turn
            total, state = over_problems(theta, keys, state)
            if self.mesh is not None:
                total = jax.lax.psum(total, AXIS)
            grads, sums = total
            # A segment without a single finite problem gives NaN: the trainer skips and counts it.
            count = sums.pop("num_finite")
            grads, metrics = jax.tree.map(lambda x: x / count, (grads, sums))
            metrics["num_diverged"] = self.num_tasks - count
            metrics["inner_steps"] = jnp.int32(self.num_tasks * self.unroll_length)
            return grads, state, metrics

        return problems.sharded(
            estimate_local,
            self.mesh,
            in_specs=(P(), P(), P(), P(AXIS)),
            out_specs=(P(), P(AXIS), P()),
        )(self, key, theta, state)

    def _in_turn(self, theta: Theta, keys: Key, state: Problems):
        """Goes over the problems one after another, adding up what they give."""
        one = functools.partial(self._one_problem, theta)
        first = jax.tree.map(lambda x: x[0], (keys, state))
        zeros = optax.tree.zeros_like(jax.eval_shape(one, *first)[0])

        def add(total, problem):
            result, state = one(*problem)
            return jax.tree.map(jnp.add, total, result), state

        return jax.lax.scan(add, zeros, (keys, state))

    def _together(self, theta: Theta, keys: Key, state: Problems):
        """Runs the problems as one batch; coordinatewise rules replay all of them as one vector."""
        tx = problems.inner_transform(self.rule)(theta)
        joined = self.rule.coordinatewise and not self.second_order
        if not (joined and replay.all_per_coordinate(self.rule, theta, state.inner.opt_state)):
            results = jax.vmap(functools.partial(self._one_problem, theta))(keys, state)
            return jax.tree.map(lambda x: x.sum(0), results[0]), results[1]

        def roll_out(key, state):
            inner, step, key = self._renewed(tx, key, state)
            recorded, last, losses = self._recorded(theta, inner, key, step)
            finite = _all_finite((losses, recorded))
            recorded = jax.tree.map(lambda x: jnp.where(finite, x, 0), recorded)
            return recorded, *self._finish(finite, losses, last, step)

        recorded, sums, state = jax.vmap(roll_out)(keys, state)
        recorded = jax.tree.map(  # [N, ..., P] -> [..., N * P]
            lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], len(x) * x.shape[-1]), recorded
        )
        return (self._replayed(theta, recorded), jax.tree.map(lambda x: x.sum(0), sums)), state

    def _one_problem(self, theta: Theta, key: Key, state: Problems):
        """One segment of one problem: (its meta-gradient, its metrics) and its next state."""
        tx = problems.inner_transform(self.rule)(theta)
        inner, step, key = self._renewed(tx, key, state)
        if self.second_order:
            grads, last, losses = self._through_the_unroll(theta, inner, key, step)
        else:
            recorded, last, losses = self._recorded(theta, inner, key, step)
            grads = self._replayed(theta, recorded)
        finite = _all_finite((losses, grads))
        grads = jax.tree.map(lambda x: jnp.where(finite, x, 0), grads)
        sums, state = self._finish(finite, losses, last, step)
        return (grads, sums), state

    def _renewed(self, tx, key: Key, state: Problems):
        return problems.renew(tx, problems.inner_task(self), key, state, horizon=self.horizon)

    def _recorded(self, theta: Theta, inner: InnerState, key: Key, step: jax.Array):
        """What a first-order segment recorded, its last state and its losses."""
        task = problems.inner_task(self)
        recorded, last, losses = replay.record(
            task,
            problems.inner_transform(self.rule)(theta),
            inner,
            key,
            length=self.unroll_length,
            weights=self._weights(step),
            split=self.meta_loss,
            keep_losses=not self.rule.coordinatewise,
        )
        if self.replay_fraction < 1:
            key_draw = jax.random.fold_in(key, self.unroll_length + 1)
            recorded = replay.sample(
                self.rule, theta, recorded, key_draw, task.sizes, self.replay_fraction
            )
        return recorded, last, losses

    def _replayed(self, theta: Theta, recorded: replay.Recorded) -> Theta:
        return replay.gradient(self.rule, theta, recorded, block_size=self.block_size)

    def _weights(self, step: jax.Array) -> jax.Array | None:
        """The weights w_t `[T]` of the losses of a segment that starts after `step` steps."""
        if self.segment_loss == "last":
            return jnp.zeros(self.unroll_length).at[-1].set(1.0)
        if not self.weight_power:
            return None
        done = (step + 1 + jnp.arange(self.unroll_length)) / self.horizon
        return (self.weight_power + 1) * done**self.weight_power

    def _finish(self, finite, losses, last: InnerState, step):
        """A segment's metrics, zero if it diverged, and the problem's next state."""
        sums = {
            "meta_loss": losses.mean(),
            "segment_end_loss": losses[-1],
            "num_finite": jnp.ones((), jnp.int32),
        }
        sums = jax.tree.map(lambda x: jnp.where(finite, x, 0), sums)
        next_step = jnp.where(finite, step + self.unroll_length, self.horizon)
        return sums, Problems(last, next_step)

    def _through_the_unroll(self, theta: Theta, inner: InnerState, key: Key, step: jax.Array):
        """Differentiates straight through the unroll."""
        task, transform, weights = (
            problems.inner_task(self),
            problems.inner_transform(self.rule),
            self._weights(step),
        )

        def segment_loss(theta):
            tx = transform(theta)

            @jax.checkpoint
            def one_step(inner, t):
                inner, _ = inner_step(tx, task, inner, jax.random.fold_in(key, t))
                after = jax.random.fold_in(key, t + 1)
                loss = checked_loss(task, inner.params, inner.instance, after, self.meta_loss)
                return inner, at_least_float32(loss)

            last, losses = jax.lax.scan(one_step, inner, jnp.arange(self.unroll_length))
            total = losses.sum() if weights is None else jnp.vdot(weights, losses)
            return total, (last, losses)

        grads, (last, losses) = jax.grad(segment_loss, has_aux=True)(theta)
        return grads, last, losses


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))
