"""Work directories: one a run, with its exact config and the versions that made it."""

import fcntl
import importlib.metadata
import json
import math
import os
import platform
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

_PACKAGES = ("learned_opt", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_locks: dict[Path, int] = {}  # locks of this process, held for its life: file -> descriptor


def open_workdir(
    path: str | os.PathLike, config: ConfigDict, *, part: int = 0, parts: int = 1
) -> Path:
    """Makes a work directory, or goes on with the one of the same config.

    Writes `config.json` and `versions.json` there. The directory is this process's until it ends,
    however it ends: the lock on `.lock` is the kernel's. Processes that share a run share that
    lock, and each has one of its own, `.lock_PART_of_PARTS`.

    Args:
      path: the directory.
      config: the run's config. Its JSON form is what tells runs apart.
      part: of a run that several processes share, which one this is; each part is one process's.
      parts: how many processes share the run.

    Returns:
      The directory.

    Raises:
      BlockingIOError: another process works in it.
      PermissionError: it cannot be made or written to.
      NotADirectoryError: there is a file of that name.
      ValueError: it belongs to a run with another config; nothing in it is touched.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write_test_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except FileExistsError:
        raise NotADirectoryError(f"workdir {path} is a file, not a directory") from None
    except OSError as error:
        raise PermissionError(
            f"workdir {path} cannot be written to ({error.strerror}); choose another --workdir"
        ) from error
    if parts > 1:
        lock = _lock(path, f".lock_{part}_of_{parts}")
        _lock(path, ".lock", shared=True)
    else:
        lock = _lock(path, ".lock")
    wanted = json.loads(json.dumps(config.to_dict(), default=str))
    file = path / "config.json"
    if file.exists():
        try:
            present = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{file} is damaged; choose another --workdir") from None
        if present != wanted:
            raise ValueError(
                f"workdir {path} belongs to another config: {_difference(present, wanted)}; "
                "choose another --workdir, or give the same settings to go on with it"
            )
    else:
        write_json(file, wanted)
        write_json(path / "versions.json", versions())
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return path


def _lock(folder: Path, name: str, *, shared: bool = False) -> int:
    """Takes a lock; its file says who holds it, unless several may."""
    path = folder.resolve() / name
    if path in _locks:
        return _locks[path]
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 1000, 0).decode(errors="replace").strip()
        os.close(file)
        raise BlockingIOError(
            f"workdir {folder} is in use by {holder or 'another process'}; wait for it to end, or "
            "choose another --workdir"
        ) from None
    _locks[path] = file
    return file


def _difference(present: Mapping, wanted: Mapping, prefix: str = "") -> str:
    """Names the first field in which two configs differ."""
    for name in sorted(present.keys() | wanted.keys()):
        have, want = present.get(name, "nothing"), wanted.get(name, "nothing")
        if have != want:
            if isinstance(have, Mapping) and isinstance(want, Mapping):
                return _difference(have, want, f"{prefix}{name}.")
            return f"{prefix}{name} is {have!r} there and {want!r} here"
    return "no difference"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    found = {"python": sys.version.split()[0], "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_json(path: str | os.PathLike, content: Any, *, indent: int | None = 2) -> None:
    """Writes JSON in one atomic step."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")  # shards write it at once
    temporary.write_text(
        json.dumps(content, indent=indent, default=_plain) + "\n", encoding="utf-8"
    )
    temporary.replace(path)


def kept(path: str | os.PathLike, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; where there is none, `make()`, which is written there first."""
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make(), indent=None)
    return json.loads(path.read_text(encoding="utf-8"))


def rounded(content: Any, digits: int = 5) -> Any:
    """JSON with numbers of so many significant digits; what is not finite becomes None."""
    if isinstance(content, Mapping):
        return {str(key): rounded(value, digits) for key, value in content.items()}
    if hasattr(content, "tolist"):
        content = content.tolist()
    if isinstance(content, list | tuple):
        return [rounded(value, digits) for value in content]
    if isinstance(content, float):
        return float(f"{content:.{digits}g}") if math.isfinite(content) else None
    return content


def _plain(value: Any) -> Any:
    """Arrays and their scalars as lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
