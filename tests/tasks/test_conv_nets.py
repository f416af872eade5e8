"""Conv nets: sizes of the published networks, arithmetic in NumPy, meta-training, and bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.meta_training import TruncatedBPTT
from learned_opt.tasks import Classifier, image_classifier
from learned_opt.update_rules import lstm


def splits(shape=(8, 8, 3), **counts):
    rng = np.random.default_rng(0)
    counts = counts or {"train": 12, "valid": 5}
    return {
        split: (rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n))
        for split, n in counts.items()
    }


def conv_net(splits, network="small_cnn", **settings):
    return Classifier.from_arrays(splits, num_classes=10, network=network, **settings)


def num_parameters(network, shape):
    task = conv_net(splits(shape), network=network, batch_size=2)
    params = jax.eval_shape(lambda key: task.init(key, ()), jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        ("small_cnn", (28, 28, 1), 16 * 9 + 16 + 32 * 16 * 9 + 32 + 7 * 7 * 32 * 10 + 10),
        # Springenberg et al. give about 1.4 M; the sum over their table's layers:
        (
            "all_cnn_c",
            (32, 32, 3),
            sum(
                size * size * num_in * num_out + num_out
                for num_in, num_out, size in [
                    (3, 96, 3), (96, 96, 3), (96, 96, 3), (96, 192, 3), (192, 192, 3),
                    (192, 192, 3), (192, 192, 3), (192, 192, 1), (192, 10, 1),
                ]
            ),
        ),
        # Andrychowicz et al.: 16 channels, 32 units; norms (scale and bias) in place of biases.
        (
            "paper_cnn",
            (32, 32, 3),
            25 * 16 * (3 + 16 + 16) + 3 * 2 * 16 + 4 * 4 * 16 * 32 + 2 * 32 + 32 * 10 + 10,
        ),
        # He et al. give .27 M, without projections; two of them add 16·32 + 32·64 and norms.
        ("resnet_20", (32, 32, 3), 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
    ],
)  # fmt: skip
def test_the_published_sizes(network, shape, expected):
    assert num_parameters(network, shape) == expected


def correlate(image, kernel, stride):
    """SAME convolution by its definition."""
    height, width, _ = image.shape
    size = kernel.shape[0]
    out = [-(-height // stride), -(-width // stride)]
    pad = [max((n - 1) * stride + size - m, 0) for n, m in zip(out, (height, width), strict=True)]
    padded = np.pad(image, [(p // 2, p - p // 2) for p in pad] + [(0, 0)])
    return np.array(
        [
            [
                np.einsum("abc,abcd->d", padded[i : i + size, j : j + size], kernel)
                for j in range(0, out[1] * stride, stride)
            ]
            for i in range(0, out[0] * stride, stride)
        ]
    )


def test_the_small_network_in_numpy():
    data = splits((7, 6, 2), train=3)
    task = conv_net(data, batch_size=1)
    params = task.init(jax.random.key(1), ())
    p = jax.tree.map(np.asarray, params)
    losses, hits = [], []
    for image, label in zip(*data["train"], strict=True):
        x = image / 255.0
        for layer in ("conv_0", "conv_1"):
            x = np.maximum(correlate(x, p[layer]["kernel"], 2) + p[layer]["bias"], 0)
        z = x.reshape(-1) @ p["output"]["kernel"] + p["output"]["bias"]
        losses.append(np.log(np.exp(z - z.max()).sum()) + z.max() - z[label])
        hits.append(z.argmax() == label)
    found = task.evaluate(params, (), "train")
    np.testing.assert_allclose(found["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], np.mean(hits))
    # A minibatch of one is one of the three.
    assert np.isclose(task.loss(params, (), jax.random.key(0)), losses, rtol=1e-5).any()


def test_the_paper_network_in_numpy():
    data = splits((8, 16, 3), train=5)
    task = conv_net(data, "narrow_paper_cnn", batch_size=5)
    params = task.init(jax.random.key(1), ())
    keys = iter(jax.random.split(jax.random.key(2), 99))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params)
    p = jax.tree.map(np.asarray, params)

    def norm(x, name):
        axes = tuple(range(x.ndim - 1))
        x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
        return np.maximum(x * name["scale"] + name["bias"], 0)

    images, labels = data["train"]
    x = images / 255.0
    for n in range(3):
        x = np.array([correlate(image, p["convs"][f"conv_{n}"]["kernel"], 1) for image in x])
        x = norm(x, p["norms"][f"norm_{n}"])
        height, width = x.shape[1] // 2, x.shape[2] // 2
        x = np.array(
            [
                [x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(1, 2)) for j in range(width)]
                for i in range(height)
            ]
        ).transpose(2, 0, 1, 3)
    x = norm(x.reshape(5, -1) @ p["hidden"]["kernel"], p["hidden_norm"])
    z = x @ p["output"]["kernel"] + p["output"]["bias"]
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(5), labels]
    found = jax.jit(lambda task, params: task.evaluate(params, (), "train"))(task, params)
    np.testing.assert_allclose(found["loss"], losses.mean(), rtol=1e-4)


def test_the_gradient_of_pooling_is_that_of_a_window():
    from learned_opt.networks.images import max_pool

    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))  # the odd row is dropped
    weights = jax.random.normal(jax.random.key(1), (2, 2, 3, 3))

    def window(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    (found, grad), (expected, wanted) = (
        jax.value_and_grad(lambda x, pool=pool: jnp.vdot(pool(x), weights))(x)
        for pool in (max_pool, window)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, wanted, rtol=1e-6)


def test_batch_norm_by_the_batch_at_hand():
    from learned_opt.networks.images import BatchNorm

    x = np.random.default_rng(0).normal(3.0, 2.0, (5, 4, 4, 2))
    found = BatchNorm(2)(jnp.asarray(x))
    flat = x.reshape(-1, 2)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_evaluation_normalizes_by_a_thousand_examples_and_those_that_are_left():
    data = splits((4, 4, 1), train=2050)
    task = conv_net(data, "resnet_20", batch_size=1)
    params = task.init(jax.random.key(1), ())
    apply = jax.jit(lambda params, x: task.network.apply(params, x))
    images, labels = data["train"]
    parts = np.split(images.astype(np.float32) / 255, [1000, 2000])
    z = np.concatenate([apply(params, part) for part in parts]).astype(np.float64)
    losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]
    found = jax.jit(lambda task, params: task.evaluate(params, (), "train"))(task, params)
    np.testing.assert_allclose(found["loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], (z.argmax(axis=1) == labels).mean(), rtol=1e-3)


def test_a_conv_net_is_meta_trained():
    rule = lstm((4,))
    task = conv_net(splits((6, 6, 1), train=12), batch_size=4)
    settings = dict(num_tasks=2, unroll_length=2, horizon=4)
    theta, key = rule.init(jax.random.key(0)), jax.random.key(1)
    estimates = []
    for mapping in ("map", "vmap"):
        estimator = TruncatedBPTT(task=task, rule=rule, mapping=mapping, **settings)
        state = estimator.init(key, theta)
        estimate = jax.jit(lambda e, *args: e.estimate(*args)[0])
        estimates.append(estimate(estimator, key, theta, state))
    chex.assert_trees_all_close(*estimates, rtol=1e-3, atol=1e-5)
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(estimates[0])) > 1e-3


@pytest.mark.parametrize("network", ["all_cnn_c", "resnet_20"])
def test_a_step_of_the_large_networks_lowers_the_loss(network):
    data = splits((8, 8, 3), train=4)
    task = conv_net(data, network=network, batch_size=4)
    params = task.init(jax.random.key(0), ())

    @jax.jit
    def step(task, params, key):
        loss, grads = jax.value_and_grad(task.loss)(params, (), key)
        rate = 0.01 * loss / sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

    key = jax.random.key(1)
    params, before = step(task, params, key)
    _, after = step(task, params, key)
    assert after < before


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unknown network 'vgg'; known: mlp, small_cnn"):
        image_classifier(network="vgg")
    with pytest.raises(ValueError, match="batch_size 13 is larger than the 12"):
        conv_net(splits(), batch_size=13)
    with pytest.raises(ValueError, match=r"images for 'small_cnn' must be \[n, height, width"):
        conv_net(splits((8, 8)), batch_size=1)
    with pytest.raises(ValueError, match="images need 8×8 pixels at least, got 7×9"):
        conv_net(splits((7, 9, 3)), "paper_cnn", batch_size=1)
    with pytest.raises(ValueError, match="unknown split 'test'"):
        task = conv_net(splits(), batch_size=1)
        task.evaluate(task.init(jax.random.key(0), ()), (), "test")
