"""Ensembles against NumPy loops, scikit-learn and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.ensemble import VotingClassifier
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import LabelEncoder

from learned_opt import update_rules
from learned_opt.networks import Perceptron
from learned_opt.studies.ensembles import boost, bootstrap_counts, by_size, out_of_bag

RNG = np.random.default_rng(0)


def test_a_bootstrap_draws_n_of_n_and_leaves_out_a_share_of_one_over_e():
    counts = bootstrap_counts(2000, 50)
    assert counts.shape == (2000, 50) and (counts.sum(1) == 50).all()
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.005)
    assert counts.mean(0) == pytest.approx(np.ones(50), abs=0.1)


def test_averages_and_votes_are_scikit_learns():
    x, y = RNG.normal(size=(80, 3)), RNG.integers(0, 4, 80)
    models = [
        GaussianNB().fit(x[part], y[part]) for part in (RNG.permutation(80)[:40] for _ in range(5))
    ]
    p = np.stack([model.predict_proba(x) for model in models])
    found = by_size(p, y)
    for count in (1, 3, 5):
        for kind, errors in (("soft", found.averaging), ("hard", found.voting)):
            vote = VotingClassifier(
                [(str(n), m) for n, m in enumerate(models[:count])], voting=kind
            )
            vote.estimators_, vote.classes_ = models[:count], np.arange(4)
            vote.le_ = LabelEncoder().fit(y)
            votes = np.stack([np.bincount(m, minlength=4) for m in p[:count].argmax(2).T])
            clear = np.sort(votes, 1)[:, -1] > np.sort(votes, 1)[:, -2]
            rows = clear if kind == "hard" else np.full(80, True)
            expected = (vote.predict(x[rows]) != y[rows]).mean()
            assert by_size(p[:, rows], y[rows])[1 + (kind == "hard")][count - 1] == expected
            assert errors.shape == (5,)
        assert found.loss[count - 1] == pytest.approx(log_loss(y, p[:count].mean(0)))


def test_a_tie_goes_to_the_larger_mean():
    p = np.array([[[0.6, 0.4]], [[0.1, 0.9]]])  # one vote each; the means are 0.35 and 0.65
    assert by_size(p, [1]).voting[1] == 0
    p = np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]])
    assert by_size(p, [0]).voting[2] == 0 and by_size(p, [0]).averaging[2] == 1


def test_out_of_the_bag_is_the_mean_of_those_who_have_not_seen_it():
    p, counts = RNG.random((6, 5, 3)), RNG.integers(0, 2, (6, 5))
    counts[:, 4] = 1
    found = out_of_bag(p, counts)
    for n in range(4):
        unseen = [p[m, n] for m in range(6) if counts[m, n] == 0]
        np.testing.assert_allclose(found[n], np.mean(unseen, axis=0))
    assert np.isnan(found[4]).all()


def test_boosting_linear_maps_is_the_loop_with_exact_least_squares():
    x, y = RNG.normal(size=(40, 3)), RNG.integers(0, 3, 40)
    places = RNG.normal(size=(7, 3))
    rule = update_rules.adam(0.05)
    found = boost(
        jax.random.key(0), jnp.float32(x), jnp.asarray(y), jnp.float32(places),
        rule.init(jax.random.key(0)), num_classes=3, network=Perceptron(3, 3, ()), rule=rule,
        num_rounds=4, num_steps=400, shrinkage=0.5,
    )  # fmt: skip
    design, at = (np.hstack([a, np.ones((len(a), 1))]) for a in (x, places))
    prior = np.log(np.bincount(y) / 40)
    logits, expected = np.tile(prior, (40, 1)), [np.tile(prior, (7, 1))]
    for _ in range(4):
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        weights = np.linalg.lstsq(design, np.eye(3)[y] - p, rcond=None)[0]
        logits = logits + 0.5 * 3 * design @ weights
        expected.append(expected[-1] + 0.5 * 3 * at @ weights)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="num_members must be positive, got 0"):
        bootstrap_counts(0, 5)
    with pytest.raises(ValueError, match=r"at least one member .* got \[0, 5, 3\] and \[5\]"):
        by_size(np.zeros((0, 5, 3)), np.zeros(5, int))
    with pytest.raises(ValueError, match=r"counts \[members, n\], got \[2, 5, 3\] and \[2, 4\]"):
        out_of_bag(np.zeros((2, 5, 3)), np.zeros((2, 4)))
    rule = update_rules.sgd()
    arguments = (jax.random.key(0), jnp.ones((3, 2)), jnp.arange(3), jnp.ones((1, 2)), {})
    settings = dict(num_classes=3, network=Perceptron(2, 3, ()), rule=rule, num_steps=1)
    with pytest.raises(ValueError, match="num_rounds must be positive, got 0"):
        boost(*arguments, num_rounds=0, **settings)
    with pytest.raises(ValueError, match="shrinkage must be in .0, 1., got 2"):
        boost(*arguments, num_rounds=1, shrinkage=2, **settings)
    with pytest.raises(ValueError, match="each of the 4 classes needs an example"):
        boost(*arguments, num_rounds=1, **(settings | {"num_classes": 4}))
