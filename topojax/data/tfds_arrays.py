"""Image data sets prepared by tfds, as arrays: found on disk, decoded once, then read from a cache.

TensorFlow takes seconds to import and to decode. A cached copy needs neither it nor tfds; it is keyed by the
source files' names and sizes, and believed only if its own checksum holds.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

from topojax.errors import UserError, needing

_CACHE_FORMAT = 1
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
    """Both official splits of a data set."""

    train_image: np.ndarray  # shape=(n, H, W, C), uint8
    train_label: np.ndarray  # shape=(n,), int32
    test_image: np.ndarray  # shape=(m, H, W, C), uint8
    test_label: np.ndarray  # shape=(m,), int32


def root(data_dir: str | None) -> pathlib.Path:
    """Where tfds keeps data sets: `data_dir`, or by its own rule $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return pathlib.Path(os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def find(name: str, data_dir: str | None) -> pathlib.Path:
    """Directory of the newest prepared version, <data_dir>/<name>/<x.y.z>, found without importing tfds.

    Raises:
      UserError: where there is none, with the command that fetches it.
    """
    place = root(data_dir)
    versions = [
        path.parent
        for path in place.joinpath(name).glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    if not versions:
        raise UserError(f"data set {name} not found in {place}; fetch it with: {_fetch_command(name, place)}")
    return max(versions, key=lambda path: tuple(int(part) for part in path.name.split(".")))


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
    """Cache file of a prepared directory: <name>-<version>-<hash of its files' names and sizes>.npz."""
    listing = sorted((file.name, file.stat().st_size) for file in directory.iterdir() if file.is_file())
    key = hashlib.sha256(json.dumps([_CACHE_FORMAT, listing]).encode()).hexdigest()[:16]
    base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if base.parts[:1] == ("~",):  # nobody's home: no folder, but one that cannot be made
        base = pathlib.Path(os.devnull)
    return base / "topojax" / "data" / f"{directory.parent.name}-{directory.name}-{key}.npz"


def digest(*arrays: np.ndarray) -> str:
    """sha256 of dtypes, shapes and contents, in hexadecimal."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def decode(directory: pathlib.Path) -> Splits:
    """Decode both splits by tfds, from exactly this directory.

    Raises:
      UserError: where TensorFlow is missing, or the files cannot be decoded.
    """
    tfds = _import_tfds()
    try:
        builder = tfds.builder_from_directory(str(directory))
        train, test = tfds.as_numpy(builder.as_dataset(split=["train", "test"], batch_size=-1))
    except Exception as error:  # TensorFlow's errors share no base class that is known before it is imported
        name, place = directory.parent.name, directory.parent.parent
        raise UserError(
            f"cannot decode {directory} ({_first_line(error)}): remove it and fetch it again with: "
            f"{_fetch_command(name, place)}"
        ) from error
    return Splits(train["image"], train["label"].astype(np.int32), test["image"], test["label"].astype(np.int32))


def fetch(name: str, data_dir: str | None) -> pathlib.Path:
    """Download and prepare a data set by tfds; returns its directory, also when it was there before.

    Raises:
      UserError: where TensorFlow or the network is missing, or the download fails.
    """
    place = root(data_dir)
    with contextlib.suppress(UserError):
        return find(name, data_dir)
    url = SOURCES[name].url
    tfds = _import_tfds()
    try:
        # tfds retries for minutes before it gives up; this asks once. Any answer, 404 too, means "reachable".
        with contextlib.suppress(urllib.error.HTTPError):
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
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, sha256=np.array(digest(*splits)), **splits._asdict())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
