"""Checkpoints of a whole training state (Orbax).

A `Checkpointer` survives a kill at any moment: a checkpoint is written under a temporary name and
appears by one rename, complete and with the SHA-256 of every file in it.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

_NAME = "step_{:08d}"
_MANIFEST = "manifest.json"
_TREE = "tree"
_PARTIAL = ".partial"


class CorruptCheckpointError(Exception):
    """A checkpoint's files are not the ones that were written."""


class Checkpointer:
    """Saves PyTrees of arrays, keeps the last few, and restores the last one that is intact.

    One checkpoint is the folder `step_00000100`: the arrays as Orbax wrote them, and a manifest
    with the path, shape and dtype of every leaf and the SHA-256 of every file. Arrays of any dtype,
    typed keys (`jax.random.key`), empty arrays and arrays sharded over devices or processes come
    back bit for bit. With several processes every method is called by all of them, on a directory
    that all of them see.

    Attributes:
      directory: where the checkpoints are.
      keep: how many are kept.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
        """Makes the directory if it is not there.

        Args:
          directory: a local folder for these checkpoints alone.
          keep: the number of checkpoints kept; two, so that one is left if the last is damaged.

        Raises:
          ValueError: `keep` is below one.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory).absolute()
        self.keep = keep
        self._damaged: set[Path] = set()
        self.directory.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, tree: Any) -> None:
        """Writes a checkpoint and then removes older ones.

        Args:
          step: its number, at least 0; a checkpoint of the same number is replaced.
          tree: a PyTree whose leaves are JAX or NumPy arrays or Python numbers.

        Raises:
          OSError: it could not be written, for example because the disk is full; those that were
            there before are intact.
        """
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        final = self.directory / _NAME.format(step)
        try:
            self._save(step, tree, final)
        except Exception as error:  # Orbax passes on errors of many kinds
            reason = " ".join(str(error).split())[:200]
            raise OSError(
                f"checkpoint {final} could not be written ({reason}); the ones before it are intact"
            ) from error

    def _save(self, step: int, tree: Any, final: Path) -> None:
        partial = final.with_name(final.name + _PARTIAL)
        first_process = jax.process_index() == 0
        if first_process:
            for leftover in self.directory.glob(f"step_*{_PARTIAL}"):
                shutil.rmtree(leftover)
            partial.mkdir()
        _sync(f"start {final}")
        leaves = _leaves(tree)
        _write_arrays(partial / _TREE, [data for _, data in leaves])
        if first_process:
            _write_manifest(partial, step, [description for description, _ in leaves])
            if final.exists():
                replaced = final.with_name(f"{final.name}.replaced{_PARTIAL}")
                final.rename(replaced)
                shutil.rmtree(replaced)
            partial.rename(final)
            self._damaged.discard(final)
            self._remove_old(final)
        _sync(f"end {final}")

    def restore_latest(self, template: Any) -> tuple[int, Any] | None:
        """Restores the last intact checkpoint; each damaged one is named in a warning and skipped.

        Args:
          template: a PyTree of the structure, shapes and dtypes that were saved, for example the
            freshly initialized state. Leaves are arrays or `jax.ShapeDtypeStruct`; what comes back
            is placed on the devices that the template's leaves are on.

        Returns:
          The step and the tree, or None where there is no intact checkpoint.

        Raises:
          ValueError: the checkpoint is of another tree; the message names the first difference.
        """
        step = self._last_intact_step() if jax.process_index() == 0 else -1
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        if step < 0:
            return None
        folder = self.directory / _NAME.format(step)
        manifest = _read_manifest(folder)
        expected = [description for description, _ in _leaves(template, data=False)]
        _check_same_leaves(manifest["leaves"], expected, f"checkpoint {folder}")
        return step, _read_arrays(folder / _TREE, manifest["leaves"], template)

    def _last_intact_step(self) -> int:
        for leftover in sorted(self.directory.glob(f"step_*{_PARTIAL}")):
            logging.warning("checkpoint %s was never finished; skipped", leftover)
        for folder in self._folders():
            try:
                _verify(folder)
            except (CorruptCheckpointError, OSError) as error:
                logging.warning("checkpoint %s is damaged and skipped: %s", folder, error)
                self._damaged.add(folder)
            else:
                return _step(folder)
        return -1

    def _folders(self) -> list[Path]:
        """All finished checkpoints, the last one first."""
        folders = (p for p in self.directory.iterdir() if re.fullmatch(r"step_\d{8,}", p.name))
        return sorted(folders, key=_step, reverse=True)

    def _remove_old(self, newest: Path) -> None:
        intact = [p for p in self._folders() if p not in self._damaged and p != newest]
        for folder in [*intact[self.keep - 1 :], *self._damaged]:
            # Renamed first: a kill during the removal leaves no half-removed checkpoint.
            doomed = folder.with_name(folder.name + _PARTIAL)
            folder.rename(doomed)
            shutil.rmtree(doomed)
        self._damaged.clear()


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _sync(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(tree: Any, data: bool = True) -> list[tuple[dict, Any]]:
    """Describes every leaf and, where `data` is asked for, its numbers in a form Orbax can write.

    That is a NumPy array, or a `jax.Array` if it lives on several processes.
    """
    result = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not hasattr(leaf, "dtype"):
            leaf = np.asarray(leaf)
        description = {
            "path": jax.tree_util.keystr(path),
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
        }
        array = leaf
        if _is_key(leaf) and isinstance(leaf, jax.Array):
            description["key_impl"] = str(jax.random.key_impl(leaf))
            array = jax.random.key_data(leaf)
        if data and getattr(array, "is_fully_addressable", True):
            array = np.asarray(array)
        result.append((description, array if data else None))
    return result


def _write_arrays(folder: Path, arrays: list) -> None:
    from orbax.checkpoint import v1 as ocp

    # Orbax writes neither empty arrays nor empty trees. A flat dict needs nothing of the tree.
    tree = {f"{n:05d}": array for n, array in enumerate(arrays) if array.size}
    if tree:
        with _context():
            ocp.save(folder, tree)


def _read_arrays(folder: Path, descriptions: list[dict], template: Any) -> Any:
    from orbax.checkpoint import v1 as ocp

    like, treedef = jax.tree.flatten(template)
    abstract = {}
    for n, (leaf, description) in enumerate(zip(like, descriptions, strict=True)):
        if 0 not in description["shape"]:
            abstract[f"{n:05d}"] = _abstract(leaf)
    arrays = {}
    if abstract:
        with _context():
            arrays = ocp.load(folder, abstract)
    leaves = []
    for n, (leaf, description) in enumerate(zip(like, descriptions, strict=True)):
        array = arrays.get(f"{n:05d}")
        leaves.append(leaf if array is None else _place(array, leaf, description))
    return jax.tree.unflatten(treedef, leaves)


def _context() -> Any:
    """Orbax settings: uncompressed, which is several times quicker for states of some 50 MB."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


def _abstract(leaf: Any) -> Any:
    """What Orbax should load a leaf as: a NumPy array, or a `jax.Array` over several processes."""
    if getattr(leaf, "is_fully_addressable", True):
        data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        data = data if hasattr(data, "dtype") else np.asarray(data)
        return np.broadcast_to(np.zeros((), data.dtype), data.shape)
    data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=data.sharding)


def _place(array: Any, like: Any, description: dict) -> Any:
    """Turns what Orbax loaded into what the template has."""
    if "key_impl" in description:
        array = jax.random.wrap_key_data(array, impl=description["key_impl"])
    if isinstance(like, np.ndarray | np.generic):
        return array
    if not hasattr(like, "dtype"):
        return type(like)(array.item())
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array
    committed = not isinstance(like, jax.Array) or like.committed
    if like.sharding is None or not committed:
        return jnp.asarray(array)
    return jax.device_put(array, like.sharding)


def _check_same_leaves(saved: list[dict], expected: list[dict], source: str) -> None:
    def show(leaf: dict | None) -> str:
        if leaf is None:
            return "nothing there"
        return f"{leaf['path'] or 'the tree'}: {leaf['dtype']}{leaf['shape']}"

    for have, want in itertools.zip_longest(saved, expected):
        if have is None or want is None or show(have) != show(want):
            raise ValueError(
                f"{source} does not fit: first difference: it has {show(have)}; "
                f"expected {show(want)}"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


def _seal(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_manifest(folder: Path, step: int, descriptions: list[dict]) -> None:
    digests = {name: _digest(path) for name, path in _files(folder).items()}
    content = {"step": step, "leaves": descriptions, "files": digests}
    text = json.dumps({"sha256": _seal(content), "content": content}, indent=1)
    (folder / _MANIFEST).write_text(text, encoding="utf-8")


def _read_manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        content, seal = manifest["content"], manifest["sha256"]
    except FileNotFoundError:
        raise CorruptCheckpointError(f"{_MANIFEST} is missing") from None
    except (ValueError, KeyError, TypeError):
        raise CorruptCheckpointError(f"{_MANIFEST} is not readable") from None
    if _seal(content) != seal or content["step"] != _step(folder):
        raise CorruptCheckpointError(f"{_MANIFEST} was changed")
    return content


def _verify(folder: Path) -> None:
    """Raises `CorruptCheckpointError` if a file is missing, added or changed."""
    expected = _read_manifest(folder)["files"]
    present = _files(folder)
    present.pop(_MANIFEST)
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            raise CorruptCheckpointError(f"{name} is missing")
        if name not in expected:
            raise CorruptCheckpointError(f"{name} does not belong to it")
        if _digest(present[name]) != expected[name]:
            raise CorruptCheckpointError(f"{name} was changed or cut short")
