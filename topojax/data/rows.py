"""Training inputs that stay on the host as they were given, bytes or files, until they are read.

What is mapped is let go after each reading: a file takes part in the resident memory only with what is read at a time.
"""

import contextlib
import functools
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np

from topojax.data.source import Mapped, Source
from topojax.data.units import Units
from topojax.errors import UserError

BLOCK = 2**24
"""Bytes, as float32, that are read at a time where all rows are."""
TOGETHER = 64
"""Rows that are read from all over a mapped file before it is let go: each may bring two megabytes around it."""


class Given:
    """Some examples of an array, in the units in which it lies there; nothing is copied before it is read.

    Args:
      source: [N, …], in memory, mapped or a `Source`; or other `Given`, of which some are taken.
      index: [n] rows of it; None: all.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    ndim: int
    _source: np.ndarray | Source
    _index: np.ndarray | None

    def __init__(self, source: "np.ndarray | Source | Given", index: np.ndarray | None = None):
        if isinstance(source, Given):
            before = source._index
            source, index = source._source, before if index is None else index if before is None else before[index]
        self._map, self._file = _mapped(source)
        self._source, self._index = source if isinstance(source, Source) else np.asarray(source), index
        self.dtype = source.dtype
        self.shape = (len(source) if index is None else len(index), *source.shape[1:])
        self.ndim = source.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Any) -> np.ndarray:
        """A copy of the rows at a slice or an index, [m, …]."""
        if self._index is not None:
            at = self._index[at]
        if isinstance(self._source, Source):
            return self._source[at]
        self._require_whole()
        if isinstance(at, slice):
            rows = self._source[at].copy()
        elif self._map is None:
            return self._source[at]
        else:
            rows = np.empty((len(at), *self.shape[1:]), self.dtype)
            for start in range(0, len(at), TOGETHER):
                self._require_whole()
                rows[start : start + TOGETHER] = self._source[at[start : start + TOGETHER]]
                self.let_go()
        self.let_go()
        return rows

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows, some at a time."""
        count = max(1, BLOCK // (4 * int(np.prod(self.shape[1:], initial=1))))
        for start in range(0, len(self), count):
            yield self[start : start + count]

    def min(self, axis: int | None = None) -> Any:
        """The least number of all, or of each place in an example (axis 0)."""
        return self._range[0].min() if axis is None else self._range[0]

    def max(self, axis: int | None = None) -> Any:
        """The largest number of all, or of each place in an example (axis 0)."""
        return self._range[1].max() if axis is None else self._range[1]

    @functools.cached_property
    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each place; all is read once."""
        each = [(block.min(axis=0), block.max(axis=0)) for block in self.blocks()]
        return np.min([low for low, _ in each], axis=0), np.max([high for _, high in each], axis=0)

    @property
    def groups(self) -> np.ndarray | None:
        """Where the rows that are read together begin, as in `Source`; of an index that does not decrease."""
        groups = self._source.groups if isinstance(self._source, Source) else None
        if groups is None or self._index is None:
            return groups
        return np.unique(np.searchsorted(self._index, groups))

    @property
    def near(self) -> int:
        """Groups that an order had better stay within."""
        return self._source.near if isinstance(self._source, Source) else 1

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns, where rows are a table's that is not in memory."""
        return self._source.names if isinstance(self._source, Source) else ()

    def let_go(self) -> None:
        """Of what is mapped, all that was read."""
        if self._map is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # not everywhere, and only for memory
                self._map.madvise(mmap.MADV_DONTNEED)

    def _require_whole(self) -> None:
        """Refuse a mapped file that has become shorter: reading beyond its end would end the process without a word."""
        if self._map is None:
            return
        try:
            there = self._map.size()
        except (OSError, ValueError):  # what cannot be asked is read
            return
        if there < len(self._map):
            raise UserError(
                f"{self._file} has become shorter while it was read: bring it back as it was, and start this again"
            )


class Rows:
    """[n, X] in [0, 1], float32 where they are read; `raw` gives them before that.

    Args:
      given: uint8, of any shape of `units`; or float32 [n, X], rows already.
      units: of bytes.
    """

    def __init__(self, given: Given, units: Units):
        self.given, self.units = given, units
        self.shape = (len(given), units.size)
        self.dtype = np.dtype(np.float32)
        self.ndim = 2

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, at: Any) -> np.ndarray:
        rows = self.raw(at)
        return self.units.scaled(rows) if rows.dtype == np.uint8 else rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, in memory."""
        return self[:].astype(dtype or np.float32, copy=False)

    def raw(self, at: Any) -> np.ndarray:
        """Rows as they lie on the host, [m, X], in the type of the source."""
        rows = self.given[at]
        return rows if rows.ndim == 2 else self.units.prepared_bytes(rows)

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows, some at a time."""
        for block in self.given.blocks():
            flat = block if block.ndim == 2 else self.units.prepared_bytes(block)
            yield self.units.scaled(flat) if flat.dtype == np.uint8 else flat

    @property
    def table(self) -> np.ndarray:
        """What each byte becomes, [256] float32; of rows zeros, which nobody reads."""
        every = np.arange(256, dtype=np.uint8)[:, None]
        return self.units.scaled(every)[:, 0] if self.given.dtype == np.uint8 else np.zeros(256, np.float32)


def on_host(given: Given, units: Units) -> Rows:
    """Examples as `Rows`: bytes with one scale as they are, all else scaled when it is read."""
    if given.dtype == np.uint8 and units.low.size == 1:
        return Rows(given, units)
    return Rows(Given(Mapped(given, units.prepared, (len(given), units.size), np.float32)), units)


def blocks(rows: Any) -> Iterator[np.ndarray]:
    """An array whole, or what reads itself by blocks."""
    rows = Given(rows) if isinstance(rows, Source) else rows
    return rows.blocks() if isinstance(rows, Rows | Given) else iter((rows,))


def _mapped(array: Any) -> tuple[mmap.mmap | None, str]:
    """The map of a file that an array is a view of, and the name of the file where it is known."""
    name = ""
    while array is not None:
        if isinstance(array, mmap.mmap):
            return array, name
        name = str(getattr(array, "filename", None) or name)
        array = getattr(array, "base", None)
    return None, ""
