"""A column of Parquet files as a source: row groups are unpacked as they are asked for, and some of them kept."""

import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from topojax.data.raw import Options
from topojax.data.readers.arrow_cells import is_image, is_list, is_number, values
from topojax.data.readers.parquet import opened, unpacked
from topojax.data.source import Source
from topojax.errors import UserError

NEAR = 2**27
"""Bytes of the row groups among which examples are mixed; twice as many are kept."""


class Column(Source):
    """One column, [N] or [N, …].

    Args:
      files: shards, in their order.
      schema: that they agree on.
      name: of the column.
      options: `resize` of images.
      where: what messages call the files.

    Raises:
      UserError: it holds no numbers and no images.
    """

    def __init__(self, files: Sequence[pathlib.Path], schema: Any, name: str, options: Options, where: str):
        kind = schema.field(name).type
        if not (is_image(kind) or is_list(kind) or is_number(kind)):
            raise UserError(
                f"{where}: column {name!r} is {kind}, and a stream has numbers and images: config.data.columns names "
                "those to read, config.data.mode=host reads texts"
            )
        self._name, self._options, self._where = name, options, f"{where}: {name!r}"
        self._single = bool(is_number(kind))
        self._lock, self._held = threading.Lock(), dict[int, Any]()
        self._parts, counts, most = list[tuple[pathlib.Path, int]](), list[int](), 1
        for file in files:
            with opened(file) as one:
                for number in range(one.metadata.num_row_groups):
                    about = one.metadata.row_group(number)
                    if about.num_rows:
                        self._parts.append((file, number))
                        counts.append(about.num_rows)
                        most = max(most, _bytes(about, name))
        self.groups = np.cumsum([0, *counts])
        self.near = max(1, NEAR // most)
        self.shape, self.dtype = (int(self.groups[-1]),), np.dtype(np.float64)
        if self._parts and not self._single:
            first = self._values(self._group(0).slice(0, 1), np.zeros(1, int))
            self.shape, self.dtype = (*self.shape, *first.shape[1:]), first.dtype

    def take(self, rows: np.ndarray) -> np.ndarray:
        """[m, …], a row group after the other."""
        assert self.groups is not None
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        group = np.searchsorted(self.groups, rows, side="right") - 1
        for number in np.unique(group):
            at = np.flatnonzero(group == number)
            cells = self._group(number).take(rows[at] - self.groups[number])
            out[at] = self._fitting(self._values(cells, rows[at]), rows[at])
        return out

    def _values(self, cells: Any, rows: np.ndarray) -> np.ndarray:
        found = values(cells, self._where, self._options, rows.tolist())
        return found.astype(np.float64) if self._single else found

    def _fitting(self, found: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """In the shape of the first example, grey pictures among coloured ones in three channels."""
        want = self.shape[1:]
        if found.shape[1:] == want:
            return found
        if found.ndim == 4 and found.shape[1:] == (*want[:2], 1):
            return np.repeat(found, want[2], axis=3)
        a, b = list(found.shape[1:]), list(want)
        raise UserError(f"{self._where}: among rows {rows[0]} and on are examples of shape {a}, that of row 0 has {b}")

    def _group(self, number: int) -> Any:
        """Cells of a row group, pyarrow's; the ones asked for last are kept."""
        with self._lock:
            if number in self._held:
                self._held[number] = self._held.pop(number)
            else:
                while len(self._held) >= 2 * self.near:
                    del self._held[next(iter(self._held))]
                file, group = self._parts[number]
                self._held[number] = unpacked(file, [self._name], group).column(0).combine_chunks()
            return self._held[number]


def _bytes(group: Any, name: str) -> int:
    """That a column of a row group takes up, by its head."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == name.split(".")[0])
