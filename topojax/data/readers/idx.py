"""A folder of IDX files, as MNIST and its family come: *-images-idx3-ubyte and *-labels-idx1-ubyte, also gzipped.

IDX: two zero bytes, the type, the number of axes; each axis as a big-endian uint32; then the numbers, big-endian.
"""

import gzip
import io
import pathlib
import re
import zlib

import numpy as np

from topojax.data import unfolding
from topojax.data.raw import NO_LABEL, Options, Raw, Split
from topojax.data.readers.on_disk import damaged
from topojax.errors import UserError

KIND = "IDX files"
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"(?P<split>.*?)[-._]?(?P<what>images|labels)[-.]idx\d[-.]u?byte(\.gz)?", re.IGNORECASE)
_TEST = ("t10k", "test")


def knows(folder: pathlib.Path) -> bool:
    """Whether it holds images in IDX."""
    return any(found["what"].lower() == "images" for found in map(_NAME.fullmatch, _names(folder)) if found)


def read(folder: pathlib.Path, options: Options) -> Raw:
    """The pairs of files: t10k or test is the test split, any other the training split."""
    splits: dict[bool, dict[str, pathlib.Path]] = {False: {}, True: {}}
    for name in _names(folder):
        found = _NAME.fullmatch(name)
        if found:
            splits[found["split"].lower() in _TEST].setdefault(found["what"].lower(), folder / name)
    if "images" not in splits[False]:
        raise UserError(f"{folder}: images of a test split, but none to train on")
    test = _split(splits[True], options) if "images" in splits[True] else None
    return Raw(_split(splits[False], options), test, "IDX files", pictures=True)


def parse(data: bytes, where: str) -> np.ndarray:
    """The array of an IDX file.

    Raises:
      UserError: no IDX, or cut off.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES or not data[3]:
        raise UserError(f"{where}: not an IDX file")
    head = 4 + 4 * data[3]
    if len(data) < head:
        raise UserError(f"{where}: cut off within its head")
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, head, 4))
    kind = np.dtype(_TYPES[data[2]])
    wanted = kind.itemsize
    for size in shape:
        wanted *= size
    if len(data) - head != wanted:
        raise UserError(f"{where}: {len(data) - head} bytes of numbers, its head says {'×'.join(map(str, shape))}")
    return np.frombuffer(data, kind, offset=head).reshape(shape).astype(kind.newbyteorder("="))


def _split(files: dict[str, pathlib.Path], options: Options) -> Split:
    label = files.get("labels") if options.label != NO_LABEL else None
    return Split(_load(files["images"]), None if label is None else _load(label), files["images"].name)


def _load(path: pathlib.Path) -> np.ndarray:
    data = path.read_bytes()
    return parse(_unpacked(data, path) if data[:2] == b"\x1f\x8b" else data, str(path))


def _unpacked(data: bytes, path: pathlib.Path) -> bytes:
    """What gzip packed, up to what a file may unfold to: its own word about that is not asked."""
    most = unfolding.LARGEST_FACTOR * len(data) + unfolding.UNFOLDED
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            found = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:  # cut off, or other bytes than were packed
        raise damaged(path, KIND, error) from error
    unfolding.require_unfolded(path, len(data), len(found))
    return found


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.is_file())
