"""Image data sets as NumPy arrays. The one place that knows TFDS and scikit-learn."""

import contextlib
import importlib.util
import logging
import os
import pathlib
import warnings
from typing import NamedTuple

import numpy as np

SPLITS = ('train', 'valid', 'test')
_TFDS_NAMES = ('mnist', 'fashion_mnist')
DATASETS = ('digits', *_TFDS_NAMES)


class Split(NamedTuple):
    """Examples of one split.

    Attributes:
        images: uint8 [n, height, width, channels].
        labels: int32 [n].
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A data set for classification.

    Attributes:
        splits: A ``Split`` for each of ``'train'``, ``'valid'``, ``'test'``.
        num_classes: Number of classes; labels are 0 … num_classes - 1.
        max_pixel: The pixel value that stands for 1.0.
    """

    splits: dict[str, Split]
    num_classes: int
    max_pixel: int


def check_split(split, known=SPLITS):
    """Raises a ``ValueError`` that lists the known splits unless ``split`` is one of them."""
    if split not in known:
        raise ValueError(f'unknown split {split!r}; known: {", ".join(known)}')


def load_dataset(name, data_dir=None, *, valid_size=None):
    """Reads a data set into memory.

    The validation split is cut from the training data, and the test split is the data set's own:
    for MNIST and Fashion-MNIST ``valid`` is the last 5,000 training images; scikit-learn's digits
    come without a test split, so a fixed permutation divides them into 1,077 / 360 / 360.

    Args:
        name: ``'digits'``, ``'mnist'`` or ``'fashion_mnist'``.
        data_dir: Folder of TFDS data sets. By default the environment variable ``TFDS_DATA_DIR``,
            else ``~/tensorflow_datasets``. Not used for digits, which ship with scikit-learn.
        valid_size: Number of validation examples, if not the default.

    Returns:
        A ``Dataset``.

    Raises:
        FileNotFoundError: If the data set is not in ``data_dir`` and cannot be prepared here.
        ValueError: If the name is unknown, its files are damaged, or ``valid_size`` is impossible.
    """
    if name not in DATASETS:
        raise ValueError(f'unknown data set {name!r}; known: {", ".join(DATASETS)}')
    if name == 'digits':
        return _load_digits(valid_size)
    train, test = _load_tfds(name, _data_dir(data_dir))
    train, valid = _cut_valid(train, 5000 if valid_size is None else valid_size)
    return Dataset({'train': train, 'valid': valid, 'test': test}, num_classes=10, max_pixel=255)


def prepare_dataset(name, data_dir=None):
    """Downloads a data set and writes it as array_record files, which needs TensorFlow once.

    Args:
        name: ``'mnist'`` or ``'fashion_mnist'``.
        data_dir: As for ``load_dataset``.

    Returns:
        The folder of the prepared data set, whether or not it was there before.

    Raises:
        FileNotFoundError: If the optional extra ``prepare`` is missing or the download fails.
        ValueError: If TFDS cannot prepare a data set of that name.
    """
    if name not in _TFDS_NAMES:
        raise ValueError(f'nothing to prepare for {name!r}; known: {", ".join(_TFDS_NAMES)}')
    root = _data_dir(data_dir)
    folder = _find_folder(name, root)
    if folder is not None:
        return folder
    needed = ('tensorflow', 'importlib_resources')
    missing = [module for module in needed if importlib.util.find_spec(module) is None]
    if missing:
        raise FileNotFoundError(_missing(name, root, f'{" and ".join(missing)} not installed'))
    try:
        with _quiet():
            import tensorflow_datasets as tfds

            builder = tfds.builder(name, data_dir=root, file_format='array_record')
            builder.download_and_prepare()
    except Exception as error:  # Whatever goes wrong below, the user needs the same advice.
        reason = f'preparing it failed with {type(error).__name__}: {error}'
        raise FileNotFoundError(_missing(name, root, reason)) from error
    return pathlib.Path(builder.data_dir)


def _data_dir(data_dir):
    default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    return pathlib.Path(data_dir or default).expanduser()


def _find_folder(name, root):
    """The newest prepared version of a data set, or None."""
    infos = sorted((root / name).glob('*/dataset_info.json'))
    return infos[-1].parent if infos else None


def _missing(name, root, reason):
    return (
        f'data set {name!r} is not in {root} and cannot be prepared here ({reason}). '
        f"Point TFDS_DATA_DIR or data_dir to a folder that has it, or run pip install "
        f"'learned_opt[prepare]' and scripts/prepare_data {name} where there is a network, "
        f"or use the data set 'digits', which needs neither."
    )


def _load_tfds(name, root):
    folder = prepare_dataset(name, root)
    try:
        return tuple(_read_split(folder, split) for split in ('train', 'test'))
    except Exception as error:
        raise ValueError(
            f'data set {name!r} cannot be read from {folder}: {type(error).__name__}: {error}. '
            'It needs array_record files; if they are damaged, delete that folder and prepare '
            f'it again with scripts/prepare_data {name}'
        ) from error


@contextlib.contextmanager
def _quiet():
    """Keeps from the user what TFDS says about packages that nobody needs here."""
    logger = logging.getLogger('absl')

    def without_opencv(record):
        return 'OpenCV' not in record.getMessage()

    logger.addFilter(without_opencv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.removeFilter(without_opencv)


def _read_split(folder, split):
    with _quiet():
        import tensorflow_datasets as tfds

        source = tfds.builder_from_directory(folder).as_data_source(split=split)
        records = source.__getitems__(list(range(len(source))))  # One batched read.
    images = np.stack([record['image'] for record in records])
    labels = np.array([record['label'] for record in records], np.int32)
    return Split(images, labels)


def _load_digits(valid_size):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))
    held_out = len(labels) // 5 + 1
    test = Split(images[order[-held_out:]], labels[order[-held_out:]])
    train = Split(images[order[:-held_out]], labels[order[:-held_out]])
    train, valid = _cut_valid(train, held_out if valid_size is None else valid_size)
    return Dataset({'train': train, 'valid': valid, 'test': test}, num_classes=10, max_pixel=16)


def _cut_valid(train, size):
    count = len(train.labels)
    if not 1 <= size < count:
        raise ValueError(f'valid_size must be from 1 to {count - 1}, got {size}')
    cut = count - size
    return (
        Split(train.images[:cut], train.labels[:cut]),
        Split(train.images[cut:], train.labels[cut:]),
    )
