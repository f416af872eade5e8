"""Muon and Adam mixed by learned numbers: the general rule."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from learned_opt.types import Params, Theta, UpdateRule
from learned_opt.update_rules import checks
from learned_opt.update_rules.newton_schulz import in_auto_mode, orthogonalize

# The numbers that θ moves: how each is made of z, which is 0 in the neutral rule, and its neutral
# value. A decay is 1 − (1 − neutral) e^z, a factor neutral · e^z, a weight z itself.
_DECAYS = {"beta": 0.95, "b1": 0.9, "b2": 0.999}
_FACTORS = ("orthogonal", "nesterov", "vector")
_WEIGHTS = ("adam_nesterov", "adam_by_fan_in", "adam", "caution", "shrinkage")
NAMES = (*_DECAYS, *_FACTORS, *_WEIGHTS)
_SLOPES = ("time", "schedule")
_TIME = 300.0  # steps: where the feature of time is half way


class LearnedMuonState(NamedTuple):
    """The state of `learned_muon`, float32 where the parameters are of lower precision.

    Attributes:
      step: int32 `[]`, steps done.
      peak: float32 `[]`, the largest learning rate so far.
      products: name -> float32 `[]`, products of the decays so far, for bias corrections.
      momentum: moving averages of gradients with decay β, of matrices alone.
      mean: those with decay β₁.
      square: moving averages of squared gradients, with decay β₂.
    """

    step: jax.Array
    peak: jax.Array
    products: dict[str, jax.Array]
    momentum: Params
    mean: Params
    square: Params


def learned_muon(
    learning_rate: float | optax.Schedule = 0.03,
    weight_decay: float = 0.0,
    *,
    eps: float = 1e-12,
    stacked_axes: Callable[[str, jax.Array], int] = lambda path, param: 0,
    start: Mapping[str, float] = MappingProxyType({}),
    without: Sequence[str] = (),
) -> UpdateRule:
    r"""Orthogonalized momentum and Adam's direction, mixed by learned numbers.

    For a matrix W `[in, out]` (a convolution kernel counts as `[h · w · in, out]`), with moving
    averages m, a₀, v of g, g and g² of decays β, β₁, β₂, and hats for bias corrections,

    .. math:: d = o \sqrt{\max(1, \tfrac{out}{in})}\;
                  \mathrm{NS}(\beta\, \hat m + n\, (1 - \beta)\, \hat g)
                  + (k\, in^{-1/2} + j)\, \hat a / (\sqrt{\hat v} + \epsilon), \\
              W \leftarrow W - \eta\, (d' + (\lambda + \lambda_0) W)

    and for every other parameter :math:`d = c\, \hat a / (\sqrt{\hat v} + \epsilon)`, without λ,
    where :math:`\hat a = (1 - \nu)\, \hat a_0 + \nu\, (\beta_1 \hat a_0 + (1 - \beta_1) \hat g)`.
    NS is Muon's orthogonalization by five Newton–Schulz steps. In d′ coordinates of d that point
    up the present gradient (d g < 0) are multiplied by 1 − q.

    θ holds for each of the eleven numbers three of its own, z = z₀ + z₁ τ + z₂ (1 − η_t / max η),
    with a feature of time τ = (t − 300) / (t + 300) and one of how far a schedule has come down;
    1 − β = .05 e^z, 1 − β₁ = .1 e^z, 1 − β₂ = .001 e^z, o = n = c = e^z, ν = 1 + z, k = j = z,
    λ = z / 10 and q = z, kept within [0, 1]. With θ = 0, where it starts, the rule is
    `optax.contrib.muon`; with o = ν = 0 and j = c = 1 it is `optax.adam`.

    Args:
      learning_rate: η, a number or an optax schedule.
      weight_decay: λ₀, decoupled, of all parameters.
      eps: ε. It is below Adam's 1e-8, so that a loss in other units gives the same steps.
      stacked_axes: tells, from its path (as `"['layers']['kernel']"`) and itself, how many leading
        axes of a parameter number separate matrices, as those of layers that are scanned over.
      start: z₀ of numbers that θ is not to start neutral, by their names in θ.
      without: what stays neutral and is left out of θ, for ablations: numbers by their names in θ,
        'time' (all z₁) or 'schedule' (all z₂).

    Returns:
      The rule; its knobs are `learning_rate` and `weight_decay`: `rule.transform(theta,
      learning_rate=…)`. `update` needs the parameters.

    Raises:
      ValueError: an unknown name in `start` or `without`; from `update`, without the parameters;
        from `transform`, for a θ of other names or shapes; from `init`, for a parameter of fewer
        axes than are stacked.

    References: Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024;
    Kingma and Ba, *Adam: a method for stochastic optimization*, 2015; Liang et al., *Cautious
    optimizers*, 2024.
    """
    unknown = (set(without) | set(start)) - {*NAMES, *_SLOPES}
    if unknown:
        known = ", ".join((*NAMES, *_SLOPES))
        raise ValueError(
            f"unknown number of learned_muon: {', '.join(sorted(unknown))}; known: {known}"
        )
    features = (0, *(n for n, name in enumerate(_SLOPES, 1) if name not in without))
    shapes = {
        name: jax.ShapeDtypeStruct((len(features),), jnp.float32)
        for name in NAMES
        if name not in without
    }
    default_rate, default_decay = learning_rate, weight_decay
    knobs = (("learning_rate", learning_rate), ("weight_decay", weight_decay))

    def init(key: jax.Array) -> Theta:
        del key
        return {
            name: jnp.zeros(shape.shape, jnp.float32).at[0].set(start.get(name, 0.0))
            for name, shape in shapes.items()
        }

    def num_stacked(params: Params) -> Params:
        """Leading axes of each matrix that are stacked; −1 for parameters that are no matrix."""

        def of_one(path, param):
            name = jax.tree_util.keystr(path)
            stacked = stacked_axes(name, param)
            if not 0 <= stacked <= jnp.ndim(param):
                raise ValueError(
                    f"stacked_axes gives {stacked} for params{name} of {jnp.ndim(param)} axes"
                )
            return stacked if jnp.ndim(param) - stacked >= 2 and jnp.size(param) else -1

        return jax.tree.map_with_path(of_one, params)

    def transform(
        theta: Theta,
        *,
        learning_rate: float | optax.Schedule = default_rate,
        weight_decay: float = default_decay,
    ) -> optax.GradientTransformationExtraArgs:
        checks.check_theta(theta, shapes, rule="learned_muon")

        def init_fn(params: Params) -> LearnedMuonState:
            checks.check_params(params)
            momentum = jax.tree.map(
                lambda p, n: _zeros_like(p) if n >= 0 else optax.MaskedNode(),
                params,
                num_stacked(params),
            )
            return LearnedMuonState(
                step=jnp.zeros((), jnp.int32),
                peak=jnp.zeros((), jnp.float32),
                products={name: jnp.ones((), jnp.float32) for name in _DECAYS},
                momentum=momentum,
                mean=jax.tree.map(_zeros_like, params),
                square=jax.tree.map(_zeros_like, params),
            )

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            if params is None:
                raise ValueError(
                    "learned_muon needs the parameters: call update(grads, state, params)"
                )
            checks.check_same_tree(updates, state.mean)
            rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
            rate = jnp.asarray(rate, jnp.float32)
            peak = jnp.maximum(state.peak, rate)
            numbers = _numbers(theta, features, state.step, rate, peak)
            products = {name: state.products[name] * numbers[name] for name in _DECAYS}
            treedef = jax.tree.structure(params)
            results = [
                _update(numbers, products, rate, weight_decay, eps, *leaves)
                for leaves in zip(
                    jax.tree.leaves(num_stacked(params)),
                    jax.tree.leaves(params),
                    jax.tree.leaves(updates),
                    treedef.flatten_up_to(state.momentum),
                    jax.tree.leaves(state.mean),
                    jax.tree.leaves(state.square),
                    strict=True,
                )
            ]
            new, momentum, mean, square = (
                jax.tree.unflatten(treedef, [result[i] for result in results]) for i in range(4)
            )
            step = optax.safe_increment(state.step)
            return new, LearnedMuonState(step, peak, products, momentum, mean, square)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return UpdateRule(init, transform, knobs=knobs)


def _numbers(
    theta: Theta, which: Sequence[int], count: jax.Array, rate: jax.Array, peak: jax.Array
) -> dict[str, jax.Array]:
    """β, β₁, β₂, o, n, c, ν, k, j, q and λ at this step."""
    step = count.astype(jnp.float32)
    came_down = 1 - rate / jnp.maximum(peak, jnp.finfo(jnp.float32).tiny)
    known = (jnp.ones_like(step), (step - _TIME) / (step + _TIME), came_down)
    features = jnp.stack([known[n] for n in which])
    z = {name: jnp.zeros((), jnp.float32) for name in NAMES}
    z |= {name: jnp.sum(jnp.asarray(own, jnp.float32) * features) for name, own in theta.items()}
    decays = {name: 1 - jnp.minimum((1 - d) * jnp.exp(z[name]), 1) for name, d in _DECAYS.items()}
    factors = {name: jnp.exp(z[name]) for name in _FACTORS}
    weights = {
        "adam_nesterov": 1 + z["adam_nesterov"],
        "adam_by_fan_in": z["adam_by_fan_in"],
        "adam": z["adam"],
        "caution": jnp.clip(z["caution"], 0, 1),
        "shrinkage": z["shrinkage"] / 10,
    }
    return decays | factors | weights


def _update(
    numbers: dict[str, jax.Array],
    products: dict[str, jax.Array],
    rate: jax.Array,
    weight_decay: Any,
    eps: float,
    stacked: int,
    param: jax.Array,
    grad: jax.Array,
    momentum: Any,
    mean: jax.Array,
    square: jax.Array,
) -> tuple[jax.Array, Any, jax.Array, jax.Array]:
    """The update of one parameter, and its next averages."""
    dtype = mean.dtype
    n = {name: value.astype(dtype) for name, value in numbers.items()}
    product = {name: value.astype(dtype) for name, value in products.items()}
    g, w = jnp.asarray(grad, dtype), jnp.asarray(param, dtype)
    mean = n["b1"] * mean + (1 - n["b1"]) * g
    square = n["b2"] * square + (1 - n["b2"]) * g * g
    adam = _ahead(mean, g, n["b1"], product["b1"])
    adam = (1 - n["adam_nesterov"]) * mean / (1 - product["b1"]) + n["adam_nesterov"] * adam
    adam /= jnp.sqrt(square / (1 - product["b2"])) + eps
    never = square == 0
    decay = jnp.asarray(weight_decay, dtype) * w
    if stacked < 0:
        direction = n["vector"] * adam
    else:
        shape = (*jnp.shape(g)[:stacked], -1, jnp.shape(g)[-1])
        beta = n["beta"]
        momentum = beta * momentum + (1 - beta) * g
        never &= momentum == 0
        ahead = _ahead(momentum, n["nesterov"] * g, beta, product["beta"])
        num_in = math.prod(jnp.shape(g)[stacked:-1])
        widening = max(1.0, jnp.shape(g)[-1] / num_in) ** 0.5
        orthogonal = in_auto_mode(lambda x: orthogonalize(x.reshape(shape)).reshape(x.shape), ahead)
        direction = n["orthogonal"] * widening * orthogonal
        direction += (n["adam_by_fan_in"] * num_in**-0.5 + n["adam"]) * adam
        decay += jnp.where(never, 0, n["shrinkage"] * w)
    direction = jnp.where(direction * g < 0, 1 - n["caution"], 1) * direction
    update = -rate.astype(dtype) * (jnp.where(never, 0, direction) + decay)
    return update.astype(jnp.result_type(param)), momentum, mean, square


def _ahead(average: jax.Array, g: jax.Array, decay: jax.Array, product: jax.Array) -> jax.Array:
    """Nesterov's look-ahead: decay · the average + (1 − decay) · g, both bias-corrected."""
    return decay * average / (1 - product * decay) + (1 - decay) * g / (1 - product)


def _zeros_like(param: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(jnp.result_type(param), jnp.float32)
    return jnp.zeros_like(jnp.asarray(param), dtype)
