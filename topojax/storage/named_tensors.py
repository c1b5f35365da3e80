"""A checkpoint of the original as one nested dict, from any of the files that may hold it.

  .pt, .pth       what `torch.save` wrote (`torch_pickle`)
  .npz            NumPy's archive, nothing pickled in it
  .safetensors    the format of that name

The last two are flat: their names are the ways through the nested dict, as `state/atlas/encoder.codebook`,
`optim/atlas/state/3/exp_avg`, `data/X_train`; `config` (and `metrics`, `epoch`) is JSON: in the npz a string under that
name, in safetensors among the metadata.
"""

import json
import math
import pathlib
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from topojax.data.unfolding import require_unfolded
from topojax.errors import UserError, shown
from topojax.storage import torch_pickle

_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
_LONGEST_HEADER = 16 << 20
_JSON = ("config", "metrics", "epoch")
_DEEPEST = 32
"""Levels of a name; those of the original have five."""


def load(path: pathlib.Path) -> dict[str, Any]:
    """The nested dict; arrays are NumPy's.

    Args:
      path: of a file of a known ending.

    Raises:
      UserError: another ending, no such file, one that is damaged or of another kind.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise UserError(f"{path}: a checkpoint ends in one of {', '.join(_READERS)}")
    require_file(path)
    found = reader(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} is no checkpoint of the original: it holds {type(found).__name__}, not a dict")
    return found


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a nested dict as (way through it, array)."""
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        found = torch_pickle.array(value)
        if found is not None:
            yield f"{prefix}{name}", found
        elif isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}/")


def _nested(path: pathlib.Path, flat: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in flat.items():
        *ways, last = name.split("/")
        if len(ways) >= _DEEPEST:
            raise UserError(f"{path}: {shown(name)!r} has {len(ways) + 1} levels, at most {_DEEPEST} are read")
        at = out
        for way in ways:
            at = at.setdefault(way, {})
            if not isinstance(at, dict):
                raise UserError(f"{path}: {shown(name)!r} lies below an array")
        if last in at:
            raise UserError(f"{path}: {shown(name)!r} is an array, and others lie below it")
        at[last] = value
    for name, text in texts.items():
        try:
            value = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: {name!r} is not JSON") from error
        arrays = out.get(name, {})
        if not isinstance(arrays, dict):
            raise UserError(f"{path}: {name!r} is an array and a text")
        out[name] = {**value, **arrays} if isinstance(value, dict) else value
    return out


def _npz(path: pathlib.Path) -> dict[str, Any]:
    found = arrays(path, "checkpoint")
    texts = {name: str(found.pop(name)) for name in _JSON if name in found}
    return _nested(path, found, texts)


def arrays(path: pathlib.Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz, of numbers and texts, nothing pickled.

    Args:
      path: of the archive.
      what: it should be, for what is said.

    Raises:
      UserError: it is no file or no whole archive, unfolds to far more than it is, or holds something else.
    """
    require_file(path)
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            require_unfolded(path, path.stat().st_size, sum(info.file_size for info in archive.infolist()))
            for info in archive.infolist():
                told = shown(info.filename)
                with archive.open(info) as member:
                    kind, shape = _npy_header(member)
                    if math.prod(shape) * kind.itemsize > info.file_size:
                        raise UserError(f"{path}: {told!r} is shorter than its shape says")
                    if kind.kind not in "biufU":
                        raise UserError(f"{path}: {told!r} holds {kind}, not numbers; nothing pickled is read")
                with archive.open(info) as member:
                    value = np.lib.format.read_array(member, allow_pickle=False)
                found[info.filename.removesuffix(".npy")] = value
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no {what}, or a truncated one: not a whole .npz") from error
    except Exception as error:
        raise UserError(f"{path} is no {what}, or a damaged one: {shown(str(error), 200)}") from error
    return found


def require_file(path: pathlib.Path) -> None:
    """Refuse what is no regular file before it is opened: a pipe would be waited for.

    Raises:
      UserError: there is none, or it is something else.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(str(path))} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is no file")


def _npy_header(member: Any) -> tuple[np.dtype, tuple[int, ...]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(member)
    return kind, shape


def _safetensors(path: pathlib.Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 0 < length <= min(size - 8, _LONGEST_HEADER):
                raise UserError(f"{path} is no safetensors file, or a truncated one")
            header = json.loads(file.read(length))
            texts = header.pop("__metadata__", {}) if isinstance(header, dict) else {}
            if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
                raise ValueError("its header is no table of tensors")
            if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
                raise ValueError("its __metadata__ are no texts by their names")
            _require_within(header, size - 8 - length)
            flat = {}
            for name, entry in header.items():
                start, end = entry["data_offsets"]
                file.seek(8 + length + start)
                flat[name] = np.frombuffer(file.read(end - start), _KINDS[entry["dtype"]]).reshape(entry["shape"])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is a damaged safetensors file: {shown(str(error), 200)}") from error
    return _nested(path, flat, {name: text for name, text in texts.items() if name in _JSON})


def _require_within(header: Mapping[str, Any], held: int) -> None:
    """Every tensor lies within the `held` bytes after the header, and all together claim no more than those."""
    claimed = 0
    for name, entry in header.items():
        if not (isinstance(entry.get("dtype"), str) and entry["dtype"] in _KINDS):
            told = f"{name} holds {entry.get('dtype')}"
            raise ValueError(f"{told}, not one of {', '.join(_KINDS)}")
        if not all(isinstance(entry.get(field), list) for field in ("data_offsets", "shape")):
            raise ValueError(f"{name} has no shape or no place in the file")
        start, end = entry["data_offsets"]
        sizes = (start, end, *entry["shape"])
        if not all(type(number) is int and number >= 0 for number in sizes):
            raise ValueError(f"{name} has an offset or a size that is no number")
        if (
            not start <= end <= held
            or math.prod(entry["shape"]) * np.dtype(_KINDS[entry["dtype"]]).itemsize != end - start
        ):
            raise ValueError(f"{name} lies outside the file, or has another size than its shape says")
        claimed += end - start
    if claimed > held:
        raise ValueError("its tensors claim more bytes than the file has")


_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    ".pt": torch_pickle.load,
    ".pth": torch_pickle.load,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
