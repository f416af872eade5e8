import importlib.util
import os
import pathlib

import numpy as np
import pytest

from learned_opt.tasks import datasets, image_classifier

REAL_DATA = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "/nonexistent"))


def _without_tensorflow(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )


def _rows(split):
    return {image.tobytes() for image in split.images}


def test_digits_are_split_for_good():
    data = datasets.load_dataset("digits")
    assert {s: len(split.labels) for s, split in data.splits.items()} == {
        "train": 1077,
        "valid": 360,
        "test": 360,
    }
    everything = np.concatenate([split.images for split in data.splits.values()])
    labels = np.concatenate([split.labels for split in data.splits.values()])
    assert everything.dtype == np.uint8 and everything.shape == (1797, 8, 8, 1)
    assert labels.dtype == np.int32 and data.num_classes == 10
    assert everything.max() == data.max_pixel == 16

    from sklearn.datasets import load_digits

    digits = load_digits()
    expected = sorted(zip(map(bytes, digits.images.astype(np.uint8)), digits.target, strict=True))
    assert sorted(zip(map(bytes, everything), labels, strict=True)) == expected
    again = datasets.load_dataset("digits")
    for split in datasets.SPLITS:
        np.testing.assert_array_equal(data.splits[split].images, again.splits[split].images)
        # Every class is well represented, so the order was shuffled.
        assert np.bincount(data.splits[split].labels, minlength=10).min() >= 25


def test_a_larger_validation_split_leaves_the_test_split_alone():
    default = datasets.load_dataset("digits")
    other = datasets.load_dataset("digits", valid_size=500)
    assert len(other.splits["valid"].labels) == 500
    assert len(other.splits["train"].labels) == 1437 - 500
    np.testing.assert_array_equal(other.splits["test"].images, default.splits["test"].images)


@pytest.mark.parametrize("size", [0, -5, 1437])
def test_rejects_a_validation_size(size):
    with pytest.raises(ValueError, match=f"valid_size must be between 1 and 1436, got {size}"):
        datasets.load_dataset("digits", valid_size=size)


@pytest.mark.parametrize("labels", [(7, 2, 5), range(2, 4)])
def test_labels_are_picked_in_every_split_and_renumbered(labels):
    whole = datasets.load_dataset("digits")
    some = datasets.with_labels(whole, labels)
    assert some.num_classes == len(labels) and some.max_pixel == 16
    for split in datasets.SPLITS:
        examples = zip(whole.splits[split].images, whole.splits[split].labels, strict=True)
        expected = [(image, list(labels).index(y)) for image, y in examples if y in labels]
        images, numbers = some.splits[split]
        np.testing.assert_array_equal(images, [image for image, _ in expected])
        assert numbers.tolist() == [y for _, y in expected] and numbers.dtype == np.int32


def test_no_image_of_a_held_out_label_is_seen():
    held_out = image_classifier("digits", labels=range(5, 10))
    shown = image_classifier("digits", labels=range(5))
    pixels = [
        {bytes(image) for split in task.images.values() for image in np.asarray(split)}
        for task in (held_out, shown)
    ]
    assert held_out.num_classes == 5 and not pixels[0] & pixels[1]
    assert sum(len(split) for task in (held_out, shown) for split in task.images.values()) == 1797


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((3, 12), "the data set has no label 12; it has 0, 1, 2"),
        ((3, -1), "the data set has no label -1"),
        ((3,), r"labels must be two or more, all different, got \(3,\)"),
        ((), "labels must be two or more"),
        ((3, 4, 3), r"labels must be two or more, all different, got \(3, 4, 3\)"),
    ],
)
def test_rejects_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        image_classifier("digits", labels=labels)


def test_colors_are_averaged_each_for_itself():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 6, 6, 3), np.uint8)
    split = datasets.Split(images, np.arange(3, dtype=np.int32))
    data = datasets.Dataset(dict.fromkeys(datasets.SPLITS, split), 10, 255)
    small = datasets.averaged_down(data, 3, color=True).splits["test"].images
    assert small.shape == (3, 3, 3, 3) and small.dtype == np.float32
    for i, j in np.ndindex(3, 3):
        block = images[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_allclose(small[:, i, j], block.mean(axis=(1, 2)) / 255, rtol=1e-6)
    with pytest.raises(ValueError, match="color belongs to side"):
        image_classifier("digits", color=True)


def test_rejects_an_unknown_name():
    with pytest.raises(ValueError, match="'svhn'; known: digits, mnist, fashion_mnist"):
        datasets.load_dataset("svhn")
    with pytest.raises(ValueError, match="no data set 'digits' to prepare; known: mnist"):
        datasets.prepare_dataset("digits")


def test_reads_a_tfds_folder(tiny_mnist):
    data = datasets.load_dataset("mnist", tiny_mnist.data_dir, valid_size=7)
    train, valid, test = (data.splits[split] for split in datasets.SPLITS)
    # The validation split is the end of the training data, and the test split is the test data.
    np.testing.assert_array_equal(train.images, tiny_mnist.images["train"][:23])
    np.testing.assert_array_equal(train.labels, tiny_mnist.labels["train"][:23])
    np.testing.assert_array_equal(valid.images, tiny_mnist.images["train"][23:])
    np.testing.assert_array_equal(valid.labels, tiny_mnist.labels["train"][23:])
    np.testing.assert_array_equal(test.images, tiny_mnist.images["test"])
    np.testing.assert_array_equal(test.labels, tiny_mnist.labels["test"])
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int32
    assert data.max_pixel == 255 and data.num_classes == 10


def test_finds_the_folder_by_argument_then_environment(tiny_mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny_mnist.data_dir))
    assert datasets.prepare_dataset("mnist") == tiny_mnist.folder
    task = image_classifier("mnist", valid_size=5, batch_size=25)
    assert task.images["train"].shape == (25, 28, 28, 1)
    _without_tensorflow(monkeypatch)
    with pytest.raises(FileNotFoundError, match="is not in .*elsewhere"):
        datasets.load_dataset("mnist", tmp_path / "elsewhere")


def test_takes_the_newest_complete_version(tiny_mnist):
    for version in ("3.0.0", "2.11.0", "incomplete.AB12_9.0.0"):
        folder = tiny_mnist.folder.parent / version
        folder.mkdir()
        (folder / "dataset_info.json").write_text("{}")
    (tiny_mnist.folder.parent / "8.0.0").mkdir()  # without a dataset_info.json
    assert datasets.prepare_dataset("mnist", tiny_mnist.data_dir) == tiny_mnist.folder
    newer = tiny_mnist.folder.rename(tiny_mnist.folder.parent / "10.0.0")
    assert datasets.prepare_dataset("mnist", tiny_mnist.data_dir) == newer


def test_says_what_to_do_where_the_data_set_and_the_extra_are_missing(tmp_path, monkeypatch):
    _without_tensorflow(monkeypatch)
    with pytest.raises(FileNotFoundError) as raised:
        image_classifier("fashion_mnist", data_dir=tmp_path)
    message = str(raised.value)
    for words in (
        f"'fashion_mnist' is not in {tmp_path}",
        "not installed: tensorflow",
        "TFDS_DATA_DIR",
        "pip install 'learned_opt[prepare]'",
        "scripts/prepare_data fashion_mnist",
        "'digits'",
    ):
        assert words in message


def test_says_what_to_do_where_preparing_fails(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def builder(name, data_dir, file_format):
        assert (name, data_dir, file_format) == ("mnist", tmp_path, "array_record")
        raise ConnectionError("no route to host")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(FileNotFoundError, match="no route to host.*TFDS_DATA_DIR.*'digits'"):
        datasets.load_dataset("mnist", tmp_path)


def test_prepares_a_missing_data_set(tiny_mnist, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class Builder:
        def __init__(self, name, data_dir, file_format):
            assert (name, file_format) == ("mnist", "array_record")
            self.data_dir = str(data_dir / name / "3.0.1")

        def download_and_prepare(self):
            pathlib.Path(self.data_dir).parent.mkdir(parents=True)
            tiny_mnist.folder.rename(self.data_dir)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(tfds, "builder", Builder)
    data = datasets.load_dataset("mnist", tmp_path / "new", valid_size=5)
    np.testing.assert_array_equal(data.splits["test"].images, tiny_mnist.images["test"])


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _overwrite(path):
    content = bytearray(path.read_bytes())
    middle = content.index(b"IDAT") + 100
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _overwrite, pathlib.Path.unlink])
def test_names_the_folder_of_a_damaged_data_set(tiny_mnist, damage):
    damage(tiny_mnist.folder / "mnist-train.array_record-00000-of-00001")
    with pytest.raises(ValueError) as raised:
        datasets.load_dataset("mnist", tiny_mnist.data_dir, valid_size=5)
    assert f"'mnist' in {tiny_mnist.folder} cannot be read" in str(raised.value)
    assert "scripts/prepare_data mnist" in str(raised.value)


def test_names_the_folder_of_a_data_set_with_a_damaged_description(tiny_mnist):
    (tiny_mnist.folder / "dataset_info.json").write_text('{"name"')
    with pytest.raises(ValueError, match="cannot be read"):
        datasets.load_dataset("mnist", tiny_mnist.data_dir, valid_size=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion_mnist", 0.2860, 0.3530)]
)
def test_the_real_data_sets(name, mean, std):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"no {name} in TFDS_DATA_DIR")
    data = datasets.load_dataset(name)
    sizes = {split: len(data.splits[split].labels) for split in datasets.SPLITS}
    assert sizes == {"train": 55_000, "valid": 5_000, "test": 10_000}
    train, valid, test = (data.splits[split] for split in datasets.SPLITS)
    images = np.concatenate([train.images, valid.images]) / np.float32(255)
    np.testing.assert_allclose([images.mean(), images.std()], [mean, std], atol=1e-4)
    assert len(np.unique(test.labels)) == 10
    # A few pictures of Fashion-MNIST occur twice in the published data.
    assert len(_rows(test) & (_rows(train) | _rows(valid))) < 20
