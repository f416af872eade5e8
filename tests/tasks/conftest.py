"""A small TFDS folder in the format of the stock builders, written without TensorFlow."""

import io
import json
import pathlib
import warnings
from typing import NamedTuple

import numpy as np
import pytest


class TinyMNIST(NamedTuple):
    data_dir: pathlib.Path
    folder: pathlib.Path
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


@pytest.fixture
def tiny_mnist(tmp_path):
    """An `mnist` of 30 training and 10 test images, and what is in it."""
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = {"train": 30, "test": 10}
    images = {s: rng.integers(0, 256, (n, 28, 28, 1), np.uint8) for s, n in sizes.items()}
    labels = {s: np.arange(n) % 10 for s, n in sizes.items()}
    for split in sizes:
        path = folder / f"mnist-{split}.array_record-00000-of-00001"
        _write_records(path, images[split], labels[split])
    (folder / "dataset_info.json").write_text(json.dumps(_info(sizes)))
    (folder / "features.json").write_text(json.dumps(_FEATURES))
    return TinyMNIST(tmp_path, folder, images, labels)


def _write_records(path, images, labels):
    import PIL.Image
    from array_record.python.array_record_module import ArrayRecordWriter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorflow_datasets.proto import tf_example_pb2

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for image, label in zip(images, labels, strict=True):
        png = io.BytesIO()
        PIL.Image.fromarray(image[..., 0]).save(png, "png")
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(png.getvalue())
        example.features.feature["label"].int64_list.value.append(int(label))
        writer.write(example.SerializeToString())
    writer.close()


def _info(sizes):
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        {"name": s, "shardLengths": [str(n)], "numBytes": "1", "filepathTemplate": template}
        for s, n in sizes.items()
    ]
    return {"name": "mnist", "version": "3.0.1", "fileFormat": "array_record", "splits": splits}


_FEATURES = {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "image": {
                "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
                "image": {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}},
            },
            "label": {
                "pythonClassName": (
                    "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
                ),
                "classLabel": {"numClasses": "10"},
            },
        }
    },
}
