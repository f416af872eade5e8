"""Runs from many seeds, the search for a learning rate, and the file of finished runs."""

import jax
import numpy as np
import optax
import pytest

from learned_opt import tasks
from learned_opt.studies.rate_search import CellStore, half_decades, read_cells, search
from learned_opt.studies.runs import Optimizer, Runs, run_seeds, state_bytes, step_times
from learned_opt.unroll import init_inner, inner_step

SGD = Optimizer(lambda rate, num_steps, weight_decay: optax.sgd(rate))
RATES = half_decades(1e-3)


def test_the_window_moves_until_the_best_is_inside():
    asked = []

    def score(rate):
        asked.append(rate)
        return abs(np.log10(rate) - 1.5)

    found = search(RATES, score)
    assert found.rate == pytest.approx(10**1.5, rel=1e-5) and not found.on_edge
    assert len(found.window) == len(found.scores) == 7 and found.window[-2] == found.rate
    assert len(asked) == len(set(asked)) == 7 + 4


def test_the_search_goes_down_where_all_diverge_and_stops():
    found = search(RATES, lambda rate: np.nan, max_moves=2)
    assert found.on_edge and found.rate == 1e-4 and found.score == np.inf


def test_a_single_rate_is_not_searched_for():
    assert search((0.3,), lambda rate: 1.0) == (0.3, 1.0, (0.3,), (1.0,), False)


def _runs(value):
    one = np.array([value])
    return Runs(np.array([[1.0, value]]), one, one, np.array([np.nan]))


def test_half_a_line_is_cut_off_and_other_runs_are_refused(tmp_path):
    path = tmp_path / "w" / "adam.jsonl"
    store = CellStore(path, {"task": "a"})
    store.add(0.1, 0.0, 0, _runs(2.0))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"rate": 0.3, "wei')
    assert CellStore(path, {"task": "a"}).cells == store.cells and path.read_bytes() == whole
    with pytest.raises(ValueError, match="differ in task"):
        CellStore(path, {"task": "b"})
    path.write_bytes(whole + b"nonsense\n")
    with pytest.raises(ValueError, match="line 3 is damaged"):
        read_cells(path)


def test_a_run_is_the_inner_loop():
    task, key = tasks.Quadratic(num_dims=3), jax.random.key(3)
    found = run_seeds(SGD, task, key, [1], rate=0.1, num_steps=6, points=3, factor=2, heldout=False)
    inner = init_inner(optax.sgd(0.1), task, jax.random.split(jax.random.fold_in(key, 1))[0])
    losses = []
    for _ in range(13):
        losses.append(task.loss(inner.params, inner.instance, key))  # it has no minibatches
        inner, _ = inner_step(optax.sgd(0.1), task, inner, key)
    np.testing.assert_allclose(found.train[0], losses[::2], rtol=1e-5)


def test_runs_of_several_seeds_are_those_of_each_and_diverged_ones_are_nan():
    task, key = tasks.image_classifier(hidden_sizes=(4,), batch_size=8), jax.random.key(0)
    settings = dict(num_steps=4, points=2, probes=2)
    both = run_seeds(SGD, task, key, [0, 1], rate=0.1, **settings)
    for n in (0, 1):
        one = run_seeds(SGD, task, key, [n], rate=0.1, **settings)
        for x, y in zip(one, both, strict=True):
            np.testing.assert_array_equal(x[0], y[n])
    assert both.train.shape == (2, 3) and np.isfinite(both.errors).all()
    lost = run_seeds(SGD, task, key, [0], rate=1e38, **settings)
    assert np.isfinite(lost.train[0, 0]) and np.isnan(lost.train[0, 1:]).all()
    assert np.isnan([lost.valid[0], lost.test[0], lost.errors[0]]).all()


def test_bytes_and_times():
    task, key = tasks.Quadratic(num_dims=3), jax.random.key(0)
    adam = Optimizer(lambda rate, num_steps, weight_decay: optax.adam(rate))
    assert state_bytes(adam, task, key, 5) == (2 * 12 + 4, 12)
    times = step_times({"sgd": SGD, "adam": adam}, task, key, num_steps=3, repeats=2)
    assert list(times) == ["sgd", "adam"] and all(len(x) == 2 for x in times.values())


def test_bad_numbers_are_refused():
    task, key = tasks.Quadratic(num_dims=3), jax.random.key(0)
    with pytest.raises(ValueError, match="must divide"):
        run_seeds(SGD, task, key, [0], rate=0.1, num_steps=5, points=2)
    with pytest.raises(ValueError, match="factor must be at least 1"):
        run_seeds(SGD, task, key, [0], rate=0.1, num_steps=4, points=2, factor=0)
    for rates in ((), (0.0, 1.0)):
        with pytest.raises(ValueError, match="positive"):
            search(rates, float)
