import math
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.networks import Perceptron
from learned_opt.tasks import Classifier, image_classifier

ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    # The tanh form, which is what JAX means by GELU unless told otherwise.
    "gelu": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


def _arrays(sizes=(("train", 9), ("valid", 4), ("test", 5)), seed=0, shape=(2, 3), num_classes=3):
    rng = np.random.default_rng(seed)
    return {
        split: (rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, num_classes, n))
        for split, n in sizes
    }


def _make(splits=None, **choices):
    choices = {"num_classes": 3, "batch_size": 4} | choices
    return Classifier.from_arrays(splits or _arrays(), **choices)


def _params(task, seed=0):
    """Parameters of the task's shapes, without the time that compiling `task.init` takes."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(task.init, jax.random.key(0), ())
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def _reference(params, images, labels, activation):
    """Cross-entropy of each example and accuracy, in float64 NumPy, from the equations."""
    h = images.reshape(len(images), -1) / 255
    for i in range(len(params)):
        layer = {k: np.asarray(v, np.float64) for k, v in params[f"dense_{i}"].items()}
        h = (ACTIVATIONS[activation](h) if i else h) @ layer["kernel"] + layer["bias"]
    log_softmax = h - np.log(np.exp(h).sum(axis=1, keepdims=True))
    return -log_softmax[np.arange(len(labels)), labels], (h.argmax(axis=1) == labels).mean()


@pytest.mark.parametrize(
    ("hidden_sizes", "activation"),
    [
        ((), "sigmoid"),
        ((5,), "sigmoid"),
        ((4, 2), "tanh"),
        ((3,), "gelu"),
        ((2, 3, 4), "relu"),
        ((3,), "elu"),
        ((3,), "silu"),
    ],
)
def test_loss_and_evaluation_are_those_of_the_equations(hidden_sizes, activation):
    splits = _arrays()
    task = _make(splits, hidden_sizes=hidden_sizes, activation=activation)
    key = jax.random.key(0)
    params = _params(task)
    widths = [6, *hidden_sizes, 3]
    assert [params[f"dense_{i}"]["kernel"].shape for i in range(len(params))] == list(
        zip(widths[:-1], widths[1:], strict=True)
    )

    rows = np.asarray(jax.random.randint(key, (4,), 0, 9))
    images, labels = splits["train"]
    losses, _ = _reference(params, images[rows], labels[rows], activation)
    loss = jax.jit(task.loss)(params, (), key)
    np.testing.assert_allclose(loss, losses.mean(), rtol=1e-4, atol=1e-5)

    for split, (images, labels) in splits.items():
        losses, accuracy = _reference(params, images, labels, activation)
        metrics = jax.jit(lambda task, p, s=split: task.evaluate(p, (), s))(task, params)
        np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)


@pytest.mark.parametrize("size", [999, 1000, 2001])
def test_evaluation_counts_every_example_once_whatever_the_chunks(size):
    splits = _arrays(sizes=(("train", 5), ("test", size)), shape=(2,))
    task = _make(splits, hidden_sizes=())
    params = _params(task)
    losses, accuracy = _reference(params, *splits["test"], "sigmoid")
    metrics = task.evaluate(params, (), "test")
    np.testing.assert_allclose(metrics["loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    num_images=st.integers(0, 4),
    num_labels=st.integers(0, 4),
    pixels=st.lists(st.integers(0, 2), max_size=2),
    image_dtype=st.sampled_from(["uint8", "int8", "int64", "bool", "float16", "float64", "O"]),
    label_dtype=st.sampled_from(["uint8", "int64", "float32", "bool"]),
    label=st.integers(0, 4),
    pixel=st.sampled_from([0, 1, math.nan, math.inf]),
)
def test_arrays_are_accepted_or_rejected_with_a_value_error(
    num_images, num_labels, pixels, image_dtype, label_dtype, label, pixel
):
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = np.full((num_images, *pixels), pixel).astype(image_dtype)
    labels = np.full(num_labels, label).astype(label_dtype)
    valid = (
        num_images == num_labels
        and num_images > 0
        and len(pixels) > 0
        and math.prod(pixels) > 0
        and image_dtype in ("uint8", "float16", "float64")
        and (image_dtype == "uint8" or math.isfinite(pixel))
        and label_dtype in ("uint8", "int64")
        and label < 3
    )
    if valid:
        task = _make({"train": (images, labels)}, batch_size=1)
        assert task.images["train"].shape == (num_images, *pixels)
        assert task.labels["train"].dtype == jnp.int32
    else:
        with pytest.raises(ValueError):
            _make({"train": (images, labels)}, batch_size=1)


def test_minibatches_are_drawn_uniformly_and_from_the_training_split_alone():
    # Softmax regression on one-hot images with zero weights: the gradient's rows count examples.
    train = (np.eye(10, dtype=np.float32), np.zeros(10, int))
    poison = (np.full((3, 10), 1e6, np.float32), np.ones(3, int))
    task = _make({"train": train, "valid": poison, "test": poison}, hidden_sizes=(), batch_size=10)
    params = jax.tree.map(jnp.zeros_like, _params(task))
    keys = jax.random.split(jax.random.key(1), 4000)
    grads = jax.jit(jax.vmap(lambda key: jax.grad(task.loss)(params, (), key)))(keys)
    counts = grads["dense_0"]["kernel"][:, :, 1] * 10 * 3  # softmax 1/3, mean over 10
    np.testing.assert_allclose(counts.sum(axis=1), 10, rtol=1e-5)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.08)  # 5 standard errors
    np.testing.assert_allclose(counts.var(axis=0), 0.9, rtol=0.2)  # binomial: with replacement


def test_starts_and_minibatches_are_those_of_earlier_versions():
    # Written from the definition: a key a layer by `fold_in`, one for its kernel, one for its bias.
    splits = _arrays(shape=(4, 4, 1))
    task, key = _make(splits, hidden_sizes=(5, 4), init_scale=0.1), jax.random.key(7)
    expected = {}
    for i, sizes in enumerate([(16, 5), (5, 4), (4, 3)]):
        kernel, bias = jax.random.split(jax.random.fold_in(key, i))
        expected[f"dense_{i}"] = {
            "kernel": 0.1 * jax.random.normal(kernel, sizes),
            "bias": 0.1 * jax.random.normal(bias, sizes[1:]),
        }
    params = task.init(key, ())
    chex.assert_trees_all_equal(params, expected)
    rows = jax.random.randint(key, (4,), 0, 9)
    x = jnp.asarray(splits["train"][0])[rows].reshape(4, 16).astype(jnp.float32) / 255
    for i in range(3):
        x = x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
        x = jax.nn.sigmoid(x) if i < 2 else x
    losses = optax.softmax_cross_entropy_with_integer_labels(x, splits["train"][1][rows])
    assert task.loss(params, (), key) == losses.mean()


class _Own(nnx.Module):
    def __init__(self, image_shape, num_classes, rngs):
        self.linear = nnx.Linear(math.prod(image_shape), num_classes, rngs=rngs)

    def __call__(self, x):
        return self.linear(x.reshape(len(x), -1))


def test_a_network_of_the_user_s_own():
    tasks = [_make(network=_Own) for _ in range(2)]
    assert jax.tree.structure(tasks[0]) == jax.tree.structure(tasks[1])  # compiled once
    params = tasks[0].init(jax.random.key(0), ())["linear"]
    assert params["kernel"].shape == (6, 3)
    perceptron = _make(hidden_sizes=())
    chex.assert_trees_all_close(
        tasks[0].evaluate({"linear": params}, (), "test"),
        perceptron.evaluate({"dense_0": params}, (), "test"),
        rtol=1e-6,
    )


def test_kernels_start_from_lecun_s_distribution_and_biases_from_zero():
    task = image_classifier("digits", hidden_sizes=(400,))
    params = task.init(jax.random.key(0), ())
    for layer, fan_in in (("dense_0", 64), ("dense_1", 400)):
        kernel = params[layer]["kernel"]
        np.testing.assert_allclose(kernel.std(), fan_in**-0.5, rtol=0.05)
        np.testing.assert_allclose(kernel.mean(), 0, atol=0.1 * fan_in**-0.5)
        assert not params[layer]["bias"].any()


def test_init_scale_is_the_standard_deviation_of_weights_and_biases():
    task = image_classifier("digits", hidden_sizes=(400,), init_scale=0.01)
    params = task.init(jax.random.key(0), ())
    for leaf in (*params["dense_0"].values(), params["dense_1"]["kernel"]):
        np.testing.assert_allclose(leaf.std(), 0.01, rtol=0.15)
        np.testing.assert_allclose(leaf.mean(), 0, atol=0.003)


def test_the_paper_s_network_has_15910_parameters():
    splits = _arrays(sizes=(("train", 4),), shape=(28, 28, 1), num_classes=10)
    params = _params(_make(splits, num_classes=10))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 15_910


def test_images_stay_uint8_on_the_device_and_floats_are_not_scaled():
    assert image_classifier("digits").images["train"].dtype == jnp.uint8
    splits = _arrays()
    floats = {s: (x.astype(np.float32) / 255, y) for s, (x, y) in splits.items()}
    params = _params(_make(splits))
    key = jax.random.key(1)
    np.testing.assert_allclose(
        _make(splits).loss(params, (), key), _make(floats).loss(params, (), key), rtol=1e-6
    )
    halves = _make(splits, max_pixel=510.0).evaluate(params, (), "test")
    twice = {s: (x / 2, y) for s, (x, y) in floats.items()}
    chex.assert_trees_all_close(halves, _make(twice).evaluate(params, (), "test"), rtol=1e-6)


def test_digits_pixels_reach_one():
    task = image_classifier("digits")
    assert task.max_pixel == 16 and task.images["train"].max() == 16


def test_batch_as_large_as_the_data_is_allowed():
    task = _make(batch_size=9)
    assert jnp.isfinite(task.loss(_params(task), (), jax.random.key(0)))


def test_a_split_that_was_not_given_is_refused():
    task = _make(_arrays(sizes=(("train", 9),)))
    with pytest.raises(ValueError, match="unknown split 'test'; known: train"):
        task.evaluate(_params(task), (), "test")
    with pytest.raises(ValueError, match="unknown split 'test'; known: train"):
        task.loss(_params(task), (), jax.random.key(0), "test")


def test_the_loss_of_a_split_is_drawn_from_it():
    splits = _arrays()
    task = _make(splits, batch_size=1)
    params = _params(task)
    losses, _ = _reference(params, *splits["valid"], "sigmoid")
    loss = jax.jit(lambda key: task.loss(params, (), key, "valid"))
    found = [loss(jax.random.key(seed)) for seed in range(20)]
    distance = np.abs(np.array(found)[:, None] - losses[None])
    assert distance.min(axis=1).max() < 1e-4
    assert len(set(distance.argmin(axis=1))) == 4


def _with_state(image_shape, num_classes, rngs):
    return nnx.BatchNorm(image_shape[-1], rngs=rngs)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"activation": "swish"}, "unknown activation 'swish'; known: sigmoid, tanh, relu, gelu"),
        ({"network": "vgg"}, "unknown network 'vgg'; known: mlp, .* or a function make"),
        (
            {"network": Perceptron(4, 3)},
            "unknown network Perceptron.*; known: mlp, .* or",
        ),
        (
            {"network": "small_cnn", "hidden_sizes": (3,), "init_scale": 0.1},
            "hidden_sizes, init_scale belong to network 'mlp', not to 'small_cnn'",
        ),
        ({"network": _with_state}, "state beside its parameters.* learned_opt.tasks.from_flax"),
        (
            {"network": lambda shape, num_classes, rngs: nnx.Linear(3, 5, rngs=rngs)},
            r"map inputs \[2, 2, 3\] to logits \[2, 3\], got \[2, 2, 5\]",
        ),
        ({"hidden_sizes": (20, 0)}, "hidden_sizes must be positive, got 0"),
        ({"hidden_sizes": (-1,)}, "hidden_sizes must be positive, got -1"),
        ({"hidden_sizes": (2.5,)}, "hidden_sizes must be a positive integer, got 2.5"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"batch_size": -3}, "batch_size must be positive, got -3"),
        ({"batch_size": 10}, "batch_size 10 is larger than the 9 training examples"),
        ({"num_classes": 0}, "num_classes must be positive, got 0"),
        ({"num_classes": 2}, "train: labels must be from 0 to 1, got 0 to 2"),
        ({"init_scale": -0.1}, "init_scale must be finite and not negative, got -0.1"),
        ({"init_scale": float("nan")}, "init_scale must be finite"),
        ({"max_pixel": 0}, "max_pixel must be finite and positive, got 0"),
    ],
)
def test_rejects_choices(choices, message):
    with pytest.raises(ValueError, match=message):
        _make(**choices)


def _nan(value):
    images = np.zeros((9, 2), np.float32)
    images[3, 1] = value
    return images


@pytest.mark.parametrize(
    ("split", "images", "labels", "message"),
    [
        ("train", _nan(np.nan), np.zeros(9, int), "train: images hold NaN or infinite values"),
        ("train", _nan(-np.inf), np.zeros(9, int), "train: images hold NaN or infinite values"),
        ("valid", _nan(np.nan), np.zeros(9, int), "valid: images hold NaN or infinite values"),
        ("train", np.zeros((0, 2)), np.zeros(0, int), r"must be .* not empty, got \(0, 2\)"),
        ("train", np.zeros((9, 0)), np.zeros(9, int), r"must be .* not empty, got \(9, 0\)"),
        ("train", np.zeros(9), np.zeros(9, int), r"images must be .* got \(9,\)"),
        ("train", np.zeros((9, 2)), np.zeros(8, int), r"got \(9, 2\) and \(8,\)"),
        ("train", np.zeros((9, 2)), np.zeros((9, 3), int), r"need labels \[n\]"),
        ("train", np.zeros((9, 2), np.int32), np.zeros(9, int), "floating point, got int32"),
        ("train", np.zeros((9, 2)), np.zeros(9), "labels must be integers, got float64"),
        ("train", np.zeros((9, 2)), np.full(9, -1), "labels must be from 0 to 2, got -1 to -1"),
        ("holdout", np.zeros((9, 2)), np.zeros(9, int), "unknown split 'holdout'"),
    ],
)
def test_rejects_arrays(split, images, labels, message):
    good = {"train": (np.zeros((9, 2)), np.zeros(9, int))}
    with pytest.raises(ValueError, match=message):
        _make(good | {split: (images, labels)})


def test_rejects_splits_that_do_not_fit_together():
    train = (np.zeros((9, 2)), np.zeros(9, int))
    for images in (np.zeros((9, 3)), np.zeros((9, 2), np.uint8)):
        with pytest.raises(ValueError, match="all splits must have one shape and one dtype"):
            _make({"train": train, "test": (images, np.zeros(9, int))})
    with pytest.raises(ValueError, match="must have an entry 'train'"):
        _make({"test": train})


def test_rejects_unknown_data_sets_before_anything_is_read():
    with pytest.raises(ValueError, match="unknown data set 'imagenet'; known: digits, mnist"):
        image_classifier("imagenet")
