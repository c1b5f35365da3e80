"""Sets that tfds has prepared, read example by example: ArrayRecords by their own index, tfrecords by one that is made.

TensorFlow is not needed.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from topojax.data.record_index import TfRecords
from topojax.data.source import Source
from topojax.data.tfds_arrays import Splits, required
from topojax.errors import UserError, needing

_SOME = 4096
"""Records that are read at a time for their labels."""


def splits(directory: pathlib.Path) -> Splits:
    """Both splits of a prepared directory: images to train on as a `Source`, all else in memory.

    Args:
      directory: as `tfds_arrays.find` returns it.

    Raises:
      UserError: a package or a file is missing, one is cut off, or they hold no images with one class each.
    """
    with needing("stream", f"streaming {directory}"):
        import tensorflow_datasets as tfds
    try:
        builder = tfds.builder_from_directory(str(directory))
    except Exception as error:  # of tfds, of etils, of the files' parsers
        raise UserError(f"{directory}: not as tfds prepares it: {_first_line(error)}") from error
    found = list[Any]()
    for split in required(builder, directory):
        records = _records(builder, split, directory)
        where = f"{directory}: split {split!r}"
        with _told(where):
            label = _labels(records, tfds.features.FeaturesDict({"label": builder.info.features["label"]}))
        images = Images(records, tfds.features.FeaturesDict({"image": builder.info.features["image"]}), where)
        found += [images if split == "train" else np.asarray(images), label]
    image, label = found[:2]
    none = np.empty((0, *image.shape[1:]), image.dtype), label[:0]
    return Splits(image, label, *(found[2:] or none))


class Images(Source):
    """The images of a split, decoded as they are read.

    Args:
      records: its examples, serialised.
      features: of tfds, `image` alone.
      where: what messages call it.
    """

    def __init__(self, records: Any, features: Any, where: str):
        self._records, self._features, self._where = records, features, where
        first = self._decoded(np.zeros(1, int))[0]
        self.shape, self.dtype = (len(records), *first.shape), first.dtype

    def take(self, rows: np.ndarray) -> np.ndarray:
        """[m, H, W, C]."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for i, image in enumerate(self._decoded(rows)):
            if image.shape != self.shape[1:]:
                a, b = list(image.shape), list(self.shape[1:])
                raise UserError(f"{self._where}: the image of example {rows[i]} has shape {a}, that of example 0 {b}")
            out[i] = image
        return out

    def _decoded(self, rows: np.ndarray) -> list[np.ndarray]:
        with _told(self._where):
            read = self._records.__getitems__(rows.tolist()) if len(rows) else []
            return [self._features.deserialize_example_np(record)["image"] for record in read]


def _records(builder: Any, split: str, directory: pathlib.Path) -> Any:
    """The examples of a split, serialised, in its order."""
    about, kind = builder.info.splits[split], builder.info.file_format
    files = [pathlib.Path(str(file)) for file in about.filepaths]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing}: is missing, and dataset_info.json tells of it: prepare it again")
    if kind is None or kind.value == "tfrecord":
        records: Any = TfRecords(files)
    elif kind.value == "array_record":
        with needing("stream", f"streaming {directory}"):
            from array_record.python.array_record_data_source import ArrayRecordDataSource
        with _told(f"{directory}: split {split!r}"):
            records = ArrayRecordDataSource(files)
    else:
        raise UserError(f"{directory}: {kind.value} is not streamed: config.data.mode=host")
    if len(records) != about.num_examples:
        raise UserError(
            f"{directory}: {len(records)} examples in split {split!r}, and dataset_info.json tells of "
            f"{about.num_examples}: prepare it again"
        )
    return records


def _labels(records: Any, features: Any) -> np.ndarray:
    """[n] int32."""
    out = np.empty(len(records), np.int32)
    for start in range(0, len(out), _SOME):
        for i, record in enumerate(records.__getitems__(range(start, min(start + _SOME, len(out)))), start):
            out[i] = features.deserialize_example_np(record)["label"]
    return out


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """What is wrong with a file as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library in between has its own
        raise UserError(f"{where}: cannot be read: {_first_line(error)}: prepare it again") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:160]
