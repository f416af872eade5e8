"""Evolution strategies: meta-gradients from differences of losses, without backpropagation."""

import dataclasses
import functools
import math
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from learned_opt.meta_training import problems
from learned_opt.meta_training.problems import AXIS, at_least_float32
from learned_opt.types import InnerState, Key, Metrics, Task, Theta, UpdateRule
from learned_opt.unroll import checked_loss, draw, inner_step

_LARGEST = 2.0  # what a relative difference of two positive losses tends to


class Episode(NamedTuple):
    """What is drawn once for an inner optimization.

    Attributes:
      horizon: int32 `[]`, its steps.
      rate: float32 `[]`, the peak of its learning rate, 0 where the rule has its own.
      constant: bool `[]`, whether the learning rate stays there, or goes down as a half cosine.
    """

    horizon: jax.Array
    rate: jax.Array
    constant: jax.Array


class Particle(NamedTuple):
    """A pair of arms θ + ε and θ − ε on one problem; every leaf has a leading axis of N particles.

    Attributes:
      arms: the inner states, on a second leading axis: of the two arms, or the one that both
        start their windows from.
      episode: what is the problem's alone.
      inner_step: int32 `[N]`, inner steps done.
      noise: like θ: what the difference of losses is multiplied by.
      last: float32 `[N]`, the difference of losses in the window before.
    """

    arms: InnerState
    episode: Episode
    inner_step: jax.Array
    noise: Theta
    last: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class _EvolutionStrategy:
    """What the four strategies share: see `NRES` for the attributes."""

    task: Task
    rule: UpdateRule
    num_tasks: int
    unroll_length: int
    horizon: int | tuple[int, int]
    sigma: float = 0.01
    scoring: Literal["raw", "relative"] = "raw"
    objective: Literal["mean", "final"] = "mean"
    weight_power: float = 0.0
    meta_loss: str = "train"
    learning_rate: tuple[float, float] | None = None
    constant_rates: float = 0.0
    mapping: Literal["vmap", "map"] = "vmap"
    mesh: Mesh | None = None

    # Whether the noise lasts for an 'episode', is new in each 'window', or is 'accumulated'. It is
    # a field, since JAX takes two dataclasses with equal static fields for one and the same.
    noise: str = ""
    _noise: ClassVar[str]

    def __post_init__(self):
        """Checks the static fields."""
        if self.noise not in ("", self._noise):
            raise ValueError(f"the noise of {type(self).__name__} is {self._noise!r}: leave it out")
        object.__setattr__(self, "noise", self._noise)
        for name in ("num_tasks", "unroll_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        shortest, longest = self._horizons()
        if not self.unroll_length <= shortest <= longest:
            raise ValueError(
                f"horizon must be at least unroll_length ({self.unroll_length}), one number or an "
                f"increasing pair, got {self.horizon}"
            )
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}: expected {' or '.join(known)}"
                )
        if not 0 <= self.weight_power < math.inf:
            raise ValueError(f"weight_power must not be negative, got {self.weight_power}")
        if not 0 <= self.constant_rates <= 1:
            raise ValueError(f"constant_rates must be in [0, 1], got {self.constant_rates}")
        if self.learning_rate is not None:
            if "learning_rate" not in dict(self.rule.knobs):
                raise ValueError("learning_rate is a knob that this rule does not have")
            low, high = self.learning_rate
            if not 0 < low <= high < math.inf:
                raise ValueError(f"learning_rate must be a range, got {self.learning_rate}")
        problems.check_mesh(self.mesh, self.num_tasks)

    def init(self, key: Key, theta: Theta) -> Particle:
        """Draws the N problems, each at a random step of its episode."""

        def init_local(estimator, key, theta):
            def start(n):
                key_start, key_step = jax.random.split(jax.random.fold_in(key, n))
                particle = estimator._fresh(key_start, theta)
                share = jax.random.uniform(key_step)
                windows = estimator._windows(particle.episode.horizon)
                begun = jnp.int32(share * windows) * self.unroll_length
                return particle._replace(inner_step=begun)

            return jax.vmap(start)(problems.local_problems(self.mesh, self.num_tasks))

        return problems.sharded(init_local, self.mesh, in_specs=(P(), P(), P()), out_specs=P(AXIS))(
            self, key, theta
        )

    def estimate(self, key: Key, theta: Theta, state: Particle) -> tuple[Theta, Particle, Metrics]:
        """Carries every particle on by one window.

        Args:
          key: draws noise, minibatches and fresh problems; particle n uses `fold_in(key, n)`.
          theta: the rule's parameters.
          state: the particles.

        Returns:
          The meta-gradient (a tree like θ), the next state, and the metrics `meta_loss` (mean of
          the losses of both arms), `num_diverged` (particles with an arm that did) and
          `inner_steps`.
        """

        def estimate_local(estimator, key, theta, state):
            index = problems.local_problems(self.mesh, self.num_tasks)
            keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(index)
            one = functools.partial(estimator._window, theta)
            if self.mapping == "vmap":
                results, state = jax.vmap(one)(keys, state)
            else:
                results, state = jax.lax.map(lambda x: one(*x), (keys, state))
            total = jax.tree.map(lambda x: x.sum(0), results)
            if self.mesh is not None:
                total = jax.lax.psum(total, AXIS)
            grads, sums = total
            counted, finite = sums.pop("counted"), sums.pop("finite")
            # A window without a single finite arm gives NaN: the trainer skips and counts it.
            grads = jax.tree.map(lambda x: x / counted, grads)
            metrics = jax.tree.map(lambda x: x / finite, sums)
            metrics["num_diverged"] = self.num_tasks - finite
            arms = 3 if self._noise == "window" else 2
            metrics["inner_steps"] = jnp.int32(self.num_tasks * self.unroll_length * arms)
            return grads, state, metrics

        return problems.sharded(
            estimate_local,
            self.mesh,
            in_specs=(P(), P(), P(), P(AXIS)),
            out_specs=(P(), P(AXIS), P()),
        )(self, key, theta, state)

    def _horizons(self) -> tuple[int, int]:
        if isinstance(self.horizon, int):
            return self.horizon, self.horizon
        shortest, longest = self.horizon
        return shortest, longest

    def _windows(self, horizon: jax.Array) -> jax.Array:
        """Windows in an episode: the last one ends at its horizon, or is the first after it."""
        return -(-horizon // self.unroll_length)

    def _fresh(self, key: Key, theta: Theta) -> Particle:
        """A particle at the first step of a new problem."""
        key_problem, key_horizon, key_rate, key_constant, key_noise = jax.random.split(key, 5)
        shortest, longest = self._horizons()
        drawn = jax.random.uniform(key_horizon) * math.log((longest + 1) / shortest)
        horizon = jnp.minimum(jnp.int32(shortest * jnp.exp(drawn)), longest)
        low, high = self.learning_rate or (0.0, 0.0)
        rate = jnp.zeros((), jnp.float32)
        if self.learning_rate:
            rate = low * jnp.exp(jax.random.uniform(key_rate) * math.log(high / low))
        constant = jax.random.uniform(key_constant) < self.constant_rates
        episode = Episode(horizon, rate, constant)
        instance, params = draw(problems.inner_task(self), key_problem)
        inner = InnerState(instance, params, self._transform(theta, episode).init(params))
        arms = 1 if self._noise == "window" else 2
        inner = jax.tree.map(lambda x: jnp.broadcast_to(x, (arms, *x.shape)), inner)
        noise = self._gaussian(key_noise, theta)
        if self._noise == "accumulated":  # each window adds its own
            noise = optax.tree.zeros_like(noise)
        zero = jnp.zeros((), jnp.float32)
        return Particle(inner, episode, jnp.zeros((), jnp.int32), noise, zero)

    def _window(self, theta: Theta, key: Key, particle: Particle):
        """One window of one particle: (its share of the meta-gradient, metrics), its next state."""
        key_fresh, key_noise, key_steps = jax.random.split(key, 3)
        over = particle.inner_step >= self._windows(particle.episode.horizon) * self.unroll_length
        particle = jax.lax.cond(over, lambda: self._fresh(key_fresh, theta), lambda: particle)
        arms, episode, step, noise, before = particle
        epsilon = noise
        if self._noise != "episode":
            epsilon = self._gaussian(key_noise, theta)
            noise = epsilon if self._noise == "window" else optax.tree.add(noise, epsilon)
        signs = jnp.array([1.0, -1.0] if self._noise != "window" else [1.0, -1.0, 0.0])
        if self._noise == "window":
            arms = jax.tree.map(lambda x: jnp.broadcast_to(x[0], (3, *x.shape[1:])), arms)

        def run(sign, inner):
            arm = jax.tree.map(lambda t, e: t + (sign * e).astype(t.dtype), theta, epsilon)
            return self._unroll(arm, episode, inner, key_steps)

        arms, losses = jax.vmap(run)(signs, arms)
        if self._noise == "window":
            arms = jax.tree.map(lambda x: x[2:], arms)
        finite = jnp.isfinite(losses).all(axis=1)
        difference, counted = self._difference(losses[0], losses[1])
        grads, now = self._score(difference, before, episode, step + self.unroll_length)
        grads = jax.tree.map(
            lambda e: jnp.where(counted, e * (grads / self.sigma**2), 0).astype(e.dtype), noise
        )
        both = finite[0] & finite[1]
        sums = {
            "meta_loss": jnp.where(both, losses[:2].mean(), 0),
            "counted": counted.astype(jnp.int32),
            "finite": both.astype(jnp.int32),
        }
        end = self._windows(episode.horizon) * self.unroll_length
        step = jnp.where(finite.all(), step + self.unroll_length, end)
        return (grads, sums), Particle(arms, episode, step, noise, now)

    def _difference(self, plus: jax.Array, minus: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(L⁺ − L⁻)/2, raw or relative, and whether it counts: an arm that diverges is worst.

        Of losses on two splits the mean of their differences, so that each counts by itself.
        """
        finite = jnp.isfinite(plus).all(), jnp.isfinite(minus).all()
        both = finite[0] & finite[1]
        plus, minus = jnp.where(both, plus, 0), jnp.where(both, minus, 0)
        if self.scoring == "raw":
            return (plus - minus).mean() / 2, both
        relative = (plus - minus) / ((jnp.abs(plus) + jnp.abs(minus)) / 2 + 1e-3)
        worst = jnp.where(finite[1], _LARGEST, -_LARGEST)
        return jnp.where(both, relative.mean(), worst) / 2, finite[0] | finite[1]

    def _score(self, difference, before, episode: Episode, step):
        """What the noise is multiplied by, and what the next window subtracts."""
        windows = self._windows(episode.horizon)
        if self.objective == "final":
            return (difference - before) * windows, difference
        done = step / (windows * self.unroll_length)
        weight = (self.weight_power + 1) * done**self.weight_power
        return difference * weight, before

    def _unroll(self, theta: Theta, episode: Episode, inner: InnerState, key: Key):
        """A window of one arm: its last state and its mean loss of each split, before updates."""
        tx, task = self._transform(theta, episode), problems.inner_task(self)

        def one_step(inner, t):
            key_train, key_other = jax.random.split(jax.random.fold_in(key, t))
            before = inner
            inner, (loss, _) = inner_step(tx, task, inner, key_train)
            losses = [at_least_float32(loss)]
            if self.meta_loss != "train":
                split = "valid" if self.meta_loss == "both" else self.meta_loss
                other = checked_loss(task, before.params, before.instance, key_other, split)
                losses.append(at_least_float32(other))
            return inner, jnp.stack(losses if self.meta_loss == "both" else losses[-1:])

        inner, losses = jax.lax.scan(one_step, inner, jnp.arange(self.unroll_length))
        return inner, losses.mean(0)

    def _gaussian(self, key: Key, theta: Theta) -> Theta:
        leaves, treedef = jax.tree.flatten(theta)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            treedef,
            [
                self.sigma * jax.random.normal(k, jnp.shape(x), jnp.result_type(x))
                for k, x in zip(keys, leaves, strict=True)
            ],
        )

    def _transform(self, theta: Theta, episode: Episode) -> optax.GradientTransformationExtraArgs:
        def schedule(count):
            share = jnp.minimum(count / episode.horizon, 1.0)
            half_cosine = (1 + jnp.cos(np.pi * share)) / 2
            return episode.rate * jnp.where(episode.constant, 1.0, half_cosine)

        rule = self.rule
        if self.learning_rate is not None:
            transform = functools.partial(rule.transform, learning_rate=schedule)
            rule = rule._replace(transform=transform, coordinates_last=None)
        return problems.inner_transform(rule)(theta)


_CHOICES = {
    "scoring": ("raw", "relative"),
    "objective": ("mean", "final"),
    "mapping": ("vmap", "map"),
}
_register = functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["task"],
    meta_fields=[
        field.name for field in dataclasses.fields(_EvolutionStrategy) if field.name != "task"
    ],
)


@_register
@dataclasses.dataclass(frozen=True, kw_only=True)
class NRES(_EvolutionStrategy):
    r"""Noise-reuse evolution strategies: one perturbation an episode, antithetic.

    N particles are in flight, each a problem with two arms that carry their own states, one moved
    by θ + ε, one by θ − ε, ε ~ N(0, σ²I), on the same minibatches. `estimate` carries each on by a
    window of T = `unroll_length` steps, and

    .. math:: g = \frac{1}{N} \sum \epsilon\, \frac{L^+ - L^-}{2 \sigma^2}

    with L the mean loss of the window, before each update. ε is drawn when a problem starts and
    lasts until its horizon: the estimate is unbiased for the gradient of the smoothed meta-loss of
    whole episodes, where truncated backpropagation is not, as long as θ moves slowly, and needs no
    derivative of the rule. Problems start staggered and are replaced at the border of the window
    that their horizon lies in.

    An arm whose loss stops being finite counts as the worst (relative scoring) or its particle is
    left out (raw); either way it is replaced at the next call and counted in `num_diverged`.

    Attributes:
      task: the distribution of inner problems.
      rule: the update rule whose θ is trained.
      num_tasks: N, particles in flight (over all devices).
      unroll_length: T, steps in a window.
      horizon: steps in one inner optimization; a pair is a range that each problem draws its own
        from, log-uniformly.
      sigma: σ.
      scoring: 'raw', or 'relative' for (L⁺ − L⁻) / ((|L⁺| + |L⁻|)/2 + 1e-3) in the place of
        L⁺ − L⁻, which lets problems whose losses are of very different size count alike.
      objective: 'mean' of the losses of an episode, or the 'final' one: each window then counts
        what its difference of losses is more than the one before, times the number of windows,
        which adds up to the difference in the last window.
      weight_power: p; with 'mean' the window that ends after s of the steps has weight
        (p + 1) (s / horizon)^p, as in `TruncatedBPTT`.
      meta_loss: the split whose minibatches give L, 'train' or another one that the task's `loss`
        takes; 'both' takes the mean of the differences on 'train' and on 'valid'.
      learning_rate: of a rule that has this knob, the range that each problem draws the peak of a
        half-cosine schedule from, log-uniformly; None leaves the rule its own.
      constant_rates: the share of problems whose learning rate stays constant instead.
      mapping: 'vmap' runs the particles of a device together, 'map' one after another.
      mesh: a mesh with the single axis 'tasks' to shard the particles along, or None.

    Raises:
      ValueError: a number or a choice that is out of range, a horizon below T, a learning rate for
        a rule that has no such knob, or a number of particles that the mesh does not divide.

    References: Li et al., *Variance-reduced gradient estimation via noise-reuse in online evolution
    strategies*, 2023; Vicol et al., *Low-variance gradient estimation in unrolled computation
    graphs with ES-Single*, 2023.
    """

    _noise = "episode"


@_register
@dataclasses.dataclass(frozen=True, kw_only=True)
class PES(_EvolutionStrategy):
    r"""Persistent evolution strategies: a perturbation a window, summed over an episode.

    .. math:: g = \frac{1}{N} \sum \xi\, \frac{L^+ - L^-}{2 \sigma^2}, \quad \xi \leftarrow \xi +
              \epsilon \text{ before use}, \quad \xi = 0 \text{ at the start of an episode}

    Unbiased as `NRES`, with a variance that grows with the number of windows. The attributes are
    those of `NRES`.

    Reference: Vicol et al., *Unbiased gradient estimation in unrolled computation graphs with
    persistent evolution strategies*, 2021.
    """

    _noise = "accumulated"


@_register
@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedES(_EvolutionStrategy):
    r"""Truncated evolution strategies: both arms of a window start from one unperturbed state.

    .. math:: g = \frac{1}{N} \sum \epsilon\, \frac{L^+ - L^-}{2 \sigma^2}

    with ε new in each window, and a third arm, of θ itself, that is carried on. Short-sighted as
    truncated backpropagation is: no window sees what an update does to later ones. The attributes
    are those of `NRES`.

    Reference: Metz et al., *Understanding and correcting pathologies in the training of learned
    optimizers*, 2019.
    """

    _noise = "window"


@_register
@dataclasses.dataclass(frozen=True, kw_only=True)
class FullES(_EvolutionStrategy):
    r"""Evolution strategies over whole optimizations: every estimate runs N new problems.

    .. math:: g = \frac{1}{N} \sum \epsilon\, \frac{L^+ - L^-}{2 \sigma^2}

    with L the mean loss of the whole run. The attributes are those of `NRES`, with
    `unroll_length` equal to `horizon`.

    Reference: Salimans et al., *Evolution strategies as a scalable alternative to reinforcement
    learning*, 2017.
    """

    _noise = "episode"

    def __post_init__(self):
        """Checks the static fields."""
        super().__post_init__()
        if self._horizons() != (self.unroll_length, self.unroll_length):
            raise ValueError(
                f"FullES runs whole optimizations: unroll_length ({self.unroll_length}) must be "
                f"the horizon ({self.horizon})"
            )
