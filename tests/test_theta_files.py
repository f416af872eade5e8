"""Files of θ: what is written comes back, and what cannot be written or read is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.theta_files import load_metadata, load_theta, save_theta

THETA = {"cells": {"layer_0": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}, "b": 1.5}


def test_theta_round_trip(tmp_path):
    path = tmp_path / "theta.npz"
    save_theta(path, THETA, {"name": "x", "runs": [1, 2]})
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == ["__metadata__", "b", "cells/layer_0/kernel"]
    theta = load_theta(path, like=jax.tree.map(np.asarray, THETA))
    assert jax.tree.structure(theta) == jax.tree.structure(THETA)
    np.testing.assert_array_equal(theta["cells"]["layer_0"]["kernel"], np.arange(6).reshape(2, 3))
    assert load_metadata(path) == {"name": "x", "runs": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["theta.npz"]


@pytest.mark.parametrize(
    "like, message",
    [
        ({"b": np.float64(0)}, r"has cells/layer_0/kernel: .*; expected nothing there"),
        ({**THETA, "c": np.zeros(3)}, r"it has nothing there; expected c: float64\[3\]"),
        (
            {"cells": {"layer_0": {"kernel": np.zeros((2, 4), np.float32)}}, "b": np.float64(0)},
            r"has cells/layer_0/kernel: float32\[2, 3\]; expected .*float32\[2, 4\]",
        ),
    ],
)
def test_theta_of_another_rule(tmp_path, like, message):
    save_theta(tmp_path / "theta.npz", THETA)
    like = jax.tree.map(np.asarray, like)
    with pytest.raises(ValueError, match=message):
        load_theta(tmp_path / "theta.npz", like=like)


def test_theta_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "theta.npz"
    with pytest.raises(FileNotFoundError):
        load_theta(path)
    save_theta(path, THETA)
    good = path.read_bytes()
    for cut in (0, 10, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(ValueError, match="theta.npz is not a readable NPZ file"):
            load_theta(path)
    flipped = bytearray(good)
    flipped[good.index(b"\x00\x00\x80\x3f")] ^= 1  # a one, in the kernel
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="not a readable NPZ file"):
        load_theta(path)
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not a readable NPZ file"):
        load_theta(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match="single array"):
        load_theta(path)


@pytest.mark.parametrize("theta", [[1.0], {"a/b": np.ones(1)}, {1: np.ones(1)}, {"a": "text"}])
def test_theta_that_cannot_be_saved(tmp_path, theta):
    with pytest.raises(ValueError, match="theta"):
        save_theta(tmp_path / "theta.npz", theta)
    assert list(tmp_path.iterdir()) == []


def test_arrays_in_metadata_become_numbers_and_lists(tmp_path):
    path = tmp_path / "theta.npz"
    metadata = {
        "score": jnp.float32(0.25),
        "seeds": np.arange(2),
        "nested": {"bf16": jnp.bfloat16(1.5), "flags": (np.bool_(True), jnp.zeros((1, 1)))},
        "numpy": np.float64(2.5),
        "plain": [1, None, "x", True],
    }
    save_theta(path, THETA, metadata)
    assert load_metadata(path) == {
        "score": 0.25,
        "seeds": [0, 1],
        "nested": {"bf16": 1.5, "flags": [True, [[0.0]]]},
        "numpy": 2.5,
        "plain": [1, None, "x", True],
    }


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"a": [1, {"b": {1, 2}}]}, r"metadata\['a'\]\[1\]\['b'\] is of type set"),
        ({"key": np.complex64(1j)}, r"metadata\['key'\] is of type complex64"),
        ({"a": {1: 2}}, r"names in metadata\['a'\] must be strings, got 1"),
    ],
)
def test_metadata_that_cannot_be_saved(tmp_path, metadata, message):
    with pytest.raises(ValueError, match=message):
        save_theta(tmp_path / "theta.npz", THETA, metadata)
    assert list(tmp_path.iterdir()) == []
