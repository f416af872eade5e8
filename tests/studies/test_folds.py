"""Folds as weights against scikit-learn's own cross-validation."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    KFold,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_score,
)

from learned_opt.studies.folds import fold_scores, fold_weights, nested_folds

RNG = np.random.default_rng(0)
SPLITTERS = (
    KFold(4),
    KFold(3, shuffle=True, random_state=1),
    RepeatedKFold(n_splits=3, n_repeats=2, random_state=1),
    StratifiedKFold(3),
    TimeSeriesSplit(3, gap=2),
    TimeSeriesSplit(2, test_size=4, max_train_size=6),
    ShuffleSplit(1, test_size=0.25, random_state=0),
)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=str)
def test_scores_are_those_of_cross_val_score(splitter):
    x, labels = RNG.normal(size=(24, 3)), np.arange(24) % 3
    y = labels + 0.3 * RNG.normal(size=24)
    folds = fold_weights(splitter, 24, labels)
    fitted = [Ridge().fit(x, y, sample_weight=weights) for weights in folds.train]
    losses = np.stack([(model.predict(x) - y) ** 2 for model in fitted])
    splits = list(splitter.split(x, labels))
    expected = cross_val_score(Ridge(), x, y, cv=splits, scoring="neg_mean_squared_error")
    np.testing.assert_allclose(fold_scores(losses, folds.test), -expected)
    assert not (folds.test & (folds.train > 0)).any()


def test_the_gap_lies_between_training_and_test():
    folds = fold_weights(TimeSeriesSplit(3, test_size=5, gap=7), 40)
    for train, test in zip(folds.train, folds.test, strict=True):
        assert np.flatnonzero(test).min() - np.flatnonzero(train).max() == 7 + 1


def test_what_the_outer_fold_tests_has_no_part_in_the_choice():
    outer, inner = nested_folds(KFold(3, shuffle=True, random_state=0), KFold(4), 20)
    assert inner.train.shape == inner.test.shape == (3, 4, 20)
    for n in range(3):
        assert not inner.train[n, :, outer.test[n]].any()
        assert not inner.test[n, :, outer.test[n]].any()
        np.testing.assert_array_equal(inner.test[n].sum(0), outer.train[n])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="6 folds need as many examples, got 5: ask for fewer"):
        fold_weights(KFold(6), 5)
    with pytest.raises(ValueError, match="6 folds need as many examples, got 5: ask for fewer"):
        fold_weights(RepeatedKFold(n_splits=6, n_repeats=2), 5)
    with pytest.raises(ValueError, match="3 stratified folds .* got 2 of one: ask for fewer"):
        fold_weights(StratifiedKFold(3), 8, [0, 0, 0, 0, 0, 0, 1, 1])
    for splitter in (TimeSeriesSplit(3, gap=20), TimeSeriesSplit(3, test_size=7)):
        with pytest.raises(ValueError, match="a series of 20 steps is too short for 3 folds"):
            fold_weights(splitter, 20)
    with pytest.raises(ValueError, match="gap of -1: .* of at least 0"):
        fold_weights(TimeSeriesSplit(3, gap=-1), 20)
    with pytest.raises(ValueError, match="num_examples must be positive, got 0"):
        fold_weights(KFold(2), 0)
