"""Early stopping against a loop that does what a person would."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

import learned_opt
from learned_opt.early_stopping import kept_so_far, stop_early
from learned_opt.studies.trials import scores
from learned_opt.tasks import Classifier
from learned_opt.update_rules import sgd

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


@hypothesis.given(st.lists(LOSS, min_size=1, max_size=12), st.integers(1, 5))
@hypothesis.settings(deadline=None)
def test_what_is_kept_by_a_check_is_what_a_run_until_then_keeps(losses, patience):
    found = kept_so_far([losses], patience)[0]
    assert found.tolist() == [_by_hand(losses[: t + 1], patience)[0] for t in range(len(losses))]


def test_evaluate_with_patience_keeps_what_a_person_would():
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(90, 6)), rng.integers(0, 3, 90)
    cuts = {"train": slice(60), "valid": slice(60, 80), "test": slice(80, 90)}
    splits = {name: (images[cut], labels[cut]) for name, cut in cuts.items()}
    task = Classifier.from_arrays(splits, num_classes=3, hidden_sizes=(5,), batch_size=8)
    rule, key = sgd(2.0), jax.random.key(0)
    settings = dict(num_seeds=4, num_steps=40, eval_steps=tuple(range(0, 41, 5)))
    settings["splits"] = ("valid", "test")
    theta = rule.init(key)
    whole = learned_opt.evaluate(rule, theta, task, key, **settings)
    found = learned_opt.evaluate(rule, theta, task, key, patience=2, **settings)
    np.testing.assert_array_equal(found.losses, whole.losses)
    chosen = [_by_hand(losses, 2)[0] for losses in whole.heldout["valid"]["loss"]]
    assert max(chosen) < 8  # they overfit
    for split in ("valid", "test"):
        for metric, values in whole.heldout[split].items():
            kept = [row[n] for row, n in zip(values, chosen, strict=True)]
            np.testing.assert_array_equal(found.heldout[split][metric][:, -1], kept)
    for wrong, message in (
        ({"patience": 0}, "patience must be positive, got 0"),
        ({"patience": 1.5}, "patience must be a positive integer, got 1.5"),
        ({"splits": ("test",)}, "patience needs eval_steps, and splits with 'valid'"),
        ({"eval_steps": ()}, "patience needs eval_steps, and splits with 'valid'"),
    ):
        with pytest.raises(ValueError, match=message):
            learned_opt.evaluate(rule, theta, task, key, **(settings | {"patience": 2} | wrong))


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
