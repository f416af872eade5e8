"""Hand-designed update rules: θ is the rule's continuous hyperparameters.

Every function here returns an `UpdateRule` whose θ is a plain dict of float32 scalars, one for each
continuous hyperparameter, and whose `transform(theta)` is optax's implementation. θ may be traced,
so a search over hyperparameters is a `vmap` over θ. Arithmetic and state are in float32 where the
parameters are of lower precision (in bfloat16 an average with decay 0.999 would not move), and in
the parameters' own dtype elsewhere; updates have the dtype of the parameters.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from learned_opt.types import Params, Theta, UpdateRule
from learned_opt.update_rules import checks


def sgd(learning_rate: float = 0.1) -> UpdateRule:
    r"""Stochastic gradient descent.

    .. math:: \theta_{t+1} = \theta_t - \eta\, g_t

    Args:
      learning_rate: η.

    Example:
      >>> rule = sgd(0.5)
      >>> theta = rule.init(jax.random.key(0))
      >>> tx = rule.transform(theta)
      >>> updates, _ = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> updates.tolist()
      [-0.5, -0.5]
    """
    return from_optax("sgd", optax.sgd, complex_params=True, learning_rate=learning_rate)


def momentum(learning_rate: float = 0.1, *, decay: float = 0.9) -> UpdateRule:
    r"""Momentum: gradient descent along a decaying sum of gradients.

    .. math:: v_{t+1} = \gamma v_t + g_t, \quad \theta_{t+1} = \theta_t - \eta\, v_{t+1}

    Args:
      learning_rate: η.
      decay: γ.

    Reference: Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964.
    """

    def make(learning_rate, decay):
        return optax.sgd(learning_rate, momentum=decay)

    return from_optax(
        "momentum",
        make,
        accumulator="trace",
        complex_params=True,
        learning_rate=learning_rate,
        decay=decay,
    )


def nesterov(learning_rate: float = 0.1, *, decay: float = 0.9) -> UpdateRule:
    r"""Gradient descent with Nesterov's momentum.

    .. math:: v_{t+1} = \gamma v_t + g_t, \quad
              \theta_{t+1} = \theta_t - \eta\, (\gamma v_{t+1} + g_t)

    Args:
      learning_rate: η.
      decay: γ.

    Reference: Sutskever et al., *On the importance of initialization and momentum in deep
    learning*, 2013.
    """

    def make(learning_rate, decay):
        return optax.sgd(learning_rate, momentum=decay, nesterov=True)

    return from_optax(
        "nesterov",
        make,
        accumulator="trace",
        complex_params=True,
        learning_rate=learning_rate,
        decay=decay,
    )


def adagrad(
    learning_rate: float = 0.1, *, eps: float = 1e-7, initial_accumulator_value: float = 0.1
) -> UpdateRule:
    r"""Adagrad.

    .. math:: v_{t+1} = v_t + g_t^2, \quad
              \theta_{t+1} = \theta_t - \eta\, g_t / \sqrt{v_{t+1} + \epsilon}

    Args:
      learning_rate: η.
      eps: ε.
      initial_accumulator_value: v₀.

    Reference: Duchi et al., *Adaptive subgradient methods for online learning and stochastic
    optimization*, 2011.
    """
    return from_optax(
        "adagrad",
        optax.adagrad,
        accumulator="sum_of_squares",
        complex_params=True,
        learning_rate=learning_rate,
        eps=eps,
        initial_accumulator_value=initial_accumulator_value,
    )


def adadelta(learning_rate: float = 1.0, *, rho: float = 0.9, eps: float = 1e-6) -> UpdateRule:
    r"""Adadelta.

    .. math:: v_{t+1} = \rho v_t + (1-\rho) g_t^2, \quad
              \Delta_t = \frac{\sqrt{s_t + \epsilon}}{\sqrt{v_{t+1} + \epsilon}}\, g_t, \quad
              s_{t+1} = \rho s_t + (1-\rho) \Delta_t^2, \quad
              \theta_{t+1} = \theta_t - \eta\, \Delta_t

    Args:
      learning_rate: η; 1 in the paper.
      rho: ρ.
      eps: ε.

    Reference: Zeiler, *ADADELTA: an adaptive learning rate method*, 2012.
    """
    return from_optax(
        "adadelta",
        optax.adadelta,
        accumulator="e_g",
        learning_rate=learning_rate,
        rho=rho,
        eps=eps,
    )


def rmsprop(
    learning_rate: float = 1e-3,
    *,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
) -> UpdateRule:
    r"""RMSProp.

    .. math:: v_{t+1} = \rho v_t + (1-\rho) g_t^2, \quad
              \theta_{t+1} = \theta_t - \eta\, g_t / \sqrt{v_{t+1} + \epsilon}

    Args:
      learning_rate: η.
      decay: ρ.
      eps: ε, inside the root.
      initial_scale: v₀.

    Reference: Hinton, *Neural networks for machine learning*, lecture 6e, 2012.
    """
    return from_optax(
        "rmsprop",
        optax.rmsprop,
        accumulator="nu",
        complex_params=True,
        learning_rate=learning_rate,
        decay=decay,
        eps=eps,
        initial_scale=initial_scale,
    )


def adam(
    learning_rate: float = 1e-3, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> UpdateRule:
    r"""Adam.

    .. math:: m_{t+1} = \beta_1 m_t + (1-\beta_1) g_t, \quad
              v_{t+1} = \beta_2 v_t + (1-\beta_2) g_t^2, \quad
              \theta_{t+1} = \theta_t - \eta\,
              \frac{m_{t+1} / (1-\beta_1^{t+1})}
                   {\sqrt{v_{t+1} / (1-\beta_2^{t+1})} + \epsilon}

    Args:
      learning_rate: η.
      b1: β₁.
      b2: β₂.
      eps: ε, added after the bias correction as in the paper's algorithm 1.

    Reference: Kingma and Ba, *Adam: a method for stochastic optimization*, 2015.
    """
    return from_optax(
        "adam",
        optax.adam,
        accumulator="mu",
        complex_params=True,
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
    )


def nadam(
    learning_rate: float = 1e-3, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> UpdateRule:
    r"""NAdam: Adam with Nesterov's momentum.

    As `adam`, with

    .. math:: \beta_1 m_{t+1} / (1-\beta_1^{t+2}) + (1-\beta_1) g_t / (1-\beta_1^{t+1})

    in the place of :math:`m_{t+1} / (1-\beta_1^{t+1})`.

    Args:
      learning_rate: η.
      b1: β₁.
      b2: β₂.
      eps: ε.

    Reference: Dozat, *Incorporating Nesterov momentum into Adam*, 2016.
    """
    return from_optax(
        "nadam",
        optax.nadam,
        accumulator="mu",
        complex_params=True,
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
    )


def adamw(
    learning_rate: float = 1e-3,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> UpdateRule:
    r"""AdamW: Adam with decoupled weight decay.

    As `adam`, and :math:`\theta_{t+1}` loses :math:`\eta \lambda \theta_t` besides. `update` needs
    the parameters.

    Args:
      learning_rate: η.
      b1: β₁.
      b2: β₂.
      eps: ε.
      weight_decay: λ.

    Reference: Loshchilov and Hutter, *Decoupled weight decay regularization*, 2019.
    """
    return from_optax(
        "adamw",
        optax.adamw,
        accumulator="mu",
        complex_params=True,
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
    )


def muon(
    learning_rate: float = 1e-3,
    *,
    beta: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    consistent_rms: float = 0.2,
    is_hidden: Callable[[str, jax.Array], bool] = lambda path, param: True,
) -> UpdateRule:
    r"""Muon: momentum orthogonalized by Newton–Schulz, for matrices; AdamW for all the rest.

    .. math:: m_{t+1} = \beta m_t + (1-\beta) g_t, \quad
              \theta_{t+1} = \theta_t - \eta\, c \sqrt{\max(n, k)}\;
              \mathrm{orthogonalize}(\hat m_{t+1})

    for a matrix of shape `[n, k]`, with Nesterov's momentum and bias correction in
    :math:`\hat m`. Where m has always been zero the update is zero too. The factor makes the
    root mean square of an update about c η whatever the shape, so that one learning rate serves
    the matrices and Adam's share.

    Args:
      learning_rate: η, for both.
      beta: β, the decay of Muon's momentum.
      b1: Adam's β₁.
      b2: Adam's β₂.
      eps: ε, for both.
      weight_decay: decoupled as in `adamw`, for both. `update` needs the parameters.
      consistent_rms: c.
      is_hidden: tells, from its path (as `"['dense_0']['kernel']"`) and itself, whether Muon takes
        a two-dimensional parameter. By default it takes them all; Jordan gives embeddings and the
        last layer to Adam.

    References: Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024;
    Liu et al., *Muon is scalable for LLM training*, 2025 (the factor).
    """

    def labels(params: Params) -> Params:
        def label(path, param):
            matrix = param.ndim == 2 and param.size > 0
            return "muon" if matrix and is_hidden(jax.tree_util.keystr(path), param) else "adam"

        return jax.tree.map_with_path(label, params)

    def make(learning_rate, beta, b1, b2, eps, weight_decay, consistent_rms):
        def scale(updates, params):
            del params
            return jax.tree.map(lambda u: consistent_rms * max(u.shape) ** 0.5 * u, updates)

        orthogonalize = _still_where_momentum_is_zero(
            optax.contrib.scale_by_muon(
                beta=beta,
                eps=eps,
                weight_dimension_numbers=lambda params: jax.tree.map(
                    lambda _: optax.contrib.MuonDimensionNumbers(), params
                ),
            )
        )
        rest = optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
        matrices = optax.chain(
            orthogonalize,
            optax.stateless(scale),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
        return optax.partition({"muon": matrices, "adam": rest}, labels)

    return from_optax(
        "muon",
        make,
        coordinatewise=False,
        learning_rate=learning_rate,
        beta=beta,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=weight_decay,
        consistent_rms=consistent_rms,
    )


def _still_where_momentum_is_zero(
    muon: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Muon without the share that orthogonalization gives to coordinates that had no gradient."""

    def update(updates, state, params=None):
        updates, state = muon.update(updates, state, params)
        return jax.tree.map(lambda u, m: jnp.where(m == 0, 0, u), updates, state.mu), state

    return optax.GradientTransformation(muon.init, update)


def from_optax(
    name: str,
    make: Callable[..., optax.GradientTransformation],
    *,
    accumulator: str | None = None,
    coordinatewise: bool = True,
    complex_params: bool = False,
    **defaults: float,
) -> UpdateRule:
    """Makes an `UpdateRule` of an optax function of hyperparameters.

    Args:
      name: the rule's name, for messages.
      make: called with θ as keyword arguments.
      accumulator: the field of the optax state that is shaped like the parameters, if there is one.
      coordinatewise: see `UpdateRule`.
      complex_params: whether the rule takes complex parameters.
      **defaults: the hyperparameters and their values.
    """

    def init(key: jax.Array) -> Theta:
        del key
        return {name: jnp.asarray(value, jnp.float32) for name, value in defaults.items()}

    def transform(theta: Theta) -> optax.GradientTransformationExtraArgs:
        checks.check_theta(theta, defaults, rule=name)
        inner = optax.with_extra_args_support(make(**theta))

        def init_fn(params: Params) -> optax.OptState:
            checks.check_params(params, complex_params=complex_params)
            return inner.init(_at_least_float32(params))

        def update_fn(updates, state, params=None, **extra_args):
            reference = params
            if reference is None and accumulator is not None:
                reference = optax.tree.get(state, accumulator)
            if reference is not None:
                checks.check_same_tree(updates, reference)
            new_updates, state = inner.update(
                _at_least_float32(updates), state, _at_least_float32(params), **extra_args
            )
            like = updates if params is None else params
            return jax.tree.map(lambda u, p: u.astype(jnp.result_type(p)), new_updates, like), state

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return UpdateRule(init, transform, coordinatewise)


def _at_least_float32(tree: Params) -> Params:
    """Casts leaves of lower precision to float32, and makes every dtype a definite one."""
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32)), tree
    )
