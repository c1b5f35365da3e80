"""Read what `torch.save` has written, without torch and without executing anything that stands in it.

A pickle is a program. It is run by a machine of ours (`pickle_machine`), of which it may ask for seven names, none of
which is what it says: each stands for a function of this module, that checks its arguments and makes a view of the
file's own bytes. Nothing is imported, nothing called by name, and all views together are at most four times the file.
"""

import math
import pathlib
import stat
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from topojax.errors import UserError, shown
from topojax.storage.pickle_machine import Built, Machine

_LARGEST_PROGRAM = 16 << 20
"""Bytes of a pickle, its tensors not among them; the original's has 160 kB after 150 epochs, 2.3 MB after 3,000."""
_FACTOR = 4
"""Bytes of tensors and arrays for each byte of the file: one storage may be seen as several tensors."""
_KINDS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_ORDERS = ("<", ">", "|", "=")
_DIMENSIONS = 8
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
    b"\x93NUMPY": "an array of NumPy's",
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": "of torch.save before 1.6: save it again by a newer torch",
    b"\x80": "a bare pickle, no zip file",
}
"""First bytes → what other files are."""


def load(path: pathlib.Path) -> Any:
    """What was saved, tensors as read-only NumPy arrays.

    Args:
      path: of a zip file, as `torch.save` writes it since 1.6.

    Raises:
      UserError: anything else: no such file, truncated, compressed, of another kind (it is named where it is known), a
        pickle that names something beyond the seven (it is named), a tensor that its bytes do not hold.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no file")
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            programs = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
            if len(programs) != 1:
                raise UserError(f"{path} is no checkpoint: a zip file without a data.pkl, or with several")
            folder = programs[0].removesuffix("data.pkl")
            if members.get(f"{folder}byteorder", 0) > len("little") or (
                f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little"
            ):
                raise UserError(f"{path} was written on a big-endian machine: save it again on another")
            if members[programs[0]] > _LARGEST_PROGRAM:
                size = members[programs[0]]
                raise UserError(f"{path}: a pickle of {size} bytes, at most {_LARGEST_PROGRAM} are read")
            storages = _Storages(archive, folder, members)
            room = _FACTOR * path.stat().st_size
            return Machine(archive.read(programs[0]), _GLOBALS, storages.of, room).run()
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no checkpoint, or a truncated one: {_kind(path)}") from error
    except Exception as error:  # of zipfile and NumPy, which a damaged file may bring to anything
        raise UserError(f"{path} cannot be read: {_one_line(error)}") from error


def _kind(path: pathlib.Path) -> str:
    """What a file is that is no whole zip file."""
    with path.open("rb") as file:
        first = file.read(16)
    if not first:
        return "it is empty"
    return next((words for begins, words in _OTHERS.items() if first.startswith(begins)), "not a whole zip file")


def _members(path: pathlib.Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Name → size of what lies in the archive as it is, uncompressed."""
    found = archive.infolist()
    members = {info.filename: info.file_size for info in found}
    packed = [info.filename for info in found if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise UserError(f"{path}: {shown(packed[0])} is compressed, which torch.save does not do")
    lying = [info.filename for info in found if info.file_size != info.compress_size]
    if lying:
        raise UserError(f"{path}: {shown(lying[0])} claims another size than it has")
    if sum(info.file_size for info in found) > path.stat().st_size or len(members) != len(found):
        raise UserError(f"{path}: its parts are larger than the file, or two have one name")
    return members


class _Storages:
    """The numbers of one file, each storage read once, when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, members: dict[str, int]):
        self._archive, self._folder, self._members = archive, folder, members
        self._read: dict[str, np.ndarray] = {}

    def of(self, pid: Any) -> np.ndarray:
        """A storage: ('storage', FloatStorage, key, device, numbers in it)."""
        if not (type(pid) is tuple and len(pid) == 5 and pid[0] == "storage" and pid[1] is _float_storage):
            raise ValueError("a storage that is not one of float32")
        key, count = pid[2], pid[4]
        if not (type(key) is str and type(count) is int):
            raise TypeError("a storage without a name or a size")
        if key not in self._read:
            size = self._members.get(f"{self._folder}data/{key}")
            if size is None:
                raise ValueError(f"storage {shown(key)} is missing")
            if size != 4 * count:
                raise ValueError(f"storage {shown(key)} should have {4 * count} bytes, it has {size}")
            self._read[key] = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), "<f4")
        return self._read[key]


def _float_storage(*_: Any) -> None:
    raise ValueError("a storage that is made, not referred to")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v2`: a view of a storage."""
    numbers = (offset, *_sizes(shape), *_sizes(strides))
    if not (isinstance(storage, np.ndarray) and storage.ndim == 1 and storage.dtype == np.float32):
        raise ValueError("a tensor without a storage")
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("a tensor of a negative size, offset or stride")
    if 0 in shape:
        return np.zeros(shape, np.float32)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= storage.size or math.prod(shape) > storage.size:
        raise ValueError(f"a tensor of {math.prod(shape)} numbers in a storage of {storage.size}")
    steps = [4 * step for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(shape), steps, writeable=False)


class _Dtype(Built):
    """`numpy.dtype`: of numbers."""

    def __init__(self, kind: Any, *_: Any):
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(
                f"an array of {shown(kind) if isinstance(kind, str) else type(kind).__name__}, not of numbers"
            )
        self.kind, self.order = kind, "<"

    def build(self, state: Any) -> int:
        """Take the order of bytes."""
        if not (type(state) is tuple and len(state) >= 2 and type(state[1]) is str and state[1] in _ORDERS):
            raise ValueError("an array of an unknown type")
        self.order = state[1]
        return 0


def _ndarray(*_: Any) -> None:
    """`numpy.ndarray`, an argument of the next."""
    raise ValueError("an array that is made, not rebuilt")


class _Array(Built):
    """`numpy._core.multiarray._reconstruct`: an array to be, of the bytes that follow; `value` once they have."""

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> int:
        """Become a view of the bytes; how many."""
        if not (type(state) is tuple and len(state) == 5):
            raise ValueError("an array without a shape")
        _, shape, dtype, by_columns, data = state
        if not (isinstance(dtype, _Dtype) and isinstance(data, bytes)):
            raise ValueError("an array whose numbers are not bytes")
        flat = np.frombuffer(data, dtype.order + dtype.kind)
        if math.prod(_sizes(shape)) != flat.size:
            raise ValueError(f"an array of shape {shape} with {flat.size} numbers")
        self.value = flat.reshape(shape, order="F" if by_columns is True else "C")
        return self.value.nbytes


def _sizes(shape: Any) -> tuple[int, ...]:
    if not (isinstance(shape, tuple) and len(shape) <= _DIMENSIONS and all(type(n) is int for n in shape)):
        raise ValueError("an array without a shape")
    return shape


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, which protocol 2 writes bytes with."""
    if not (type(text) is str and type(encoding) is str and encoding == "latin1"):
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


def _ordered_dict(*pairs: Any) -> dict[Any, Any]:
    """`collections.OrderedDict`: empty, filled by the opcodes that follow."""
    if pairs:
        raise ValueError("an OrderedDict that is made of something")
    return {}


_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): _float_storage,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _ndarray,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # NumPy before 2
    ("_codecs", "encode"): _encode,
}


def array(value: Any) -> np.ndarray | None:
    """The array that a part of a loaded file is, or None."""
    if isinstance(value, _Array):
        return value.value
    return value if isinstance(value, np.ndarray) else None


def _one_line(error: Exception) -> str:
    return shown(" ".join((str(error) or type(error).__name__).split()), 200)
