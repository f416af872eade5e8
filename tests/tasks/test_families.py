"""Families of small problems, against their networks written out and their draws counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.tasks import image_classifier, perceptron_family
from learned_opt.tasks.datasets import averaged_down, load_dataset

KEY = jax.random.key(0)
ACTIVATIONS = {
    0: lambda x: np.maximum(x, 0),
    1: np.tanh,
    2: lambda x: 1 / (1 + np.exp(-x)),
    3: lambda x: np.asarray(jax.nn.gelu(x)),
    4: lambda x: np.where(x > 0, x, np.expm1(x)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_losses_of_a_network_written_out(activation, layer_norm):
    task = perceptron_family(hidden_sizes=(6, 5), layer_norm=layer_norm)
    instance = task.sample(KEY) | {"activation": jnp.int32(activation)}
    params = task.init(jax.random.key(1), instance)
    found = task.evaluate(params, instance, "valid")["loss"]
    p = jax.tree.map(np.asarray, params)
    hidden, labels = np.asarray(task.inputs["valid"][0]), np.asarray(task.labels["valid"][0])
    for i in range(2):
        hidden = hidden @ p[f"dense_{i}"]["kernel"] + p[f"dense_{i}"]["bias"]
        if layer_norm:
            centred = hidden - hidden.mean(1, keepdims=True)
            hidden = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        hidden = ACTIVATIONS[activation](hidden)
    logits = hidden @ p["dense_2"]["kernel"] + p["dense_2"]["bias"]
    top = logits.max(1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    expected = np.mean(log_sum - logits[np.arange(len(labels)), labels])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_autoencoders_and_functions():
    task = perceptron_family(hidden_sizes=(6,), objective="inputs")
    instance = task.sample(KEY)
    params = jax.tree.map(jnp.zeros_like, task.init(KEY, instance))
    expected = np.mean(np.asarray(task.inputs["valid"][0]) ** 2)
    np.testing.assert_allclose(
        task.evaluate(params, instance, "valid")["loss"], expected, rtol=1e-5
    )
    task = perceptron_family(hidden_sizes=(6,), objective="function")
    losses = []
    for n in range(20):
        instance = task.sample(jax.random.key(n))
        params = jax.tree.map(jnp.zeros_like, task.init(KEY, instance))
        losses.append(float(task.evaluate(params, instance, "valid")["loss"]))
        assert not np.allclose(instance["train_inputs"], instance["valid_inputs"])
    assert 0.3 < np.mean(losses) < 3  # values of about 1


def test_training_sets_are_cut_and_minibatches_stay_inside():
    task = perceptron_family(hidden_sizes=(4,), batch_size=500)
    instance = task.sample(KEY) | {"size": jnp.int32(3)}
    params = task.init(KEY, instance)
    whole = float(task.evaluate(params, instance, "train")["loss"])
    first = {"train": task.inputs["train"][:, :3]}
    rows = np.asarray(task._examples(instance, "train", jax.random.key(5))[0])
    known = {tuple(row) for row in np.asarray(first["train"][0])}
    assert {tuple(row) for row in rows} == known
    drawn = float(task.loss(params, instance, jax.random.key(5)))
    assert abs(drawn - whole) < 0.5
    sizes = [int(task.sample(jax.random.key(n))["size"]) for n in range(40)]
    assert min(sizes) >= 512
    assert max(sizes) == task.inputs["train"].shape[1]
    assert 10 < len(set(sizes)) < 30


def test_activations_and_gains_differ_between_problems():
    task = perceptron_family(hidden_sizes=(4,))
    draws = [task.sample(jax.random.key(n)) for n in range(60)]
    assert len({int(draw["activation"]) for draw in draws}) == len(ACTIVATIONS)
    gains = np.array([float(draw["gain"]) for draw in draws])
    assert gains.min() >= 0.5
    assert gains.max() <= 2.0
    one = task.init(KEY, draws[0])["dense_0"]["kernel"] / draws[0]["gain"]
    two = task.init(KEY, draws[1])["dense_0"]["kernel"] / draws[1]["gain"]
    np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize("side", [3, 4, 8])
def test_images_are_averaged_down(side):
    data = load_dataset("digits")
    small = averaged_down(data, side).splits["valid"].images
    assert small.shape == (360, side, side, 1)
    image = data.splits["valid"].images[7, ..., 0] / 16
    pad = -8 % side
    image = np.pad(image, ((pad // 2, pad - pad // 2),) * 2)
    size = len(image) // side
    expected = [
        [image[i * size :, j * size :][:size, :size].mean() for j in range(side)]
        for i in range(side)
    ]
    np.testing.assert_allclose(small[7, ..., 0], expected, rtol=1e-5)


def test_a_classifier_takes_smaller_images():
    task = image_classifier("digits", network="tiny_cnn", side=4, batch_size=8)
    assert task.images["train"].shape[1:] == (4, 4, 1)
    params = task.init(KEY, ())
    assert np.isfinite(task.loss(params, (), KEY))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"objective": "pixels"}, "unknown objective 'pixels'"),
        ({"hidden_sizes": (0,)}, "hidden_sizes must be positive"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"batch_size": 2000}, "batch_size 2000 is larger than the 1077 training examples of a"),
        ({"sources": ()}, "at least one data set"),
        ({"sources": ("digit",)}, "unknown data set 'digit'"),
        ({"side": 9}, "side must be from 1 to 8"),
    ],
)
def test_bad_choices_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        perceptron_family(**choices)
