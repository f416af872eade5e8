"""Small files of θ (NPZ): the few thousand numbers of a trained rule, which outlive any library."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_METADATA = "__metadata__"


def save_theta(
    path: str | os.PathLike, theta: Any, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes θ as an NPZ file without pickle, in one atomic step.

    Args:
      path: the file, which should end in `.npz`.
      theta: a nested dict of arrays; entry `theta['a']['b']` is stored under 'a/b'.
      metadata: anything that JSON can hold, stored in the same file; see `load_metadata`. JAX and
        NumPy arrays in it become numbers and lists. With an entry 'rule', as
        `{'name': 'lstm', 'preprocess': None}`, `learned_opt.load` can make the optimizer.

    Raises:
      ValueError: θ is not a nested dict, a name has a '/' in it, or an entry of the metadata is
        nothing that JSON can hold; the message names it.
    """
    path = Path(path)
    arrays = {name: np.asarray(leaf) for name, leaf in _flat(theta).items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"theta entry '{name}' has dtype {array.dtype}, which NPZ cannot hold")
    text = json.dumps(_plain(dict(metadata or {}), "metadata"))
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        header = {_METADATA: np.frombuffer(text.encode(), np.uint8)}
        np.savez(file, **header, **arrays)  # type: ignore[arg-type]
    temporary.replace(path)


def load_theta(path: str | os.PathLike, like: Any = None) -> Any:
    """Reads θ from an NPZ file.

    Args:
      path: a file written by `save_theta`.
      like: a θ of the rule that it is for, for example `jax.eval_shape(rule.init, key)`.

    Returns:
      A nested dict of arrays.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or its names, shapes or dtypes are not those of `like`; the
        message names the first entry that differs.
    """
    arrays = _read_npz(path)
    arrays.pop(_METADATA, None)
    if like is not None:
        expected = _flat(like)
        for name in sorted(expected.keys() | arrays.keys()):
            have, want = _described(name, arrays), _described(name, expected)
            if have != want:
                raise ValueError(
                    f"theta in {path} does not fit: first difference: it has {have}; "
                    f"expected {want}"
                )
    theta: dict = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = theta
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = jnp.asarray(array)
    return theta


def load_metadata(path: str | os.PathLike) -> dict:
    """Reads the metadata of a file written by `save_theta`."""
    return json.loads(_read_npz(path).get(_METADATA, np.frombuffer(b"{}", np.uint8)).tobytes())


def _read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    with Path(path).open("rb") as file:
        try:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError("it holds a single array")
            return dict(arrays.items())
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a readable NPZ file: {error}") from error


def _described(name: str, arrays: Mapping[str, Any]) -> str:
    if name not in arrays:
        return "nothing there"
    array = arrays[name]
    return f"{name}: {array.dtype}{list(array.shape)}"


def _flat(theta: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(theta, Mapping):
        if not prefix:
            raise ValueError(f"theta must be a nested dict of arrays, got {type(theta).__name__}")
        return {prefix: theta}
    flat: dict[str, Any] = {}
    for name, value in theta.items():
        if not isinstance(name, str) or "/" in name or not name:
            raise ValueError(f"names in theta must be strings without '/', got {name!r}")
        flat |= _flat(value, f"{prefix}/{name}" if prefix else name)
    return flat


def _plain(value: Any, where: str) -> Any:
    """A value as JSON can hold it: arrays become numbers and lists."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"names in {where} must be strings, got {name!r}")
        return {name: _plain(item, f"{where}[{name!r}]") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{n}]") for n, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        if jax.dtypes.issubdtype(value.dtype, np.bool_) or (
            jnp.isrealobj(value) and jax.dtypes.issubdtype(value.dtype, np.number)
        ):
            return np.asarray(value).tolist()
    raise ValueError(
        f"{where} is of type {type(value).__name__}, which the file cannot hold: give numbers, "
        "strings, None, arrays, or lists and dicts of them"
    )
