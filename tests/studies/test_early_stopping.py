"""Early stopping against a loop that does what a person would."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from learned_opt.studies.early_stopping import stop_early

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
