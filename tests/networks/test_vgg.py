"""The trunk of VGG-16 against NumPy, and what a damaged installation leads to."""

import jax
import numpy as np
import pytest

from learned_opt.networks import vgg


def layer(x, weights):
    """A 3×3 convolution that repeats the edge, with bias and ReLU, of one image, in float64."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, [(1, 1), (1, 1), (0, 0)], mode="edge"), (3, 3), axis=(0, 1)
    )
    kernel, bias = (np.asarray(weights[part], np.float64) for part in ("kernel", "bias"))
    return np.maximum(np.einsum("uvcij,ijco->uvo", windows, kernel) + bias, 0)


def pool(x):
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def seen_by_numpy(trunk, image):
    relu1_1 = layer(np.asarray(image, np.float64), trunk["conv1_1"])
    relu2_1 = layer(pool(layer(relu1_1, trunk["conv1_2"])), trunk["conv2_1"])
    return relu1_1, relu2_1, layer(pool(layer(relu2_1, trunk["conv2_2"])), trunk["conv3_1"])


def test_features_are_those_of_numpy():
    trunk = vgg.load_trunk()
    images = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    found = jax.jit(vgg.features)(trunk, images)
    expected = [seen_by_numpy(trunk, image) for image in images]
    for n, values in enumerate(found):
        wanted = np.stack([layers[n] for layers in expected])
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-4)


def test_the_trunk_is_whole():
    trunk = vgg.load_trunk()
    leaves = jax.tree.leaves(trunk)
    assert sum(leaf.size for leaf in leaves) == 555_328
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_a_missing_or_damaged_trunk_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="weights .*none.npz are missing: install the lib"):
        vgg.load_trunk(tmp_path / "none.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cut.npz cannot be read .*install the library again"):
        vgg.load_trunk(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", **{"conv1_1/kernel": np.zeros((3, 3, 1, 64))})
    with pytest.raises(ValueError, match=r"conv1_1/kernel must be \[3, 3, 3, 64\], got \[3, 3, 1"):
        vgg.load_trunk(tmp_path / "other.npz")
    np.savez(tmp_path / "empty.npz", x=np.zeros(1))
    with pytest.raises(ValueError, match="conv1_1/kernel must be .* got nothing"):
        vgg.load_trunk(tmp_path / "empty.npz")
