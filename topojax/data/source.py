"""Examples that are read where they lie: what every format that streams brings, and a function of it."""

from collections.abc import Callable
from typing import Any

import numpy as np


class Source:
    """Examples in files, of which `take` brings some into memory.

    Attributes:
      shape: (N, …).
      dtype: of what is read.
      groups: [G + 1] increasing, the first row of each group that the format unpacks as a whole, and N at the end; None
        where any row is read alone.
      near: groups that may lie unpacked in memory at a time, and that an order had better stay within.
      names: of the numbers of a row, where it is one of a table.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    groups: np.ndarray | None = None
    near: int = 1
    names: tuple[str, ...] = ()

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The examples [m, …] at rows [m], in their order; may be called by several threads at a time.

        Raises:
          UserError: a file that changed or is damaged, or an example of another shape than the first.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Axes of all examples together."""
        return len(self.shape)

    def __getitem__(self, at: Any) -> Any:
        """Examples at a slice, an index or a row, as of an array; `[:, i]` is another source."""
        if isinstance(at, tuple):
            place = at[1]
            return Mapped(self, lambda rows: rows[:, place], self.shape[:1], self.dtype)
        rows = np.arange(len(self))[at]
        return self.take(rows) if rows.ndim else self.take(rows[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them, in memory."""
        return self[:].astype(dtype or self.dtype, copy=False)


class Mapped(Source):
    """A function of another source's examples.

    Args:
      of: a `Source`, or what has its attributes and is read by index.
      function: examples [m, …] → [m, …].
      shape, dtype: of all that comes of it.
    """

    def __init__(self, of: Any, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.groups, self.near = of.groups, of.near
        self._of, self._function = of, function

    def take(self, rows: np.ndarray) -> np.ndarray:
        """`function` of the other's."""
        return self._function(self._of[rows])


class Joined(Source):
    """Columns of single numbers side by side, as a table's rows.

    Args:
      columns: name → a source of shape (N,); all have the same groups.
    """

    def __init__(self, columns: dict[str, Any]):
        first = next(iter(columns.values()))
        self.names, self._columns = tuple(columns), tuple(columns.values())
        self.shape, self.dtype = (len(first), len(columns)), np.dtype(np.float64)
        self.groups, self.near = first.groups, min(column.near for column in self._columns)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """[m, columns] float64."""
        return np.stack([column.take(rows) for column in self._columns], axis=1).astype(np.float64)


def flat(images: Any) -> Any:
    """Examples [n, …] as rows [n, X], of an array or of a source."""
    if not isinstance(images, Source):
        return images.reshape(len(images), int(np.prod(images.shape[1:])))
    size = int(np.prod(images.shape[1:]))
    return Mapped(images, lambda some: some.reshape(len(some), size), (len(images), size), images.dtype)
