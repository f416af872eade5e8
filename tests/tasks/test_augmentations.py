"""Augmentations against NumPy, against what they promise, and against doing nothing."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from learned_opt.tasks import Augmented, Quadratic, Regression, WithPenalty, image_classifier
from learned_opt.tasks.augmentations import (
    AUGMENTATIONS,
    CutMix,
    Cutout,
    Flip,
    InputNoise,
    LabelSmoothing,
    Mixup,
    Rotation,
    Shift,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PICTURES = jnp.asarray(RNG.uniform(0.1, 1, (300, 8, 6, 2)), jnp.float32)
TARGETS = jax.nn.one_hot(jnp.arange(300) % 5, 5)
NOTHING = (
    LabelSmoothing(0.0),
    Mixup(0.0),
    CutMix(0.0),
    Cutout(0),
    InputNoise(0.0),
    Shift(0),
    Rotation(0.0),
    Flip(0.0),
)


@pytest.mark.parametrize("transform", NOTHING, ids=lambda t: type(t).__name__)
def test_in_the_limit_nothing_happens(transform):
    x, y = jax.jit(transform)(KEY, PICTURES, TARGETS)
    chex.assert_trees_all_equal((x, y), (PICTURES, TARGETS))


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_dtypes_and_probabilities_stay(name, dtype):
    x, y = AUGMENTATIONS[name]()(KEY, PICTURES.astype(dtype), TARGETS.astype(dtype))
    assert (x.shape, x.dtype, y.shape, y.dtype) == (PICTURES.shape, dtype, TARGETS.shape, dtype)
    np.testing.assert_allclose(y.astype(jnp.float32).sum(1), 1, atol=0.02)
    assert y.min() >= 0 and jnp.isfinite(x).all()


def test_label_smoothing():
    _, y = LabelSmoothing(0.3)(KEY, PICTURES, TARGETS)
    np.testing.assert_allclose(y[0], [0.7 + 0.06, 0.06, 0.06, 0.06, 0.06], rtol=1e-6)


def test_mixup_mixes_inputs_and_targets_by_one_share_from_the_beta_distribution():
    x, y = Mixup(0.4)(KEY, PICTURES, TARGETS)
    share = np.asarray(y)[np.arange(300), np.arange(300) % 5]  # neighbours are of other classes
    before = np.roll(np.asarray(PICTURES), 1, axis=0)
    s = share[:, None, None, None]
    np.testing.assert_allclose(x, s * np.asarray(PICTURES) + (1 - s) * before, rtol=1e-5)
    assert stats.kstest(share, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_cutmix_takes_a_box_and_its_share_of_the_target():
    x, y = CutMix(1.0)(KEY, PICTURES, TARGETS)
    own = np.asarray(x == PICTURES).all(-1)
    other = np.asarray(x) == np.roll(np.asarray(PICTURES), 1, axis=0)
    assert (own | other.all(-1)).all()
    share = np.asarray(y)[np.arange(300), np.arange(300) % 5]
    np.testing.assert_allclose(share, own.mean((1, 2)), atol=1e-6)
    for mask in ~own[:50]:
        rows, columns = mask.any(1), mask.any(0)
        assert (mask == rows[:, None] & columns[None]).all()  # one box
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        assert (np.diff(np.flatnonzero(columns)) == 1).all()
    assert 0.5 < share.mean() < 0.9 and share.std() > 0.1


def test_cutout_covers_a_square_that_may_hang_over_the_border():
    x, y = Cutout(3, fill=7.0)(KEY, PICTURES, TARGETS)
    covered = np.asarray(x == 7.0)
    assert (np.asarray(x)[~covered] == np.asarray(PICTURES)[~covered]).all()
    areas = covered[..., 0].sum((1, 2))
    assert areas.max() == 9 and areas.min() < 9 and (areas > 0).all()
    chex.assert_trees_all_equal(y, TARGETS)
    assert covered.mean(0).min() > 0.02  # everywhere


def test_noise_has_its_standard_deviation():
    x, _ = InputNoise(0.3)(KEY, PICTURES, TARGETS)
    np.testing.assert_allclose((x - PICTURES).std(), 0.3, rtol=0.02)
    np.testing.assert_allclose((x - PICTURES).mean(), 0, atol=0.01)


def test_shift_moves_by_whole_pixels_in_every_direction():
    x, _ = Shift(1)(KEY, PICTURES, TARGETS)
    seen = set()
    for moved, picture in zip(np.asarray(x), np.asarray(PICTURES), strict=True):
        found = [
            (i, j)
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if np.array_equal(moved, ndimage.shift(picture, (i, j, 0), order=0))
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 9


def test_rotation_is_that_of_scipy_up_to_the_limit():
    pictures = jnp.asarray(RNG.uniform(size=(40, 9, 9, 1)), jnp.float32)
    x, _ = Rotation(20.0)(KEY, pictures, TARGETS[:40])
    angles = jax.random.uniform(KEY, (40,), minval=-np.radians(20), maxval=np.radians(20))
    assert angles.min() < -0.25 and angles.max() > 0.25
    for turned, picture, angle in zip(np.asarray(x), np.asarray(pictures), angles, strict=True):
        wanted = ndimage.rotate(
            picture, -np.degrees(angle), axes=(0, 1), reshape=False, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(turned[2:-2, 2:-2], wanted[2:-2, 2:-2], atol=1e-4)


def test_every_second_picture_is_flipped():
    x, _ = Flip()(KEY, PICTURES, TARGETS)
    same = np.asarray(x == PICTURES).all((1, 2, 3))
    mirrored = np.asarray(x == PICTURES[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all() and 0.4 < same.mean() < 0.6


DIGITS = image_classifier("digits", hidden_sizes=(8,), batch_size=16)


def test_the_loss_is_that_of_the_changed_minibatch():
    params = DIGITS.init(KEY, ())
    for n in range(3):
        key = jax.random.key(n)
        np.testing.assert_allclose(  # classes as rows of shares: the same loss
            DIGITS.batch_loss(params, *DIGITS.minibatch(key)), DIGITS.loss(params, (), key), 1e-6
        )
        task = Augmented(DIGITS, (LabelSmoothing(0.2), InputNoise(0.0)))
        x, y = DIGITS.minibatch(key)
        hidden = 1 / (1 + np.exp(-(np.asarray(x).reshape(16, -1) @ params["dense_0"]["kernel"])))
        z = np.asarray(hidden @ params["dense_1"]["kernel"], np.float64)
        logs = z - np.log(np.exp(z).sum(1, keepdims=True))
        wanted = -((0.8 * np.asarray(y) + 0.02) * logs).sum(1).mean()
        np.testing.assert_allclose(task.loss(params, (), key), wanted, rtol=1e-5)


def test_other_splits_are_not_changed():
    task = Augmented(DIGITS, (InputNoise(3.0), Mixup(1.0)))
    params = task.init(KEY, task.sample(KEY))
    assert task.loss(params, (), KEY, "valid") == DIGITS.loss(params, (), KEY, "valid")
    assert task.loss(params, (), KEY) != DIGITS.loss(params, (), KEY)
    chex.assert_trees_all_equal(
        task.evaluate(params, (), "test"), DIGITS.evaluate(params, (), "test")
    )


def test_they_compose_in_order_and_with_penalties():
    both = Augmented(Augmented(DIGITS, (Shift(1),)), (LabelSmoothing(0.1),))
    x, y = both.minibatch(KEY)
    assert y.max() < 1 and (x != DIGITS.minibatch(KEY)[0]).any()
    noise = (InputNoise(1.0),)
    nested = Augmented(WithPenalty(Augmented(DIGITS, noise)), noise)  # two draws, not one twice
    spread = (nested.minibatch(KEY)[0] - DIGITS.minibatch(KEY)[0]).std()
    np.testing.assert_allclose(spread, 2**0.5, rtol=0.1)
    params = both.init(KEY, ())
    squares = sum(float((w**2).sum()) for w in jax.tree.leaves(params) if w.ndim == 2)
    for task in (WithPenalty(both, l2=0.5), Augmented(WithPenalty(both, l2=0.5), ())):
        np.testing.assert_allclose(
            task.loss(params, (), KEY) - both.loss(params, (), KEY), 0.25 * squares, rtol=1e-4
        )


def test_regressions_are_mixed_and_made_noisy():
    x, y = RNG.normal(size=(50, 3)), RNG.normal(size=(50, 2))
    task = Regression.from_arrays({"train": (x, y)}, hidden_sizes=(), batch_size=5)
    mixed = Augmented(task, (Mixup(0.4),))
    inputs, targets = mixed.minibatch(KEY)
    params = task.init(KEY, ())
    wanted = (np.asarray(inputs) @ params["dense_0"]["kernel"] - np.asarray(targets)) ** 2
    np.testing.assert_allclose(mixed.loss(params, (), KEY), wanted.mean(), rtol=1e-5)
    assert not np.allclose(targets, task.minibatch(KEY)[1])
    with pytest.raises(ValueError, match="LabelSmoothing needs classes, but the task is a regr"):
        Augmented(task, (LabelSmoothing(),))
    with pytest.raises(ValueError, match=r"Shift needs pictures .* are \[5, 3\]"):
        Augmented(task, (Shift(),))


def test_integers_are_not_mixed():
    """An integer share would be zero or one, without a word."""
    task = _Counts()
    for transform in (Mixup(0.4), LabelSmoothing(0.1)):
        with pytest.raises(ValueError, match="mixes targets, but those of the task are int32: let"):
            Augmented(task, (transform,))
    assert Augmented(task, (InputNoise(0.1),)).minibatch(KEY)[1].dtype == jnp.int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Counts:
    """A regression task of the user's own, whose targets are integers."""

    num_classes = 3

    def sample(self, key):
        return ()

    def init(self, key, instance):
        return jnp.zeros(2)

    def minibatch(self, key, split="train"):
        return jax.random.normal(key, (4, 2)), jnp.arange(4)[:, None]

    def batch_loss(self, params, inputs, targets, key=None):
        return jnp.mean((inputs @ params - targets[:, 0]) ** 2)

    def loss(self, params, instance, key, split="train"):
        return self.batch_loss(params, *self.minibatch(key, split))

    def evaluate(self, params, instance, split):
        return {"loss": self.loss(params, instance, KEY, split)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelSmoothing(1.0), r"epsilon must be in \[0, 1\), got 1.0"),
        (lambda: Mixup(-1.0), r"alpha must be in \[0, inf\), got -1.0"),
        (lambda: Mixup(float("inf")), "alpha must be in"),
        (lambda: Cutout(-2), "size must be positive"),
        (lambda: Cutout(1.5), "size must be a positive integer"),
        (lambda: InputNoise(float("nan")), "std must be in"),
        (lambda: Shift(-1), "pixels must be positive"),
        (lambda: Rotation(90.0), r"degrees must be in \[0, 45\], got 90.0"),
        (lambda: Flip(1.5), r"probability must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_choices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tasks_without_minibatches_are_refused():
    with pytest.raises(
        TypeError, match="Quadratic has no minibatches that could be changed: give Augmented"
    ):
        Augmented(Quadratic(3), (Mixup(),))
    with pytest.raises(TypeError, match="WithPenalty has no minibatches"):
        Augmented(WithPenalty(Quadratic(3)), (Mixup(),))
    with pytest.raises(TypeError, match="a transform must be a function, got 'mixup'"):
        Augmented(DIGITS, ("mixup",))
