"""Celo2: a tiny network that sees normalised statistics of a tensor and gives a direction.

347 numbers serve all tensors. Step size and schedule stay outside: the direction has root mean
square 1 (Moudgil et al., *Celo2*, ICLR 2026, arXiv 2602.19142; facts from the code of its authors,
amoudgl/celo at 66d9761).
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.theta_files import load_theta
from learned_opt.types import Params, Theta, UpdateRule
from learned_opt.update_rules import checks
from learned_opt.update_rules.newton_schulz import in_auto_mode
from learned_opt.update_rules.newton_schulz import orthogonalize as newton_schulz

DECAYS = (0.9, 0.99, 0.999)  # of the momenta and of the factored second moments
SECOND_MOMENT_DECAY = 0.95
CLIP = 1000.0  # of every entry of the gradient
ADAM_FACTOR = 20.0  # the learning rate of Adam's share, in learning rates

# How many numbers each group of inputs has, in the order of the first layer's rows. Tensors with
# less than two axes have the first nine groups alone.
GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)

_WRITTEN_OUT_FROM = 1024  # entries of a tensor; smaller ones are not worth a second of compiling


class Celo2State(NamedTuple):
    """State of Celo2, in float32 at least; all zeros at the start, without bias correction.

    Attributes:
      step: int32 `[]`, updates done.
      momentum: for each decay β of `DECAYS`, Σ (1−β) β^k g, a tree shaped like the parameters;
        where Adam does the work, the two slow ones are empty, `[0]`.
      second_moment: the same of g² with β = .95.
      row: for each β the average of g² over the parameter's largest axis, which stays as an axis of
        size 1; of tensors with less than two axes, of g² itself. Empty, `[0]`, where Adam works.
      col: over its second largest axis. Empty too where there is none.
    """

    step: jax.Array
    momentum: tuple[Params, ...]
    second_moment: Params
    row: tuple[Params, ...]
    col: tuple[Params, ...]


def celo2(
    *,
    orthogonalize: bool = True,
    vectors: Literal["adam", "rule"] = "adam",
    learning_rate: float | optax.Schedule = 1e-3,
    weight_decay: float = 0.0,
    hidden_sizes: Sequence[int] = (8, 8),
    is_embedding: Callable[[str, jax.Array], bool] = lambda path, _: "embed" in path.lower(),
) -> UpdateRule:
    r"""Celo2, the small learned rule of Moudgil et al. (2026).

    .. math:: d_t = \mathrm{rms1}(\mathrm{orthogonalize}(\mathrm{MLP}_\theta(x_t))), \quad
              p_{t+1} = p_t - \eta_t\, (d_t + \lambda\, p_t)

    with 30 inputs x for each entry of a tensor: the gradient g, also clipped to ±0.1, p itself,
    momenta m of three decays, a second moment v, factored second moments R C of three decays as in
    Adafactor, and products of them such as m / √v and m R C; each is divided by its root mean
    square over the last two axes. The network has ReLU layers of 8 and 8 units; `orthogonalize` is
    five Newton–Schulz steps on the last two axes (a convolution's are its input and output
    channels), and rms1 divides by the root mean square over them.

    As published for whole networks, `celo2()`, tensors with less than two axes and embeddings get
    Adam (β .9, .95) at 20 η. The publication's "base" variant is
    `celo2(orthogonalize=False, vectors='rule')`. The library does not ship the published weights;
    see `theta_from_published`.

    A coordinate whose gradient has always been exactly zero does not move; in the published code
    it moves as all others do. A gradient of NaN makes its whole tensor NaN for good, state
    included: put `optax.apply_if_finite` around the rule where that can happen. Infinite
    gradients are clipped to ±1000, as all are.

    θ is `{'layer_0': {'kernel': [30, 8], 'bias': [8]}, 'layer_1': …, 'layer_2': {'kernel': [8, 3],
    'bias': [3]}}`, with inputs on the first axis; of the three outputs the first alone is used.

    Args:
      orthogonalize: whether directions of tensors with two axes or more are orthogonalised.
      vectors: what moves tensors with less than two axes and embeddings: 'adam' or 'rule'.
      learning_rate: η, or a schedule of it.
      weight_decay: λ, decoupled, for every tensor.
      hidden_sizes: units of the two hidden layers, or of as many as there are numbers.
      is_embedding: tells embeddings from a parameter's path (as `"['embed']['embedding']"`) and
        itself.

    Returns:
      An `UpdateRule` whose updates have the dtype of the parameters. Its knobs are `learning_rate`
      and `weight_decay`: `rule.transform(theta, learning_rate=…)`. `update` needs the parameters
      and raises `ValueError` without them, and where the gradients' tree differs from theirs.

    Raises:
      ValueError: a `vectors` that is neither of the two, no hidden layer or one without a unit, or
        a negative or infinite number.

    Example:
      >>> rule = celo2(learning_rate=optax.cosine_decay_schedule(3e-3, 1000))
      >>> tx = rule.transform(rule.init(jax.random.key(0)))
      >>> params = {'w': jnp.ones((3, 2))}
      >>> updates, _ = tx.update({'w': jnp.ones((3, 2))}, tx.init(params), params)
      >>> updates['w'].shape
      (3, 2)
    """
    hidden_sizes = tuple(hidden_sizes)
    if not hidden_sizes or any(size < 1 for size in hidden_sizes):
        raise ValueError(f"hidden_sizes must be positive integers, got {hidden_sizes}")
    if vectors not in ("adam", "rule"):
        raise ValueError(f"unknown vectors {vectors!r}: expected 'adam' or 'rule'")
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number, at least 0, got {value}")
    default_rate, default_decay = learning_rate, weight_decay
    knobs = (("learning_rate", learning_rate), ("weight_decay", weight_decay))
    sizes = (sum(GROUPS), *hidden_sizes, 3)

    def init(key: jax.Array) -> Theta:
        theta = {}
        for n, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            shape = (fan_in, fan_out)
            kernel = jax.random.truncated_normal(
                jax.random.fold_in(key, n), -2, 2, shape, jnp.float32
            )
            theta[f"layer_{n}"] = {
                "kernel": kernel / math.sqrt(fan_in),
                "bias": jnp.zeros(fan_out, jnp.float32),
            }
        return theta

    theta_shapes = jax.eval_shape(init, jax.random.key(0))

    def kind(path: Any, p: jax.Array) -> str:
        """Who moves a parameter: 'adam', or the rule as a 'vector' or a 'matrix'."""
        if p.size == 0 or (
            vectors == "adam" and (p.ndim < 2 or is_embedding(jax.tree_util.keystr(path), p))
        ):
            return "adam"
        return "vector" if p.ndim < 2 else "matrix"

    def transform(
        theta: Theta,
        *,
        learning_rate: float | optax.Schedule = default_rate,
        weight_decay: float = default_decay,
    ) -> optax.GradientTransformationExtraArgs:
        checks.check_theta(theta, theta_shapes, rule="celo2")
        layers = [theta[f"layer_{n}"] for n in range(len(sizes) - 1)]

        def init_fn(params: Params) -> Celo2State:
            checks.check_params(params)
            params = jax.tree.map(_wide, params)

            def zeros(make: Callable[[str, jax.Array], jax.Array]) -> Params:
                return jax.tree.map_with_path(lambda path, p: make(kind(path, p), p), params)

            # derived from the parameters, which gives them the parameters' sharding; each one a
            # buffer of its own, so that a state can be donated
            def like():
                return zeros(lambda _, p: jnp.zeros_like(p))

            def slow():
                return zeros(lambda k, p: _nothing(p) if k == "adam" else jnp.zeros_like(p))

            def factored(axis):
                return tuple(
                    zeros(lambda k, p: _reduced(k, jnp.zeros_like(p), axis)) for _ in range(3)
                )

            return Celo2State(
                jnp.zeros((), jnp.int32),
                (like(), slow(), slow()),
                like(),
                factored(0),
                factored(1),
            )

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            if params is None:
                raise ValueError("celo2 needs the parameters: call update(grads, state, params)")
            checks.check_same_tree(updates, params)
            treedef: Any = jax.tree.structure(params)
            rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
            outputs, states = [], []
            for (path, p), g, m0, m1, m2, v, *factored in zip(
                jax.tree.leaves_with_path(params),
                *map(
                    jax.tree.leaves,
                    (updates, *state.momentum, state.second_moment, *state.row, *state.col),
                ),
                strict=True,
            ):
                dtype, p = jnp.result_type(p), _wide(p)
                g = jnp.clip(jnp.asarray(g, p.dtype), -CLIP, CLIP)
                who = kind(path, p)
                if who == "adam":
                    d, kept = _adam(g, m0, v, state.step)
                    kept = (kept[0], m1, m2, kept[1], *factored)
                else:
                    kept = _next_state(who, g, (m0, m1, m2), v, factored)
                    d = _direction(layers, who, g, p, kept, orthogonalize)
                outputs.append((-rate * (d + weight_decay * p)).astype(dtype))
                states.append(kept)
            trees = [treedef.unflatten(leaves) for leaves in zip(*states, strict=True)]
            if not states:
                trees = [params] * 10
            new_state = Celo2State(
                optax.safe_increment(state.step),
                tuple(trees[:3]),
                trees[3],
                tuple(trees[4:7]),
                tuple(trees[7:]),
            )
            return treedef.unflatten(outputs), new_state

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return UpdateRule(init, transform, knobs=knobs)


def theta_from_published(path: str | os.PathLike) -> Theta:
    """Reads the weights that the authors of Celo2 published, as a θ of `celo2()`.

    Args:
      path: an NPZ file with the entries w0__0 … w0__13, the first layer's weights by group of
        inputs, b0, w1, b1, w2 and b2, inputs on the first axis.

    Returns:
      θ of `celo2()`, and of it without orthogonalization.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or its entries or their shapes are others.
    """
    entries = load_theta(path)
    if not is_published(entries):
        raise ValueError(f"{path} has not the entries of the published weights of Celo2")
    shapes: dict[str, tuple[int, ...]] = {f"w0__{n}": (size, 8) for n, size in enumerate(GROUPS)}
    shapes |= {"b0": (8,), "w1": (8, 8), "b1": (8,), "w2": (8, 3), "b2": (3,)}
    for name, shape in shapes.items():
        if np.shape(entries[name]) != shape:
            raise ValueError(f"{path}: {name} has shape {entries[name].shape}, expected {shape}")
    first = jnp.concatenate([entries[f"w0__{n}"] for n in range(len(GROUPS))])
    return {
        "layer_0": {"kernel": first, "bias": entries["b0"]},
        "layer_1": {"kernel": entries["w1"], "bias": entries["b1"]},
        "layer_2": {"kernel": entries["w2"], "bias": entries["b2"]},
    }


def is_published(entries: Mapping[str, Any]) -> bool:
    """Whether a file's entries have the names of the published weights."""
    names = {f"w0__{n}" for n in range(len(GROUPS))} | {"b0", "w1", "b1", "w2", "b2"}
    return set(entries) == names


def _wide(p: Any) -> jax.Array:
    """A parameter as an array of float32 at least."""
    return jnp.asarray(p, jnp.promote_types(jnp.result_type(p), jnp.float32))


def _nothing(p: jax.Array) -> jax.Array:
    return jnp.zeros(0, p.dtype)


def _axes(shape: Sequence[int]) -> tuple[int, int]:
    """The largest axis and the second largest; of equal ones the last comes first."""
    second, first = np.argsort(shape, kind="stable")[-2:]
    return int(first), int(second)


def _reduced(kind: str, x: jax.Array, which: int) -> jax.Array:
    """What is kept of g²: its mean over one of the two largest axes; of vectors itself, once."""
    if kind == "matrix":
        return x.mean(_axes(x.shape)[which], keepdims=True)
    return x if kind == "vector" and which == 0 else _nothing(x)


def _adam(g, m, v, count):
    """Adam's direction × 20, and its next state."""
    b1, b2 = DECAYS[0], SECOND_MOMENT_DECAY
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    t = count + 1
    corrected = (m / (1 - b1**t).astype(m.dtype)), (v / (1 - b2**t).astype(v.dtype))
    return ADAM_FACTOR * corrected[0] / (jnp.sqrt(corrected[1]) + 1e-8), (m, v)


def _next_state(kind: str, g: jax.Array, momentum, v, factored) -> tuple[jax.Array, ...]:
    """The ten arrays of the state, after the gradient g."""
    b2 = SECOND_MOMENT_DECAY
    momentum = [b * m + (1 - b) * g for b, m in zip(DECAYS, momentum, strict=True)]
    means = [_reduced(kind, g**2 + 1e-30, which) for which in (0, 1)]
    row = [b * x + (1 - b) * means[0] for b, x in zip(DECAYS, factored[:3], strict=True)]
    col = [b * x + (1 - b) * means[1] for b, x in zip(DECAYS, factored[3:], strict=True)]
    return (*momentum, b2 * v + (1 - b2) * g**2, *row, *col)


def _inputs(kind: str, g: jax.Array, p: jax.Array, state: Sequence[jax.Array]) -> list[jax.Array]:
    """The network's inputs, 30 or 15 arrays that broadcast to the parameter's shape."""
    *momentum, v = state[:4]
    row, col = state[4:7], state[7:]
    rho = jax.lax.rsqrt(v + 1e-8)
    if kind == "matrix":
        second = _axes(g.shape)[1]
        factors = [
            (
                jax.lax.rsqrt(jnp.maximum(r / (r.mean(second, keepdims=True) + 1e-9), 1e-9)),
                jax.lax.rsqrt(jnp.maximum(c, 1e-9)),
            )
            for r, c in zip(row, col, strict=True)
        ]
    else:
        factors = [(jax.lax.rsqrt(jnp.maximum(s + 1e-9, 1e-9)), jnp.ones((), s.dtype)) for s in row]
    inputs = [g, jnp.clip(g, -0.1, 0.1), p, *momentum, v, *(m * rho for m in momentum), rho]
    inputs += [*(g * r * c for r, c in factors), g * rho]
    if kind == "matrix":
        inputs += [*row, *col]
        inputs += [jax.lax.rsqrt(x + 1e-8) for x in (*row, *col)]
        inputs += [m * r * c for m, (r, c) in zip(momentum, factors, strict=True)]
    return inputs


def _direction(layers, kind: str, g, p, state, orthogonalize: bool) -> jax.Array:
    """The direction of one tensor, 0 where there has never been a gradient."""
    axes = tuple(range(-min(g.ndim, 2), 0))
    inputs = _inputs(kind, g, p, state)
    network = _network if g.size < _WRITTEN_OUT_FROM else _network_written_out
    d = network(layers, inputs, axes).astype(g.dtype)
    if orthogonalize and kind == "matrix":
        d = in_auto_mode(newton_schulz, d)
    d = d * jax.lax.rsqrt(1e-9 + jnp.mean(d**2, axes, keepdims=True))
    slowest, v = state[2], state[3]
    return jnp.where((g != 0) | (slowest != 0) | (v != 0), d, 0)


def _network(layers, inputs: Sequence[jax.Array], axes: tuple[int, ...]) -> jax.Array:
    """The network's first output for `inputs`, normalised over `axes`."""
    scaled = [x * jax.lax.rsqrt(1e-9 + jnp.mean(x**2, axes, keepdims=True)) for x in inputs]
    x = jnp.stack(jnp.broadcast_arrays(*scaled), -1)
    x = x @ layers[0]["kernel"][: len(inputs)] + layers[0]["bias"]
    for layer in layers[1:]:
        x = jax.nn.relu(x) @ layer["kernel"] + layer["bias"]
    return x[..., 0]


def _network_written_out(layers, inputs: Sequence[jax.Array], axes: tuple[int, ...]) -> jax.Array:
    """The same, written out as sums of arrays of the tensor's shape.

    It compiles, slowly, to one fast loop over the entries, which stores none of the inputs and
    keeps the sharding. Normalising an input is a factor on its weights, and inputs that do not
    vary along an axis meet theirs before they are broadcast along it.
    """
    shape = inputs[0].shape
    means = jnp.broadcast_arrays(*(jnp.mean(x**2, axes, keepdims=True) for x in inputs))
    kernel = layers[0]["kernel"][: len(inputs)]
    weights = jax.lax.rsqrt(1e-9 + jnp.stack(means, -1))[..., None] * kernel  # [..., inputs, 8]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for k, x in enumerate(inputs):
        by_shape.setdefault(x.shape, []).append(k)
    whole = by_shape.pop(shape)
    narrow = [
        (jnp.stack([inputs[k] for k in ks], -1)[..., None] * weights[..., np.array(ks), :]).sum(-2)
        for ks in by_shape.values()
    ]
    outputs = []
    for j in range(layers[0]["bias"].shape[0]):
        total = sum(inputs[k] * weights[..., k, j] for k in whole) + layers[0]["bias"][j]
        outputs.append(sum((x[..., j] for x in narrow), total))
    for n, layer in enumerate(layers[1:], start=2):
        hidden = [jax.nn.relu(x) for x in outputs]
        units = 1 if n == len(layers) else layer["bias"].shape[0]
        outputs = [
            sum(h * w for h, w in zip(hidden, layer["kernel"][:, j], strict=True))
            + layer["bias"][j]
            for j in range(units)
        ]
    return outputs[0]
