"""Read what `torch.save` has written, without torch and without executing anything that stands in it.

A pickle is a program. This one may name seven things, none of which is what it says: each name stands for a function of
this module, that checks its arguments and makes a view of the file's own bytes. Nothing is imported, nothing called by
name, and nothing is larger than the file.
"""

import collections
import io
import math
import pathlib
import pickle
import pickletools
import zipfile
from typing import Any

import numpy as np

from topojax.errors import UserError

_LARGEST_PROGRAM = 64 << 20
"""Bytes of a pickle, its tensors not among them; a checkpoint of the original has 160 kB."""
_WRITTEN = """PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
SHORT_BINUNICODE BINBYTES SHORT_BINBYTES EMPTY_DICT EMPTY_LIST EMPTY_TUPLE SETITEM SETITEMS APPEND APPENDS TUPLE TUPLE1
TUPLE2 TUPLE3 BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID"""
_OPCODES = frozenset(_WRITTEN.split())
_KINDS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_DIMENSIONS = 8


def load(path: pathlib.Path) -> Any:
    """What was saved, tensors as read-only NumPy arrays.

    Args:
      path: of a zip file, as `torch.save` writes it since 1.6.

    Raises:
      UserError: anything else: no such file, truncated, compressed, a pickle that names something beyond the seven
        (it is named), a tensor that its bytes do not hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            programs = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
            if len(programs) != 1:
                raise UserError(f"{path} is no checkpoint: a zip file without a data.pkl")
            folder = programs[0].removesuffix("data.pkl")
            if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
                raise UserError(f"{path} was written on a big-endian machine: save it again on another")
            program = archive.read(programs[0])
            _look_through(path, program)
            return _Unpickler(program, archive, folder, members).load()
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no checkpoint, or a truncated one: not a whole zip file") from error
    except Exception as error:  # a pickle may fail in any way that Python has
        raise UserError(f"{path} cannot be read: {_one_line(error)}") from error


def _members(path: pathlib.Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Name → size of what lies in the archive as it is, uncompressed."""
    members = {info.filename: info for info in archive.infolist()}
    packed = [name for name, info in members.items() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise UserError(f"{path}: {packed[0]!r} is compressed, which torch.save does not do")
    if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
        raise UserError(f"{path}: its parts are larger than the file")
    return {name: info.file_size for name, info in members.items()}


def _look_through(path: pathlib.Path, program: bytes) -> None:
    """Refuse a program by what it would do, before any of it is done."""
    if len(program) > _LARGEST_PROGRAM:
        raise UserError(f"{path}: a pickle of {len(program)} bytes, at most {_LARGEST_PROGRAM} are read")
    argument: Any
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name in ("GLOBAL", "INST"):  # STACK_GLOBAL is asked for by `find_class`
            _allowed(*str(argument).split(" ", 1))
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name not in _OPCODES:
            raise UserError(f"{path}: the pickle has the opcode {opcode.name}, which torch.save does not write")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and int(argument) > len(program):
            raise UserError(f"{path}: the pickle asks for {argument} places of memory")


class _Unpickler(pickle.Unpickler):
    """Of one file: names are looked up in a table, tensors are views of its members."""

    def __init__(self, program: bytes, archive: zipfile.ZipFile, folder: str, members: dict[str, int]):
        super().__init__(io.BytesIO(program))
        self._archive, self._folder, self._members = archive, folder, members
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name."""
        return _allowed(module, name)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """A storage: ('storage', FloatStorage, key, device, numbers in it)."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and pid[1] is _float_storage):
            raise ValueError("a storage that is not one of float32")
        key, count = pid[2], pid[4]
        if not (isinstance(key, str) and isinstance(count, int)):
            raise TypeError("a storage without a name or a size")
        if key not in self._storages:
            size = self._members.get(f"{self._folder}data/{key}")
            if size != 4 * count:
                raise ValueError(f"storage {key} should have {4 * count} bytes, it has {size}")
            self._storages[key] = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), "<f4")
        return self._storages[key]


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


class _Dtype:
    """`numpy.dtype`: of numbers."""

    def __init__(self, kind: Any, *_: Any):
        if kind not in _KINDS:
            raise ValueError(f"an array of {kind!r}, not of numbers")
        self.kind, self.order = kind, "<"

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", ">", "|", "=")):
            raise ValueError("an array of an unknown type")
        self.order = state[1]


class _Marker:
    """`numpy.ndarray`, as an argument."""

    def __new__(cls, *_: Any) -> Any:
        """Refuse to be made."""
        raise ValueError("an array that is made, not rebuilt")


class _Array:
    """`numpy._core.multiarray._reconstruct`: an array to be, of the bytes that follow; `value` once they have."""

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        if not (isinstance(dtype, _Dtype) and isinstance(data, bytes)):
            raise ValueError("an array whose numbers are not bytes")
        flat = np.frombuffer(data, dtype.order + dtype.kind)
        if math.prod(_sizes(shape)) != flat.size:
            raise ValueError(f"an array of shape {shape} with {flat.size} numbers")
        self.value = flat.reshape(shape, order="F" if by_columns else "C")


def _sizes(shape: Any) -> tuple[int, ...]:
    if not (isinstance(shape, tuple) and len(shape) <= _DIMENSIONS and all(type(n) is int for n in shape)):
        raise ValueError("an array without a shape")
    return shape


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, which protocol 2 writes bytes with."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): _float_storage,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Marker,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # NumPy before 2
    ("_codecs", "encode"): _encode,
}


def _allowed(module: str, name: str) -> Any:
    if (module, name) not in _GLOBALS:
        raise UserError(f"the pickle names {module}.{name}, which no checkpoint of the original holds: it is not read")
    return _GLOBALS[module, name]


def array(value: Any) -> np.ndarray | None:
    """The array that a part of a loaded file is, or None."""
    if isinstance(value, _Array):
        return value.value
    return value if isinstance(value, np.ndarray) else None


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
