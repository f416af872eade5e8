"""Pictures of any file as square RGB arrays; paintings and photographs that need no download."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from learned_opt.tasks.checks import positive
from learned_opt.tasks.datasets import SPLITS, check_split

PHOTOGRAPHS = ("china", "flower")  # come with scikit-learn
_PAINTINGS = Path(__file__).parent / "paintings"  # its README names painters and sources
PAINTINGS = ("church_at_auvers", "starry_night", "scream", "minotaur")
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class _Picture(NamedTuple):
    pixels: np.ndarray  # uint8 [size, size, 3]
    notes: tuple[str, ...]  # what was done to it that its owner may not expect


def check_size(size: int) -> int:
    """Returns a height and width that two poolings divide, or raises a `ValueError`."""
    size = positive("size", size)
    if size % 4:
        near = sorted({max(4, size // 4 * 4), size // 4 * 4 + 4})
        raise ValueError(
            f"size must be a multiple of 4, for two poolings of 2 × 2, got {size}: take "
            f"{' or '.join(map(str, near))}"
        )
    return size


def read_picture(path: str | os.PathLike[str], size: int) -> np.ndarray:
    """Reads a picture: its middle square, reduced or enlarged with a Lanczos filter.

    Warns in one sentence where a picture is grey (all three channels are then alike), has an alpha
    channel (it is laid on white) or is smaller than asked (it is enlarged).

    Args:
      path: a file of any format that Pillow reads, with 8 bits a channel.
      size: pixels of a side.

    Returns:
      uint8 RGB `[size, size, 3]`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is no picture, or one with more than 8 bits a channel.
    """
    picture = _read(Path(path), size)
    for note in picture.notes:
        warnings.warn(f"{path} {note}", stacklevel=2)
    return picture.pixels


def read_folder(folder: str | os.PathLike[str], size: int) -> np.ndarray:
    """Reads all pictures that lie in a folder, in the order of their names; see `read_picture`.

    Warns once for all pictures that are grey, and so on.

    Returns:
      uint8 RGB `[n, size, size, 3]`.

    Raises:
      FileNotFoundError: there is no such folder, or no picture in it.
      ValueError: a file has the ending of a picture and is none.
    """
    pictures = {file: _read(file, size) for file in _files(Path(folder))}
    for note in dict.fromkeys(note for p in pictures.values() for note in p.notes):
        names = [file.name for file, picture in pictures.items() if note in picture.notes]
        others = f" and {len(names) - 1} more in {folder}" if len(names) > 1 else f" in {folder}"
        warnings.warn(f"{names[0]}{others}: {note}", stacklevel=2)
    return np.stack([picture.pixels for picture in pictures.values()])


def contents(folder: str | os.PathLike[str] | None, size: int, split: str = "train") -> np.ndarray:
    """The content pictures of a split.

    Args:
      folder: it has folders 'train', 'valid' and 'test' with pictures, or pictures itself, which
        then belong to every split, as do the two photographs that None stands for: nothing is held
        out then.
      size: pixels of a side.
      split: 'train', 'valid' or 'test'.

    Returns:
      uint8 RGB `[n, size, size, 3]`.

    Raises:
      FileNotFoundError: no such folder, or no pictures in it.
      ValueError: an unknown split, or a file that is no picture.
    """
    check_split(split)
    if folder is None:
        return np.stack([photograph(name, size) for name in PHOTOGRAPHS])
    folder = Path(folder)
    if any((folder / name).is_dir() for name in SPLITS):
        folder = folder / split
    return read_folder(folder, size)


def styles(
    names: str | Sequence[str] | None, folder: str | os.PathLike[str] | None, size: int
) -> np.ndarray:
    """Style pictures.

    Args:
      names: one or several: paths of pictures, or names (without an ending) of pictures in the
        folder. None takes all of the folder, or the first painting where there is no folder.
      folder: None has the paintings that come with the library, see `PAINTINGS`.
      size: pixels of a side.

    Returns:
      uint8 RGB `[n, size, size, 3]`.

    Raises:
      FileNotFoundError: no such folder, or no pictures in it.
      ValueError: an unknown name, no name at all, or a file that is no picture.
    """
    if names is None and folder is not None:
        return read_folder(folder, size)
    names = PAINTINGS[0] if names is None else names
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names:
        raise ValueError("name at least one style picture")
    place = _PAINTINGS if folder is None else Path(folder)
    return np.stack([_style(name, place, size) for name in names])


def _style(name: str, folder: Path, size: int) -> np.ndarray:
    files = _files(folder)
    found = [file for file in files if file.stem == name]
    if found:
        return read_picture(found[0], size)
    if Path(name).suffix or Path(name).name != name:
        return read_picture(name, size)
    known = ", ".join(file.stem for file in files)
    raise ValueError(f"unknown style {name!r}; known: {known}, or the path of a picture")


def _files(folder: Path) -> list[Path]:
    """The pictures that lie in a folder, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _ENDINGS and p.is_file())
    if not files:
        raise FileNotFoundError(
            f"the folder {folder} holds no pictures: none of its files ends in "
            f"{', '.join(_ENDINGS)}"
        )
    return files


def photograph(name: str, size: int) -> np.ndarray:
    """One of scikit-learn's two photographs, 'china' or 'flower': uint8 RGB `[size, size, 3]`.

    Raises:
      ValueError: an unknown name.
    """
    if name not in PHOTOGRAPHS:
        raise ValueError(f"unknown photograph {name!r}; known: {', '.join(PHOTOGRAPHS)}")
    from PIL import Image
    from sklearn.datasets import load_sample_image

    return _fitted(Image.fromarray(load_sample_image(f"{name}.jpg")), size)


def _read(path: Path, size: int) -> _Picture:
    from PIL import Image, ImageOps

    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)  # as its camera was held
            image.load()
    except Exception as error:  # whatever a file that is none leads to
        raise ValueError(
            f"{path} is no picture that can be read ({type(error).__name__})"
        ) from error
    if image.mode[0] in "IF":  # integers and floats of 16 and 32 bits
        raise ValueError(f"{path} has more than 8 bits a channel: save it with 8")
    notes = []
    if min(image.size) < size:
        notes.append(f"is smaller than {size} × {size} and was enlarged")
    if image.mode in ("1", "L", "LA", "La"):
        notes.append("is grey: its three channels are alike")
    if image.has_transparency_data:
        notes.append("has an alpha channel and was laid on white")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _Picture(_fitted(image.convert("RGB"), size), tuple(notes))


def _fitted(image, size: int) -> np.ndarray:
    """The middle square of an RGB picture, resized."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
