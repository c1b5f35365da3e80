"""`.npz`, `.npy` and folders of `.npy`: arrays under the names that people give them. Files of `.npy` are mapped, not
read: what is larger than memory can be trained from the host. Pickled objects are refused: they are programs.
"""

import math
import pathlib
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

from topojax.data.raw import LABELS, NO_LABEL, Options, Raw, Split
from topojax.data.readers.on_disk import damaged, require_regular
from topojax.data.unfolding import require_unfolded
from topojax.errors import UserError

KIND = "a file of NumPy's arrays"
INPUTS = ("x", "image", "images", "data", "inputs", "features", "arr_0")
"""What inputs are called, in any case of letters; the first found, alone or with _train and _test about it."""


_FAMILIES = (("", ""), ("", "_train"), ("train_", ""), ("", "train"))
"""What stands before such a name, and after it."""


def knows(folder: pathlib.Path) -> bool:
    """Whether it holds arrays under such names, a file each."""
    keys = {file.stem.lower() for file in folder.glob("*.npy")}
    return any(f"{before}{name}{after}" in keys for name in INPUTS for before, after in _FAMILIES)


def read(path: pathlib.Path, options: Options) -> Raw:
    """x, y; or x_train, y_train and, if there is one, x_test, y_test; labels may be missing, class_names name them."""
    if path.is_dir():
        arrays = {file.stem: _one_of_many(file) for file in sorted(path.glob("*.npy"))}
        return _named(arrays, path, options, "a folder of .npy files", ".npy")
    held = path.stat().st_size
    if path.suffix.lower() == ".npy":
        return Raw(Split(_array(_mapped(path), path), None), None, "a .npy file")
    with zipfile.ZipFile(path) as archive:
        strange = [name for name in archive.namelist() if ".." in pathlib.PurePosixPath(name).parts or name[:1] == "/"]
        if strange:
            raise UserError(f"{path}: holds {strange[0]!r}, a path out of the archive: refused")
        require_unfolded(path, held, unfolded(archive))
    with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
        return _named(file, path, options, "an .npz file")


def _named(file: Mapping[str, np.ndarray], path: pathlib.Path, options: Options, source: str, ending: str = "") -> Raw:
    """Arrays by their names; `ending` makes the names of files of them."""
    keys = {key.lower(): key for key in file}
    for before, after in _FAMILIES:
        found = [name for name in INPUTS if f"{before}{name}{after}" in keys]
        if found:
            break
    else:
        there = ", ".join(file) or "nothing"
        raise UserError(f"{path}: no key x, image, x_train, image_train or the like in it; there are: {there}")
    _one_family(path, keys, before + after)
    names = LABELS if options.label is None else () if options.label == NO_LABEL else (options.label.lower(),)

    def split(inputs: str, before: str, after: str) -> Split | None:
        key = keys.get(f"{before}{inputs}{after}")
        if key is None:
            return None
        labels = [keys[f"{before}{name}{after}"] for name in names if f"{before}{name}{after}" in keys]
        if options.label is not None and names and not labels:
            raise UserError(f"{path}: config.data.label = {options.label!r} is no key of it: {', '.join(file)}")
        label = _array(file[labels[0]], path) if labels else None
        return Split(_array(file[key], path), label, f"{key}{ending}" if ending else "")

    train = split(found[0], before, after)
    test = split(found[0], before.replace("train", "test"), after.replace("train", "test")) if before + after else None
    named = keys.get("class_names")
    classes = None if named is None else tuple(map(str, np.ravel(file[named])))
    assert train is not None
    return Raw(train, test, source, names=classes)


def _one_of_many(path: pathlib.Path) -> np.ndarray:
    """`_mapped`, with the name of the file in what is said of it."""
    require_regular(path)
    try:
        return _mapped(path)
    except (UserError, OSError):
        raise
    except Exception as error:  # whatever its head makes NumPy come across
        raise damaged(path, KIND, error) from error


def _mapped(path: pathlib.Path) -> np.ndarray:
    """The array of a file, mapped where it is of bytes, else read."""
    with path.open("rb") as handle:
        require_unfolded(path, path.stat().st_size, claimed(handle))
        handle.seek(0)
        array = np.load(handle, allow_pickle=False) if not _of_bytes(handle) else None
    return np.load(path, mmap_mode="r", allow_pickle=False) if array is None else array


def _of_bytes(file: IO[bytes]) -> bool:
    """Whether a .npy file is of examples of bytes, by its head; the file goes back to its beginning."""
    shape, kind = _head(file)
    file.seek(0)
    return kind == np.uint8 and len(shape) > 1


def unfolded(archive: zipfile.ZipFile) -> int:
    """Bytes that the arrays of an archive take in memory: by their heads or by its list of members, which is more."""
    total = 0
    for info in archive.infolist():
        with archive.open(info) as member:
            total += max(info.file_size, claimed(member))
    return total


def claimed(file: IO[bytes]) -> int:
    """Bytes that the array of a .npy file takes, by its head; 0 where it has none.

    Args:
      file: at its beginning.
    """
    shape, kind = _head(file)
    return math.prod(shape) * kind.itemsize


def _head(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array of a .npy file; none, where it has none: whoever reads it says what is wrong."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
    except ValueError:
        return (0,), np.dtype(np.float32)
    return shape, kind


def _one_family(path: pathlib.Path, keys: Mapping[str, str], chosen: str) -> None:
    """Refuse arrays that would be left out because they are named in another manner than those found."""
    for before, after in _FAMILIES:
        for split in ("train", "test") if before + after else ("",):
            about = (before.replace("train", split), after.replace("train", split))
            others = [keys[name] for base in (*INPUTS, *LABELS) if (name := f"{about[0]}{base}{about[1]}") in keys]
            if others and before + after != chosen:
                raise UserError(
                    f"{path}: names its arrays in two manners, {', '.join(keys.values())}: x, y or x_train, y_train, "
                    "x_test, y_test"
                )


def _array(array: np.ndarray, path: pathlib.Path) -> np.ndarray:
    if array.dtype.kind not in "biufUS":
        raise UserError(f"{path}: holds an array of {array.dtype}: numbers or texts are wanted")
    return array
