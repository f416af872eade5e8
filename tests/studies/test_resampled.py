"""Samples of the data as lanes, against a Python loop over plain tasks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.studies.resampled import resample, run_samples
from learned_opt.tasks import Classifier, Quadratic, WithPenalty
from learned_opt.unroll import init_inner, inner_step
from learned_opt.update_rules import sgd

KEY = jax.random.key(0)
SIZES = {"train": 20, "valid": 6, "test": 9}


@pytest.fixture(scope="module")
def task():
    """Every image holds its own number, so that it is known where it went."""
    images = np.arange(40, dtype=np.float32).reshape(40, 1) / 40
    labels = np.arange(40) % 3
    splits = {"train": (images[:30], labels[:30]), "valid": (images[30:], labels[30:])}
    return Classifier.from_arrays(splits, num_classes=3, hidden_sizes=(4,), batch_size=4)


def numbers(images):
    return np.asarray(images[..., 0] * 40).round().astype(int)


def test_samples_are_permutations_cut_into_splits(task):
    found = resample(task, SIZES, 3)
    assert found.images["train"].shape == (3, 20, 1) and found.labels["test"].shape == (3, 9)
    rows = [numbers(found.images[split]) for split in SIZES]
    for sample in np.concatenate(rows, axis=1):
        assert len(set(sample)) == 35
    assert len({tuple(sample) for sample in np.concatenate(rows, axis=1)}) == 3
    for split, row in zip(SIZES, rows, strict=True):
        np.testing.assert_array_equal(found.labels[split], row % 3)
    assert (numbers(resample(task, SIZES, 3, seed=1).images["train"]) != rows[0]).any()


def test_small_training_sets_are_the_first_examples_repeated(task):
    whole = resample(task, SIZES, 2)
    found = resample(task, SIZES, 2, train_sizes=(5, 20))
    assert found.images["train"].shape == (4, 20, 1)
    np.testing.assert_array_equal(found.images["train"][2:], whole.images["train"])
    np.testing.assert_array_equal(
        numbers(found.images["train"][:2]), np.tile(numbers(whole.images["train"])[:, :5], (1, 4))
    )
    np.testing.assert_array_equal(found.labels["train"][:2], numbers(found.images["train"][:2]) % 3)
    np.testing.assert_array_equal(
        found.images["valid"], np.concatenate([whole.images["valid"]] * 2)
    )


def test_curves_are_those_of_a_loop(task):
    samples = resample(task, SIZES, 2)
    change = functools.partial(WithPenalty, l2=0.1)
    curves = run_samples(
        sgd(),
        {"learning_rate": jnp.array([0.5, 2.0])},
        samples,
        KEY,
        num_steps=6,
        checks=3,
        change=change,
    )
    assert curves.steps.tolist() == [0, 2, 4, 6]

    @jax.jit
    def step(rate, task, inner, key):
        tx = sgd().transform({"learning_rate": rate})
        return inner_step(tx, change(task), inner, key)[0]

    measure = jax.jit(lambda task, params: {s: task.evaluate(params, (), s) for s in SIZES})
    for r, rate in enumerate((0.5, 2.0)):
        for n in range(2):
            one = jax.tree.map(lambda x, n=n: x[n], samples)
            key_start, key_run = jax.random.split(jax.random.fold_in(KEY, n))
            inner = init_inner(sgd().transform({"learning_rate": rate}), one, key_start)
            for t in range(7):
                if t % 2 == 0:
                    for split, wanted in measure(one, inner.params).items():
                        for metric in ("loss", "accuracy"):
                            found = curves.heldout[split][metric][r, n, t // 2]
                            np.testing.assert_allclose(found, wanted[metric], rtol=1e-5)
                inner = step(rate, one, inner, jax.random.fold_in(key_run, t))


def test_training_sets_of_one_permutation_share_start_and_keys(task):
    samples = resample(task, SIZES, 2, train_sizes=(10, 20))
    curves = run_samples(
        sgd(), {"learning_rate": jnp.array([1.0])}, samples, KEY, num_steps=2, checks=1, num_keys=2
    )
    start = curves.heldout["test"]["loss"][0, :, 0]
    np.testing.assert_array_equal(start[:2], start[2:])
    assert start[0] != start[1]


def test_what_diverged_is_not_a_number(task):
    rates = {"learning_rate": jnp.array([jnp.nan, 0.1])}
    curves = run_samples(sgd(), rates, resample(task, SIZES, 1), KEY, num_steps=4, checks=2)
    lost = np.isnan(curves.heldout["test"]["accuracy"])
    np.testing.assert_array_equal(lost[:, 0], [[False, True, True], [False, False, False]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": SIZES | {"test": 15}}, "sizes ask for 41 examples, but there are 40"),
        ({"train_sizes": (7,)}, r"train size 7 must divide sizes\['train'\] \(20\)"),
        ({"train_sizes": (2,)}, "batch_size 4 is larger than a train size of 2"),
        ({"sizes": SIZES | {"train": 2}}, "batch_size 4 is larger than a train size of 2"),
        ({"num_samples": 0}, "num_samples must be positive"),
    ],
)
def test_bad_sizes_are_refused(task, settings, message):
    with pytest.raises(ValueError, match=message):
        resample(task, **({"sizes": SIZES, "num_samples": 2} | settings))


def test_checks_divide_the_steps(task):
    with pytest.raises(ValueError, match=r"checks \(3\) must divide num_steps \(4\)"):
        run_samples(sgd(), {}, resample(task, SIZES, 1), KEY, num_steps=4, checks=3)


def test_other_tasks_are_refused():
    with pytest.raises(TypeError, match="only the data of a Classifier .* got Quadratic"):
        resample(Quadratic(3), SIZES, 1)
