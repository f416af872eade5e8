"""What a config names but does not hold: the user's own code, and files.

Both are looked up next to the config file first, then in the current folder; files then in the
clone, modules then wherever Python finds them.
"""

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # the clone
_config_folders: list[Path] = []


def expand(path: str | os.PathLike) -> Path:
    """A path, with `~` as the user's home.

    Raises:
      ValueError: this user has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: this user has no home folder; write the path in full") from None


def look_next_to(config_file: str | os.PathLike) -> None:
    """Looks names up next to this config file from now on."""
    _config_folders[:] = [expand(config_file).resolve().parent]


def find(kind: str, name: Any, known: Mapping[str, Any]) -> Any:
    """Finds what a config means by the name of a task, a rule or an estimator.

    Args:
      kind: what it is to be, for error messages.
      name: a name in `known`, or 'module:attribute' for the user's own.
      known: the names that need no module.

    Returns:
      The value in `known`, or the attribute of the module.

    Raises:
      ValueError: an unknown name, no such module or attribute, or an error inside of the module.
    """
    if isinstance(name, str) and ":" in name:
        return _attribute(kind, name)
    if name not in known:
        raise ValueError(
            f"unknown {kind} {name!r}; known: {', '.join(known)}, or 'module:attribute' of your own"
        )
    return known[name]


def find_file(name: str | os.PathLike) -> Path:
    """Finds a file or folder: next to the config file, in the current folder, or in the clone.

    Raises:
      FileNotFoundError: it is in none of them.
    """
    path = expand(name)
    folders = [*_config_folders, Path.cwd(), ROOT]
    for folder in folders:
        if (folder / path).exists():
            return folder / path
    where = "" if path.is_absolute() else f" in any of {', '.join(map(str, folders))}"
    raise FileNotFoundError(f"there is no {name}{where}")


def run_theirs(kind: str, name: str, call: Callable[[], Any]) -> Any:
    """Runs the user's code, whose errors become one sentence that names the line.

    Raises:
      ValueError: it raised any error.
    """
    try:
        return call()
    except Exception as error:
        message = error.msg if isinstance(error, SyntaxError) else error
        raise ValueError(
            f"{kind} {name!r}: {type(error).__name__}{_place(error)}: {message}"
        ) from error


def _place(error: Exception) -> str:
    """Where in the user's code it was raised, no matter how deep in packages that code called."""
    if isinstance(error, SyntaxError):
        return f" in {error.filename}, line {error.lineno}"
    packages = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*packages, "<", __file__)):
            return f" in {frame.filename}, line {frame.lineno}"
    return ""


def _attribute(kind: str, name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    folders = [str(folder) for folder in (*_config_folders, Path.cwd())]
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]

    def load():
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and f"{module_name}.".startswith(f"{error.name}."):
                return None
            raise

    module = run_theirs(kind, name, load) if module_name and attribute else None
    if module is None:
        raise ValueError(
            f"{kind} {name!r}: there is no module {module_name!r} in {', '.join(folders)}, nor "
            "among the installed ones; write 'module:attribute'"
        )
    if attribute not in vars(module):
        where = module.__file__ or module_name
        own = [n for n, x in vars(module).items() if getattr(x, "__module__", "") == module_name]
        raise ValueError(f"{kind} {name!r}: {where} has no {attribute!r}; it has {', '.join(own)}")
    return vars(module)[attribute]
