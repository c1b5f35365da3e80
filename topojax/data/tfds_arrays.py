"""Image data sets prepared by tfds, as arrays: found on disk, decoded once, then read from a cache.

TensorFlow takes seconds to import and to decode. A cached copy needs neither it nor tfds; it is keyed by the
source files' names and contents, and believed only if its own checksum holds.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import urllib.error
import urllib.request
import uuid
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

from topojax.data.raw import Raw, Split
from topojax.data.rows import Rows, blocks
from topojax.errors import UserError, needing

_CACHE_FORMAT = 2
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_REACH_SECONDS = 10.0
_FIELDS = ("train_image", "train_label", "test_image", "test_label")


class Source(NamedTuple):
    """What the package knows of a data set before it sees the files."""

    num_classes: int
    image_shape: tuple[int, int, int]
    url: str  # where tfds downloads it from


SOURCES = {
    "mnist": Source(10, (28, 28, 1), "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    "cifar10": Source(10, (32, 32, 3), "https://www.cs.toronto.edu/~kriz/"),
}


class Splits(NamedTuple):
    """Both official splits of a data set; m is 0 where there is no test split."""

    train_image: np.ndarray  # shape=(n, H, W, C), uint8 as the makers of MNIST and CIFAR-10 have them
    train_label: np.ndarray  # shape=(n,), int32
    test_image: np.ndarray  # shape=(m, H, W, C)
    test_label: np.ndarray  # shape=(m,), int32


def root(data_dir: str | None) -> pathlib.Path:
    """Where tfds keeps data sets: `data_dir`, or by its own rule $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return pathlib.Path(os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def find(name: str, data_dir: str | None) -> pathlib.Path:
    """Directory of the newest prepared version, <data_dir>/<name>/<x.y.z>, found without importing tfds.

    `data_dir` may also be <data_dir>/<name> or that version itself.

    Raises:
      UserError: where there is none, with the command that fetches it.
    """
    place = root(data_dir)
    versions = _versions(name, place)
    if not versions:
        raise UserError(f"data set {name} not found in {place}; fetch it with: {_fetch_command(name, place)}")
    return max(versions, key=lambda path: tuple(int(part) for part in path.name.split(".")))


def prepared(name: str, data_dir: str | None) -> bool:
    """Whether tfds has prepared a data set of that name."""
    return bool(name) and pathlib.PurePath(name).name == name and bool(_versions(name, root(data_dir)))


def _versions(name: str, place: pathlib.Path) -> list[pathlib.Path]:
    if _VERSION.fullmatch(place.name) and place.parent.name == name:
        return [place] if (place / "dataset_info.json").is_file() else []
    base = place if place.name == name and not (place / name).is_dir() else place / name
    found = [path.parent for path in base.glob("*/dataset_info.json")]
    return [path for path in found if _VERSION.fullmatch(path.name)]


def split_sizes(directory: pathlib.Path) -> dict[str, int]:
    """Examples in each split, as dataset_info.json of a prepared directory counts them.

    Raises:
      UserError: where that file cannot be read.
    """
    try:
        splits = json.loads((directory / "dataset_info.json").read_text())["splits"]
        return {split["name"]: sum(int(n) for n in split["shardLengths"]) for split in splits}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {directory / 'dataset_info.json'} ({error!r}): prepare it again") from error


def load(directory: pathlib.Path, *, cache: bool = True) -> Splits:
    """Both splits of a prepared data set, from the cache where it holds them.

    Args:
      directory: as `find` returns it.
      cache: whether to read and write $XDG_CACHE_HOME/topojax/data (~/.cache/topojax/data). A cache that
        cannot be written is passed over in silence: it only saves time.

    Returns:
      Arrays as tfds stores them, uint8 and int32.

    Raises:
      UserError: where TensorFlow is missing, or the files cannot be decoded.
    """
    path = cache_path(directory)
    if cache and (splits := _read(path)) is not None:
        return splits
    splits = decode(directory)
    if cache:
        _write(path, splits)
    return splits


def cache_path(directory: pathlib.Path) -> pathlib.Path:
    """Cache file of a prepared directory: <name>-<version>-<hash of its files' names and contents>.npz.

    Names and sizes are not enough: other labels are as long.
    """
    listing = sorted((file.name, _contents(file)) for file in directory.iterdir() if file.is_file())
    key = hashlib.sha256(json.dumps([_CACHE_FORMAT, listing]).encode()).hexdigest()[:16]
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if base.parts[:1] == ("~",):  # nobody's home: no folder, but one that cannot be made
        base = pathlib.Path(os.devnull)
    return base / "topojax" / "data" / f"{directory.parent.name}-{directory.name}-{key}.npz"


def _contents(file: pathlib.Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(*arrays: np.ndarray | Rows) -> str:
    """sha256 of dtypes, shapes and contents, in hexadecimal."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        for block in blocks(array):
            sha.update(np.ascontiguousarray(block).data)
    return sha.hexdigest()


def decode(directory: pathlib.Path) -> Splits:
    """Decode both splits by tfds, from exactly this directory, be its files tfrecords or ArrayRecords.

    Raises:
      UserError: where TensorFlow is missing, the files cannot be decoded, or hold no images with one class each.
    """
    tfds = _import_tfds()
    try:
        builder = tfds.builder_from_directory(str(directory))
        found = {split: _decoded(builder, tfds, split) for split in required(builder, directory)}
    except UserError:
        raise
    except Exception as error:  # TensorFlow's errors share no base class that is known before it is imported
        name, place = directory.parent.name, directory.parent.parent
        raise UserError(
            f"cannot decode {directory} ({_first_line(error)}): remove it and fetch it again with: "
            f"{_fetch_command(name, place)}"
        ) from error
    image, label = found["train"]
    return Splits(image, label, *found.get("test", (image[:0], label[:0])))


def required(builder: Any, directory: pathlib.Path) -> list[str]:
    """The splits that are there of train and test.

    Raises:
      UserError: no split to train on, or examples that are no images with one class each.
    """
    if "image" not in builder.info.features or "label" not in builder.info.features:
        raise UserError(
            f"{directory}: its examples are {', '.join(builder.info.features)}: an image and a label are wanted"
        )
    wanted = [split for split in ("train", "test") if split in builder.info.splits]
    if wanted[:1] != ["train"]:
        raise UserError(f"{directory}: no split 'train'")
    return wanted


def _decoded(builder: Any, tfds: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    if builder.info.file_format is not None and builder.info.file_format.value == "array_record":
        examples = builder.as_data_source(split=split)  # ArrayRecords are read by index, not as a stream
        rows = [(example["image"], example["label"]) for example in examples]
        image, label = (np.stack(column) for column in zip(*rows, strict=True))
    else:
        found = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        image, label = found["image"], found["label"]
    return image, np.asarray(label).astype(np.int32)


def raw(directory: pathlib.Path, splits: Splits) -> Raw:
    """A prepared data set of which nothing is known but what tfds has written."""
    test = Split(splits.test_image, splits.test_label) if len(splits.test_label) else None
    source, names = f"tfds {directory.parent.name} {directory.name}", None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        names = tuple((directory / "label.labels.txt").read_text(encoding="utf-8").split("\n")[:-1]) or None
    return Raw(Split(splits.train_image, splits.train_label), test, source, pictures=True, names=names)


def fetch(name: str, data_dir: str | None) -> pathlib.Path:
    """Download and prepare a data set by tfds; returns its directory, also when it was there before.

    Raises:
      UserError: where TensorFlow or the network is missing, or the download fails.
    """
    place = root(data_dir)
    with contextlib.suppress(UserError):
        return find(name, data_dir)
    tfds = _import_tfds()
    url = SOURCES[name].url if name in SOURCES else ""
    try:
        # tfds retries for minutes before it gives up; this asks once. Any answer, 404 too, means "reachable".
        with contextlib.suppress(urllib.error.HTTPError):
            if url:
                urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise UserError(f"cannot fetch {name}: no connection to {url} ({_first_line(error)})") from error
    try:
        tfds.builder(name, data_dir=str(place)).download_and_prepare()
    except Exception as error:  # network, disk, checksums and parsers each have their own
        raise UserError(f"cannot fetch {name} into {place}: {_first_line(error)}") from error
    return find(name, data_dir)


def _fetch_command(name: str, place: pathlib.Path) -> str:
    return f"topojax data fetch {name} --data_dir={place}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _import_tfds() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its banner ignores the log level
    with needing("tf", "decoding this data set"):
        import tensorflow as tf
        import tensorflow_datasets as tfds
    with contextlib.suppress(RuntimeError):  # TensorFlow already runs: its devices are the caller's business
        tf.config.set_visible_devices([], "GPU")  # or it would take the memory that JAX needs
    return tfds


def _read(path: pathlib.Path) -> Splits | None:
    try:
        # np.load leaves a path that is no archive open; it does not own a handle.
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            splits = Splits(*(file[field] for field in _FIELDS))
            return splits if digest(*splits) == str(file["sha256"]) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _write(path: pathlib.Path, splits: Splits) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:  # with the umask's mode, which tempfile's have not
                np.savez(file, sha256=np.array(digest(*splits)), **splits._asdict())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
