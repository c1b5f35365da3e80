"""Random access to tfrecord files: an index of the lengths that stand before each record."""

import pathlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from topojax.errors import UserError

_HEAD, _AROUND = 12, 16
"""Bytes before a record's contents, a length and its checksum; and all that are not its contents."""


class TfRecords(Sequence[bytes]):
    """The records of tfrecord files by number; their checksums are not looked at.

    Args:
      files: shards, in their order.

    Raises:
      UserError: one is cut off.
    """

    def __init__(self, files: Sequence[pathlib.Path]):
        self._files = files
        each = [_places(file) for file in files]
        self._shard = np.repeat(np.arange(len(files)), [len(places) for places in each])
        self._places = np.concatenate([np.zeros((0, 2), np.int64), *each])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, at: Any) -> Any:
        return self.__getitems__([at])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[bytes]:
        """Several of them, as grain and ArrayRecord ask for them."""
        out = [b""] * len(rows)
        for shard in np.unique(self._shard[list(rows)]):
            with self._files[shard].open("rb") as file:
                for i, row in enumerate(rows):
                    if self._shard[row] == shard:
                        begin, size = self._places[row].tolist()
                        file.seek(begin)
                        out[i] = file.read(size)
        return out


def _places(file: pathlib.Path) -> np.ndarray:
    """[n, 2]: where the contents of each record begin, and their lengths."""
    found, at, end = list[tuple[int, int]](), 0, file.stat().st_size
    with file.open("rb") as opened:
        while at < end:
            head = opened.read(_HEAD)
            size = struct.unpack("<Q", head[:8])[0] if len(head) == _HEAD else end
            if at + _AROUND + size > end:
                raise UserError(f"{file}: cut off in example {len(found)}, or no tfrecord: prepare it again")
            found.append((at + _HEAD, size))
            at = opened.seek(at + _AROUND + size)
    return np.array(found, np.int64).reshape(-1, 2)
