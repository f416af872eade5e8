"""Early stopping against a loop that does what a person would."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from learned_opt.studies.early_stopping import stop_early
from learned_opt.studies.trials import scores

LOSS = st.sampled_from([1.0, 2.0, 2.5, 3.0, float("nan"), float("inf")])


def _by_hand(losses, patience):
    best, waited, chosen = float("inf"), 0, 0
    for t, loss in enumerate(losses):
        if t == 0 or loss < best:
            best, chosen, waited = (loss if loss == loss else float("inf")), t, 0
        else:
            waited += 1
        if waited >= patience:
            break
    return chosen, t


@hypothesis.given(st.lists(LOSS, min_size=1, max_size=12), st.integers(1, 5))
@hypothesis.settings(deadline=None)
def test_equals_a_loop(losses, patience):
    found = stop_early([losses], patience)
    assert (found.chosen[0], found.stopped[0]) == _by_hand(losses, patience)
    finite = np.nan_to_num(losses, nan=np.inf, posinf=np.inf)
    assert finite[found.oracle[0]] == finite.min() <= finite[found.chosen[0]]


def test_runs_stop_each_by_itself():
    losses = [[3, 2, 1, 2, 3], [1, 2, 3, 4, 0]]
    found = stop_early(losses, 2)
    assert found.chosen.tolist() == [2, 0]
    assert found.stopped.tolist() == [4, 2]
    assert found.oracle.tolist() == [2, 4]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="patience must be positive"):
        stop_early([[1.0]], 0)
    with pytest.raises(ValueError, match=r"losses must be \[num_seeds, checks\], got \[3\]"):
        stop_early([1.0, 2.0, 3.0], 1)
    with pytest.raises(ValueError, match="got .2, 0"):
        stop_early(np.zeros((2, 0)), 1)


def _trial(losses, accuracies, diverged_at=None):
    valid = {"loss": losses, "accuracy": accuracies}
    return {
        "heldout": {"valid": valid}, "diverged_at": diverged_at, "reported": {"loss": 1.0}
    }  # fmt: skip


def test_a_study_scores_its_trials_where_early_stopping_kept_them():
    trials = {
        0: _trial([3.0, 1.0, 2.0, 2.5, 0.5], [0.1, 0.6, 0.7, 0.8, 0.9]),  # stops before the end
        1: _trial([3.0, 2.0, 1.5, 1.2, 1.1], [0.1, 0.2, 0.3, 0.4, 0.5]),
        2: _trial([3.0, 1.3, None, None, None], [0.1, 0.5, None, None, None], diverged_at=70),
        3: _trial([None] * 5, [None] * 5, diverged_at=3),
    }
    np.testing.assert_array_equal(scores(trials, patience=2), [1.0, 1.1, 1.3, np.inf])
    np.testing.assert_allclose(scores(trials, metric="error", patience=2), [0.4, 0.5, 0.5, np.inf])
    np.testing.assert_array_equal(scores(trials), [0.5, 1.1, np.inf, np.inf])  # at the end
    np.testing.assert_array_equal(scores(trials, patience=9), [0.5, 1.1, 1.3, np.inf])  # oracle
    with pytest.raises(ValueError, match="patience must be positive, got 0"):
        scores(trials, patience=0)
    with pytest.raises(ValueError, match="with patience take a split"):
        scores(trials, split="reported", patience=2)
