"""The gradient of how far a rule's updates are from those of a teacher, Adam."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from learned_opt.meta_training import problems
from learned_opt.meta_training.problems import AXIS, Problems
from learned_opt.types import Key, Metrics, Task, Theta, UpdateRule
from learned_opt.unroll import checked_loss


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["task"],
    meta_fields=[
        "rule",
        "teacher_rate",
        "teacher_final_rate",
        "num_tasks",
        "unroll_length",
        "horizon",
        "mesh",
    ],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Imitation:
    r"""Imitation of Adam, along Adam's own trajectories.

    .. math:: L(\theta) = \frac{1}{T} \sum_{t=1}^{T}
              \frac{\lVert u_t(\theta) - a_t \rVert^2}{\lVert a_t \rVert^2}

    with a_t the updates of Adam, which move the parameters, and u_t those that the rule would have
    made of the same gradients, averaged over N problems. Each call carries every problem on by T
    steps and differentiates through the rule's state over them; the state at their start is held
    fixed. As a part of a `Mixture` it gives a rule steps of a sensible size before it finds better
    ones by itself.

    Attributes:
      task: the distribution of inner problems.
      rule: the update rule whose θ is trained.
      teacher_rate: Adam's learning rate, η.
      teacher_final_rate: with it, Adam's learning rate comes down from η to this η′ over the
        H steps of the horizon, η′ + (η − η′)(1 + cos(πt/H))/2: the rule can know the time from its
        state alone.
      num_tasks: N, problems in flight (over all devices).
      unroll_length: T, steps in a segment.
      horizon: steps in one inner optimization; a multiple of T.
      mesh: see `TruncatedBPTT`.

    Raises:
      ValueError: a number that is not positive, a horizon that T does not divide, or a number of
        problems that the mesh does not divide.

    Reference: Chen et al., *Training stronger baselines for learning to optimize*, 2020.
    """

    task: Task
    rule: UpdateRule
    teacher_rate: float
    num_tasks: int
    unroll_length: int
    horizon: int
    mesh: Mesh | None = None
    teacher_final_rate: float | None = None

    def __post_init__(self):
        """Checks the static fields."""
        problems.check_sizes(self)
        if not self.teacher_rate > 0:
            raise ValueError(f"teacher_rate must be positive, got {self.teacher_rate}")
        final = self.teacher_final_rate
        if final is not None and not 0 < final <= self.teacher_rate:
            raise ValueError(
                f"teacher_final_rate must be positive and at most teacher_rate "
                f"({self.teacher_rate}), got {final}"
            )

    def init(self, key: Key, theta: Theta) -> Problems:
        """Draws the N problems, staggered over the horizon."""
        return problems.start(self, Imitation._both, key, theta)

    def estimate(self, key: Key, theta: Theta, state: Problems) -> tuple[Theta, Problems, Metrics]:
        """Carries the problems on by one segment.

        Returns:
          The gradient (a tree like θ), the next state, and the metrics `meta_loss` (the mean
          relative squared distance), `num_diverged` and `inner_steps`.
        """

        def estimate_local(estimator, key, theta, state):
            index = problems.local_problems(self.mesh, self.num_tasks)
            keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(index)
            one = functools.partial(estimator._one_problem, theta)
            (grads, distances, finite), state = jax.lax.map(lambda x: one(*x), (keys, state))
            sums = jax.tree.map(lambda x: x.sum(0), (grads, distances, finite.astype(jnp.int32)))
            if self.mesh is not None:
                sums = jax.lax.psum(sums, AXIS)
            grads, distance, count = sums
            metrics = {
                "meta_loss": distance / count,
                "num_diverged": self.num_tasks - count,
                "inner_steps": jnp.int32(self.num_tasks * self.unroll_length),
            }
            return jax.tree.map(lambda x: x / count, grads), state, metrics

        return problems.sharded(
            estimate_local,
            self.mesh,
            in_specs=(P(), P(), P(), P(AXIS)),
            out_specs=(P(), P(AXIS), P()),
        )(self, key, theta, state)

    def _one_problem(self, theta: Theta, key: Key, state: Problems):
        """One segment of one problem: (gradient, distance, whether finite) and its next state."""
        task = problems.inner_task(self)
        inner, begun, key = problems.renew(
            self._both(theta), task, key, state, horizon=self.horizon
        )

        def teach(inner, t):
            params, (adam_state, rule_state) = inner.params, inner.opt_state
            loss, grads = jax.value_and_grad(checked_loss, argnums=1)(
                task, params, inner.instance, jax.random.fold_in(key, t)
            )
            wanted, adam_state = self._teacher().update(grads, adam_state, params)
            moved = optax.apply_updates(params, wanted)
            inner = inner._replace(params=moved, opt_state=(adam_state, rule_state))
            return inner, (params, loss, grads, wanted)

        # θ has no part in this: differentiated with the rule, it would be computed twice.
        last, lesson = jax.lax.scan(teach, inner, jnp.arange(self.unroll_length))

        def distance(theta):
            rule = optax.with_extra_args_support(problems.inner_transform(self.rule)(theta))

            @jax.checkpoint
            def step(rule_state, lesson):
                params, loss, grads, wanted = lesson
                # what a rule may look at, as in `unroll.inner_step`
                seen = {"value": loss, "grad": grads}
                given, rule_state = rule.update(grads, rule_state, params, **seen)
                error = optax.tree.norm(optax.tree.sub(given, wanted), squared=True)
                return rule_state, error / (optax.tree.norm(wanted, squared=True) + 1e-20)

            rule_state, errors = jax.lax.scan(step, inner.opt_state[1], lesson)
            return errors.mean(), rule_state

        (error, rule_state), grads = jax.value_and_grad(distance, has_aux=True)(theta)
        last = last._replace(opt_state=(last.opt_state[0], rule_state))
        finite = jnp.isfinite(error) & jnp.isfinite(optax.tree.norm(grads))
        grads, error = jax.tree.map(lambda x: jnp.where(finite, x, 0), (grads, error))
        step = jnp.where(finite, begun + self.unroll_length, self.horizon)
        return (grads, error, finite), Problems(last, step)

    def _both(self, theta: Theta) -> optax.GradientTransformation:
        """A transformation whose state holds Adam's and the rule's; for its `init` alone."""
        rule = problems.inner_transform(self.rule)(theta)

        def init(params: Any):
            return self._teacher().init(params), rule.init(params)

        return optax.GradientTransformation(init, optax.identity().update)

    def _teacher(self) -> optax.GradientTransformation:
        if self.teacher_final_rate is None:
            return optax.adam(self.teacher_rate)
        return optax.adam(
            optax.cosine_decay_schedule(
                self.teacher_rate, self.horizon, self.teacher_final_rate / self.teacher_rate
            )
        )
