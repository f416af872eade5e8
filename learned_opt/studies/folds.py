"""Cross-validation as weights: scikit-learn's splitters over networks that are fitted as lanes."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.tasks.checks import positive


class Folds(NamedTuple):
    """Which examples each fit learns from, and which it is tested on.

    Attributes:
      train: ones and zeros, float32 `[folds, n]`: the weights of `weighted_fits.fit`.
      test: bool `[folds, n]`.
    """

    train: np.ndarray
    test: np.ndarray


def fold_weights(splitter: Any, num_examples: int, labels: ArrayLike | None = None) -> Folds:
    """The splits of a scikit-learn splitter, as weights.

    Args:
      splitter: `KFold`, `StratifiedKFold`, `RepeatedKFold`, `TimeSeriesSplit`, `ShuffleSplit`, …
        of `sklearn.model_selection`.
      num_examples: n.
      labels: y, int `[n]`, for splitters that look at them.

    Raises:
      ValueError: more folds than examples or than examples of a class, or a time series that is too
        short for its folds and their gap.

    Example:
      >>> from sklearn.model_selection import TimeSeriesSplit
      >>> fold_weights(TimeSeriesSplit(2, gap=1), 6).train
      array([[1., 0., 0., 0., 0., 0.],
             [1., 1., 1., 0., 0., 0.]], dtype=float32)
    """
    n = positive("num_examples", num_examples)
    y = None if labels is None else np.asarray(labels)
    _check(splitter, n, y)
    splits = list(splitter.split(np.zeros((n, 1)), y))
    train, test = np.zeros((len(splits), n), np.float32), np.zeros((len(splits), n), bool)
    for fold, (learned, tested) in enumerate(splits):
        train[fold, learned] = 1
        test[fold, tested] = True
    return Folds(train, test)


def nested_folds(
    outer: Any, inner: Any, num_examples: int, labels: ArrayLike | None = None
) -> tuple[Folds, Folds]:
    """Folds within the training examples of folds.

    The inner folds choose a hyperparameter, the outer ones test what was chosen: no example has a
    part in a choice that it tests.

    Args:
      outer: a splitter, see `fold_weights`.
      inner: another one, for the training examples of each outer fold.
      num_examples: n.
      labels: y, int `[n]`, for splitters that look at them.

    Returns:
      The outer folds, and the inner ones, `[outer folds, inner folds, n]`.

    Raises:
      ValueError: see `fold_weights`.

    Reference: Varma and Simon, *Bias in error estimation when using cross-validation for model
    selection*, 2006.
    """
    y = None if labels is None else np.asarray(labels)
    folds = fold_weights(outer, num_examples, y)
    inners = []
    for weights in folds.train:
        rows = np.flatnonzero(weights)
        small = fold_weights(inner, len(rows), None if y is None else y[rows])
        wide = Folds(*(np.zeros((len(x), num_examples), x.dtype) for x in small))
        for part, found in zip(small, wide, strict=True):
            found[:, rows] = part
        inners.append(wide)
    return folds, Folds(*(np.stack(parts) for parts in zip(*inners, strict=True)))


def fold_scores(losses: ArrayLike, test: ArrayLike) -> np.ndarray:
    """The mean loss of each fold over the examples it is tested on.

    Args:
      losses: of every example, `[…, folds, n]`.
      test: `Folds.test`, `[folds, n]`.

    Returns:
      `[…, folds]`; the estimate of cross-validation is their mean.
    """
    losses, test = np.asarray(losses, np.float64), np.asarray(test)
    return np.where(test, losses, 0).sum(axis=-1) / test.sum(axis=-1)


def _check(splitter: Any, n: int, labels: np.ndarray | None) -> None:
    """Says in our words what scikit-learn would say in several ways."""
    from sklearn import model_selection as known

    if isinstance(splitter, known.TimeSeriesSplit):
        folds, gap = splitter.n_splits, splitter.gap
        size = splitter.test_size or n // (folds + 1)
        if gap < 0 or n - gap - folds * size < 1:
            raise ValueError(
                f"a series of {n} steps is too short for {folds} folds of {size} steps and a gap "
                f"of {gap}: ask for fewer folds or a shorter gap, of at least 0"
            )
        return
    stratified = isinstance(splitter, known.StratifiedKFold | known.RepeatedStratifiedKFold)
    if isinstance(splitter, known.RepeatedKFold | known.RepeatedStratifiedKFold):
        folds = splitter.cvargs["n_splits"]
    elif isinstance(splitter, known.KFold | known.StratifiedKFold):
        folds = splitter.n_splits
    else:  # drawn at random, or one a group: scikit-learn's own words will do
        return
    if folds > n:
        raise ValueError(f"{folds} folds need as many examples, got {n}: ask for fewer folds")
    if labels is not None and stratified:
        fewest = min(np.unique(labels, return_counts=True)[1])
        if folds > fewest:
            raise ValueError(
                f"{folds} stratified folds need as many examples of each class, got {fewest} of "
                "one: ask for fewer folds"
            )
