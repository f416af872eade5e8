"""Several tasks in one meta-training: the weighted sum of the meta-gradients of estimators."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from learned_opt.meta_training.truncated_bptt import TruncatedBPTT
from learned_opt.types import Estimator, Key, Metrics, Task, Theta, UpdateRule

_COUNTS = ("inner_steps", "num_diverged")


class MixtureState(NamedTuple):
    """What a mixture carries.

    Attributes:
      parts: the states of its estimators.
      sizes: float32 `[parts]`, running averages of the norms of their meta-gradients, from 0.
      counts: int32 `[parts]`, meta-gradients that went into them.
    """

    parts: tuple[Any, ...]
    sizes: jax.Array
    counts: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["parts"],
    meta_fields=["names", "scaling", "decay"],
)
@dataclasses.dataclass(frozen=True)
class Mixture:
    r"""The meta-gradient of several estimators together, all of one rule and its θ.

    .. math:: g = \sum_k w_k g_k \quad\text{or}\quad g = \sum_k w_k g_k / \hat s_k, \qquad
              s_k \leftarrow \beta s_k + (1 - \beta) \lVert g_k \rVert, \quad
              \hat s_k = s_k / (1 - \beta^{n_k})

    with `scaling='given'` and with `scaling='running'`, which lets problems whose losses are of
    very different size count as their weights say. Parameters may have other shapes in each part.
    A part whose meta-gradient is not finite is left out of that sum and counted in the metric
    `NAME/skipped`; where all are, the sum is not finite either, and the trainer skips it.

    Attributes:
      parts: pairs (estimator, weight w_k); `Mixture.of_tasks` makes them of tasks.
      names: a name for each part, in front of its metrics: `NAME/meta_loss`, …; by default its
        number.
      scaling: 'given' or 'running'.
      decay: β.

    Raises:
      ValueError: no parts, a weight that is not positive and finite, names that do not fit, an
        unknown scaling, or a decay outside of [0, 1).
    """

    parts: Sequence[tuple[Estimator, Any]]
    names: tuple[str, ...] = ()
    scaling: Literal["given", "running"] = "given"
    decay: float = 0.99

    def __post_init__(self):
        """Checks the choices, and names the parts."""
        object.__setattr__(self, "parts", tuple((part, weight) for part, weight in self.parts))
        names = tuple(self.names) or tuple(str(n) for n in range(len(self.parts)))
        object.__setattr__(self, "names", names)
        if not self.parts:
            raise ValueError("a mixture needs at least one part (estimator, weight)")
        if len(set(names)) != len(self.parts):
            raise ValueError(f"names must be one for each of {len(self.parts)} parts, got {names}")
        for name, (_, weight) in zip(names, self.parts, strict=True):
            if isinstance(weight, int | float) and not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name!r} must be positive, got {weight}")
        if self.scaling not in ("given", "running"):
            raise ValueError(f"unknown scaling {self.scaling!r}: expected 'given' or 'running'")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {self.decay}")

    @classmethod
    def of_tasks(
        cls,
        parts: Sequence[tuple[Task, float]],
        *,
        rule: UpdateRule,
        names: Sequence[str] = (),
        scaling: Literal["given", "running"] = "given",
        decay: float = 0.99,
        **settings: Any,
    ) -> Self:
        """A mixture of tasks, each with a `TruncatedBPTT` of the same settings.

        Args:
          parts: pairs (task, weight).
          rule: the rule whose θ is trained.
          names: see `Mixture`.
          scaling: see `Mixture`.
          decay: see `Mixture`.
          **settings: those of `TruncatedBPTT`.
        """
        made = [(TruncatedBPTT(task=task, rule=rule, **settings), weight) for task, weight in parts]
        return cls(made, tuple(names), scaling, decay)

    def init(self, key: Key, theta: Theta) -> MixtureState:
        """Starts every part, from `fold_in(key, k)`."""
        states = [
            part.init(jax.random.fold_in(key, k), theta) for k, (part, _) in enumerate(self.parts)
        ]
        count = len(states)
        return MixtureState(tuple(states), jnp.zeros(count), jnp.zeros(count, jnp.int32))

    def estimate(
        self, key: Key, theta: Theta, state: MixtureState
    ) -> tuple[Theta, MixtureState, Metrics]:
        """Goes on with every part, from `fold_in(key, k)`, and adds up their meta-gradients.

        Returns:
          The sum, the next state, the metrics of every part behind its name, with
          `NAME/gradient_norm` and `NAME/skipped`, and the sums of `inner_steps` and
          `num_diverged`.
        """
        total = optax.tree.zeros_like(theta)
        metrics: Metrics = {}
        states, norms = [], []
        for k, ((part, weight), name) in enumerate(zip(self.parts, self.names, strict=True)):
            grads, part_state, found = part.estimate(
                jax.random.fold_in(key, k), theta, state.parts[k]
            )
            norm = optax.tree.norm(grads)
            finite = jnp.isfinite(norm)
            size = self._size(state.sizes[k], state.counts[k], norm)
            factor = weight / size if self.scaling == "running" else weight
            total = jax.tree.map(
                lambda t, g, f=factor, ok=finite: t + jnp.where(ok, f * g, 0).astype(t.dtype),
                total,
                grads,
            )
            states.append(part_state)
            norms.append(norm)
            own = found | {"gradient_norm": norm, "skipped": 1 - finite.astype(jnp.int32)}
            metrics |= {f"{name}/{metric}": value for metric, value in own.items()}
            for counted in _COUNTS:
                if counted in found:
                    metrics[counted] = metrics.get(counted, 0) + found[counted]
        norm = jnp.stack(norms)
        finite = jnp.isfinite(norm)
        total = jax.tree.map(lambda t: jnp.where(finite.any(), t, jnp.nan), total)
        averaged = self.decay * state.sizes + (1 - self.decay) * norm
        sizes = jnp.where(finite, averaged, state.sizes)
        return total, MixtureState(tuple(states), sizes, state.counts + finite), metrics

    def _size(self, size: jax.Array, count: jax.Array, norm: jax.Array) -> jax.Array:
        """A part's running size with this meta-gradient, corrected for its start at zero."""
        averaged = self.decay * size + (1 - self.decay) * norm
        corrected = averaged / (1 - self.decay ** (count + 1.0))
        return jnp.maximum(corrected, jnp.finfo(jnp.float32).tiny)
