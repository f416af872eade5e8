"""When to stop: by patience, as one can, and by an oracle, as one would like to."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from learned_opt.tasks.checks import positive


class Stopped(NamedTuple):
    """Where runs stopped, as numbers of the checks, int `[num_seeds]`.

    Attributes:
      chosen: the best check before the stop: what is kept.
      stopped: the check at which patience ended, or the last one: what it cost.
      oracle: the best of all checks.
    """

    chosen: np.ndarray
    stopped: np.ndarray
    oracle: np.ndarray


def stop_early(losses: ArrayLike, patience: int) -> Stopped:
    r"""Stops each run once its validation loss has not come down for `patience` checks.

    With b_t the first of the lowest losses up to check t, a run stops at the first t with
    t − b_t ≥ patience, and keeps b_t. Losses that are not finite are no lower than any.

    Args:
      losses: validation losses at regular checks, `[num_seeds, checks]`, such as
        `evaluate(…, splits=('valid',)).heldout['valid']['loss']`.
      patience: checks without a lower loss.

    Raises:
      ValueError: no check, another number of axes, or a patience below one.

    Reference: Prechelt, *Early stopping — but when?*, 1998, section 2.2 (the class UP).

    Example:
      >>> stop_early([[3.0, 2.0, 2.5, 2.2, 1.0]], patience=2)
      Stopped(chosen=array([1]), stopped=array([3]), oracle=array([4]))
    """
    best, stopped = _best_and_stop(losses, patience)
    oracle = np.where(np.isfinite(losses), losses, np.inf).argmin(1)
    return Stopped(best[np.arange(len(best)), stopped], stopped, oracle)


def kept_so_far(losses: ArrayLike, patience: int) -> np.ndarray:
    """The check that early stopping has kept by each check, int `[num_seeds, checks]`.

    That is b_t of `stop_early` while the run goes on, and from its stop on what it stopped with.
    Arguments and errors are those of `stop_early`.

    Example:
      >>> kept_so_far([[3.0, 2.0, 2.5, 2.2, 1.0]], patience=2)
      array([[0, 1, 1, 1, 1]])
    """
    best, stopped = _best_and_stop(losses, patience)
    checks = np.arange(best.shape[1])
    return np.take_along_axis(best, np.minimum(checks, stopped[:, None]), axis=1)


def _best_and_stop(losses: ArrayLike, patience: int) -> tuple[np.ndarray, np.ndarray]:
    """The first of the lowest losses up to each check, and the check at which a run stops."""
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 2 or losses.shape[1] == 0:
        raise ValueError(f"losses must be [num_seeds, checks], got {list(losses.shape)}")
    patience = positive("patience", patience)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    checks = np.arange(losses.shape[1])
    lowest = np.minimum.accumulate(losses, axis=1)
    fresh = np.concatenate([np.ones((len(losses), 1), bool), lowest[:, 1:] < lowest[:, :-1]], 1)
    best = np.maximum.accumulate(np.where(fresh, checks, 0), axis=1)
    ended = checks - best >= patience
    return best, np.where(ended.any(1), ended.argmax(1), checks[-1])
