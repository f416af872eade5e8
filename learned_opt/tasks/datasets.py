"""Image data sets as NumPy arrays: the one place that knows TFDS and scikit-learn."""

import contextlib
import importlib.util
import logging
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "valid", "test")
TFDS_DATASETS = ("mnist", "fashion_mnist", "cifar10")
DATASETS = ("digits", *TFDS_DATASETS)


class Split(NamedTuple):
    """The examples of one split.

    Attributes:
      images: uint8 `[n, height, width, channels]`.
      labels: int32 `[n]`.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A data set for classification.

    Attributes:
      splits: a `Split` for each of `"train"`, `"valid"` and `"test"`.
      num_classes: the number of classes; labels are 0 … num_classes − 1.
      max_pixel: the pixel value that stands for 1.0.
    """

    splits: dict[str, Split]
    num_classes: int
    max_pixel: int


def check_split(split: str, known: Sequence[str] = SPLITS) -> None:
    """Raises a `ValueError` that lists the known splits unless `split` is one of them."""
    if split not in known:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(known)}")


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    valid_size: int | None = None,
) -> Dataset:
    """Reads a data set into memory, and downloads it first where it is missing.

    The validation split is cut from the training data and the test split is the data set's own:
    for those of TFDS, `valid` is the last 5,000 training images. Scikit-learn's digits
    have no test split; a fixed permutation divides them into 1,077 / 360 / 360.

    Args:
      name: `"digits"`, `"mnist"`, `"fashion_mnist"` or `"cifar10"`.
      data_dir: the folder of TFDS data sets; by default the environment variable `TFDS_DATA_DIR`,
        else `~/tensorflow_datasets`. Digits ship with scikit-learn and need no folder.
      valid_size: the number of validation examples, where it is not to be the default.

    Returns:
      The data set, as NumPy arrays.

    Raises:
      FileNotFoundError: the data set is missing and cannot be prepared here.
      ValueError: the name is unknown, the files are damaged, or `valid_size` is impossible.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if name == "digits":
        return _load_digits(valid_size)
    train, test = _load_tfds(name, data_dir)
    train, valid = _cut_valid(train, 5000 if valid_size is None else valid_size)
    return Dataset({"train": train, "valid": valid, "test": test}, num_classes=10, max_pixel=255)


def with_labels(data: Dataset, labels: Sequence[int]) -> Dataset:
    """The examples of some labels alone, of every split; labels are renumbered 0, 1, … in order.

    Args:
      data: a data set.
      labels: which of its labels, at least two, all different; the first becomes 0.

    Raises:
      ValueError: fewer than two labels, one twice, or one that the data set lacks.
    """
    kept = list(labels)
    if len(kept) < 2 or len(set(kept)) < len(kept):
        raise ValueError(f"labels must be two or more, all different, got {tuple(labels)}")
    present = set(np.unique(data.splits["train"].labels).tolist())
    missing = [label for label in kept if label not in present]
    if missing:
        raise ValueError(
            f"the data set has no label {', '.join(map(str, missing))}; it has "
            f"{', '.join(map(str, sorted(present)))}"
        )
    new = np.full(max(present) + 1, -1, np.int32)
    new[kept] = np.arange(len(kept))
    splits = {}
    for split, examples in data.splits.items():
        rows = np.isin(examples.labels, kept)
        splits[split] = Split(examples.images[rows], new[examples.labels[rows]])
    return Dataset(splits, len(kept), data.max_pixel)


def averaged_down(data: Dataset, side: int, *, color: bool = False) -> Dataset:
    """A data set's images, padded with black to a multiple of `side` pixels and averaged to it.

    Args:
      data: a data set.
      side: pixels of a side.
      color: whether channels are kept; else images become grey.

    Returns:
      The data set, with float32 images `[n, side, side, channels]` from 0 to 1.

    Raises:
      ValueError: `side` is no positive number, or larger than the images.
    """
    height = data.splits["train"].images.shape[1]
    if not 1 <= side <= height:
        raise ValueError(f"side must be from 1 to {height}, that of the images, got {side}")
    pad = -height % side
    border = (pad // 2, pad - pad // 2)
    splits = {}
    for split, (images, labels) in data.splits.items():
        pixels = images.astype(np.float32) if color else images.mean(-1, np.float32, keepdims=True)
        pixels = np.pad(pixels, ((0, 0), border, border, (0, 0)))
        size = pixels.shape[1] // side
        blocks = pixels.reshape(len(pixels), side, size, side, size, -1)
        splits[split] = Split(blocks.mean(axis=(2, 4)) / data.max_pixel, labels)
    return Dataset(splits, data.num_classes, max_pixel=1)


def prepare_dataset(name: str, data_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Downloads a data set through TFDS, unless it is there, and writes it as array_record files.

    Reading the files takes no TensorFlow, but writing them does: the extra `prepare` brings it.

    Args:
      name: `"mnist"`, `"fashion_mnist"` or `"cifar10"`.
      data_dir: as for `load_dataset`.

    Returns:
      The folder of the prepared data set.

    Raises:
      FileNotFoundError: the extra is not installed, or downloading or writing failed.
      ValueError: the name is unknown.
    """
    if name not in TFDS_DATASETS:
        known = ", ".join(TFDS_DATASETS)
        raise ValueError(f"no data set {name!r} to prepare; known: {known}")
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    try:
        root = root.expanduser()
    except RuntimeError:
        raise FileNotFoundError(
            f"data set {name!r}: {root} needs a home folder, and this user has none; set data_dir "
            "or the environment variable TFDS_DATA_DIR"
        ) from None
    folder = _find_folder(name, root)
    if folder is not None:
        return folder
    needed = ("tensorflow", "importlib_resources")
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise _missing_error(name, root, f"not installed: {', '.join(missing)}")
    try:
        with _quiet():
            import tensorflow_datasets as tfds

            builder = tfds.builder(name, data_dir=root, file_format="array_record")
            builder.download_and_prepare()
    except Exception as error:  # network, disk, permissions: the advice is the same
        raise _missing_error(name, root, f"{type(error).__name__}: {error}") from error
    return pathlib.Path(builder.data_dir)


def _find_folder(name: str, root: pathlib.Path) -> pathlib.Path | None:
    """Returns the newest complete version of a data set in `root`, if there is one."""
    folders = {}
    for info in (root / name).glob("*/dataset_info.json"):
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name):
            folders[tuple(map(int, info.parent.name.split(".")))] = info.parent
    return folders[max(folders)] if folders else None


def _missing_error(name: str, root: pathlib.Path, reason: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"data set {name!r} is not in {root} and could not be prepared ({reason}). Set data_dir or "
        "TFDS_DATA_DIR to a folder that has it; or, where there is a network, run "
        f"`pip install 'learned_opt[prepare]'` and `scripts/prepare_data {name}`; or use the data "
        "set 'digits', which needs no download."
    )


def _load_tfds(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[Split, Split]:
    folder = prepare_dataset(name, data_dir)
    try:
        return _read_split(folder, "train"), _read_split(folder, "test")
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(
            f"data set {name!r} in {folder} cannot be read ({type(error).__name__}: {error}). It "
            "must be in array_record format; if its files are damaged, delete that folder and run "
            f"`scripts/prepare_data {name}`."
        ) from error


def _read_split(folder: pathlib.Path, split: str) -> Split:
    with _quiet():
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(folder)
        source = builder.as_data_source(split=split)
        records = source.__getitems__(list(range(len(source))))  # one batched read
    if len(records) != builder.info.splits[split].num_examples:
        expected = builder.info.splits[split].num_examples
        raise ValueError(f"{len(records)} of {expected} examples of {split!r} found")
    images = np.stack([record["image"] for record in records])
    labels = np.array([record["label"] for record in records], np.int32)
    return Split(images, labels)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Python warnings of TFDS, and its advice to install OpenCV beside Pillow."""

    def keep(record: logging.LogRecord) -> bool:
        return "OpenCV" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(keep)


def _load_digits(valid_size: int | None) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = digits.images[order].astype(np.uint8)[..., np.newaxis]  # [1797, 8, 8, 1], 0 … 16
    labels = digits.target[order].astype(np.int32)
    train = Split(images[:-360], labels[:-360])
    test = Split(images[-360:], labels[-360:])
    train, valid = _cut_valid(train, 360 if valid_size is None else valid_size)
    return Dataset({"train": train, "valid": valid, "test": test}, num_classes=10, max_pixel=16)


def _cut_valid(train: Split, size: int) -> tuple[Split, Split]:
    """Cuts the last `size` examples off the training split."""
    count = len(train.labels)
    if not 1 <= size < count:
        raise ValueError(f"valid_size must be between 1 and {count - 1}, got {size}")
    cut = count - size
    return (
        Split(train.images[:cut], train.labels[:cut]),
        Split(train.images[cut:], train.labels[cut:]),
    )
