"""Many models instead of one: bagging, votes, errors out of the bag, and boosting."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from learned_opt.networks import Network
from learned_opt.studies.weighted_fits import fit, squared_error
from learned_opt.tasks.checks import positive
from learned_opt.types import Key, Theta, UpdateRule


def bootstrap_counts(num_members: int, num_examples: int, *, seed: int = 0) -> np.ndarray:
    """How often each example is in each member's bootstrap sample of as many examples.

    About a share (1 − 1/n)ⁿ ≈ 1/e of the examples are out of a bag: their count is zero.

    Args:
      num_members: bags.
      num_examples: n.
      seed: of the draws.

    Returns:
      Whole numbers, `[num_members, num_examples]`; every row adds up to n.

    Raises:
      ValueError: a number below one: an ensemble of zero, or no examples.

    Reference: Breiman, *Bagging predictors*, 1996, section 1.
    """
    n = positive("num_examples", num_examples)
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=positive("num_members", num_members))


class Sizes(NamedTuple):
    """An ensemble of the first 1, 2, … members, each `[members]`.

    Attributes:
      loss: the cross-entropy of the averaged probabilities, −log p̄[y].
      averaging: the share of examples for which argmax p̄ is not y.
      voting: the same for the class that most members choose; where several have as many votes, the
        one of them with the largest p̄.
    """

    loss: np.ndarray
    averaging: np.ndarray
    voting: np.ndarray


def by_size(probabilities: ArrayLike, labels: ArrayLike) -> Sizes:
    """Losses and errors of an ensemble against its number of members.

    Args:
      probabilities: p of each member, `[members, n, classes]`.
      labels: y, int `[n]`.

    Raises:
      ValueError: no member, or shapes that do not fit.

    Reference: Breiman, *Bagging predictors*, 1996, sections 4.1 and 4.2 (votes and averages).
    """
    p, labels = _checked(probabilities, labels)
    numbers = np.arange(1, len(p) + 1)[:, None, None]
    mean = np.cumsum(p, axis=0) / numbers
    votes = np.cumsum(np.eye(p.shape[2])[p.argmax(axis=2)], axis=0)
    chosen = (votes + 0.5 * mean).argmax(axis=2)  # half of at most one vote: it breaks ties alone
    with np.errstate(divide="ignore"):
        loss = -np.log(mean[:, np.arange(len(labels)), labels])
    return Sizes(
        loss.mean(axis=1),
        (mean.argmax(axis=2) != labels).mean(axis=1),
        (chosen != labels).mean(axis=1),
    )


def out_of_bag(probabilities: ArrayLike, counts: ArrayLike) -> np.ndarray:
    """The mean probabilities of each training example over the members that have not seen it.

    An estimate of test error that costs nothing: no example is held back.

    Args:
      probabilities: on the training examples, `[members, n, classes]`.
      counts: see `bootstrap_counts`, `[members, n]`.

    Returns:
      `[n, classes]`; NaN for an example that is in every bag.

    Raises:
      ValueError: shapes that do not fit.

    Reference: Breiman, *Out-of-bag estimation*, 1996.
    """
    p, counts = np.asarray(probabilities, np.float64), np.asarray(counts)
    if p.ndim != 3 or p.shape[:2] != counts.shape:
        raise ValueError(
            "probabilities must be [members, n, classes] and counts [members, n], got "
            f"{list(p.shape)} and {list(counts.shape)}"
        )
    unseen = (counts == 0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.einsum("mnc,mn->nc", p, unseen) / unseen.sum(axis=0)[:, None]


def boost(
    key: Key,
    inputs: jax.Array,
    labels: jax.Array,
    test_inputs: jax.Array,
    theta: Theta,
    *,
    num_classes: int,
    network: Network,
    rule: UpdateRule,
    num_rounds: int,
    num_steps: int,
    shrinkage: float = 0.1,
) -> np.ndarray:
    r"""Gradient boosting of small networks, for classification.

    With F₀ the logarithms of the classes' shares, every round fits a network h to what the
    cross-entropy's gradient asks of the logits, by least squares, and takes a part of it:

    .. math:: r_i = e_{y_i} - \mathrm{softmax}(F_t(x_i)), \quad
              h_t = \arg\min_h \sum_i \lVert r_i - h(x_i) \rVert^2, \quad
              F_{t+1} = F_t + \nu\, K\, h_t

    K, the number of classes, makes up for gradients of probabilities, which are small; trees have
    Newton's step in each leaf instead.

    Args:
      key: draws the networks' starts.
      inputs: x, `[n, …]`.
      labels: y, int `[n]`; every class is among them.
      test_inputs: `[m, …]`.
      theta: the rule's θ.
      num_classes: K.
      network: from inputs to K numbers.
      rule: the rule that fits networks, see `weighted_fits.fit`.
      num_rounds: networks.
      num_steps: updates in the fit of one.
      shrinkage: ν.

    Returns:
      F at the test inputs after 0, 1, … rounds, `[num_rounds + 1, m, K]`.

    Raises:
      ValueError: a number below one, a shrinkage that is not in (0, 1], or a class without
        examples.

    Reference: Friedman, *Greedy function approximation: a gradient boosting machine*, 2001,
    algorithm 6 (with trees).
    """
    positive("num_rounds", num_rounds)
    positive("num_steps", num_steps)
    if not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage must be in (0, 1], got {shrinkage}")
    shares = np.bincount(np.asarray(labels), minlength=num_classes) / len(labels)
    if len(shares) != num_classes or not (shares > 0).all():
        raise ValueError(f"each of the {num_classes} classes needs an example to boost from")
    first = jnp.log(jnp.asarray(shares, jnp.float32))
    settings = dict(network=network, rule=rule, num_steps=num_steps)
    keys = jax.random.split(key, num_rounds)
    scale = jnp.float32(shrinkage * num_classes)
    rest = _boost(keys, inputs, labels, test_inputs, theta, first, scale, **settings)
    start = np.broadcast_to(np.asarray(first), (1, len(test_inputs), num_classes))
    return np.concatenate([start, np.asarray(rest)])


@functools.partial(jax.jit, static_argnames=("network", "rule", "num_steps"))
def _boost(keys, inputs, labels, test_inputs, theta, first, scale, *, network, rule, num_steps):
    wanted = jax.nn.one_hot(labels, len(first))

    def one_round(logits, key):
        residuals = wanted - jax.nn.softmax(logits[0])
        params = fit(
            key, inputs, residuals, jnp.ones(len(inputs)), theta,
            network=network, loss=squared_error, rule=rule, num_steps=num_steps,
        )  # fmt: skip
        steps = [scale * network.apply(params, x) for x in (inputs, test_inputs)]
        logits = jax.tree.map(jnp.add, logits, tuple(steps))
        return logits, logits[1]

    start = tuple(jnp.tile(first, (len(x), 1)) for x in (inputs, test_inputs))
    return jax.lax.scan(one_round, start, keys)[1]


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 3 or p.shape[1:2] != y.shape or not len(p):
        raise ValueError(
            "probabilities must be [members, n, classes] of at least one member and labels [n], "
            f"got {list(p.shape)} and {list(y.shape)}"
        )
    return p, y
