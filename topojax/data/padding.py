"""Any number of rows in batches of one shape: one compiled program serves them all."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

BATCH_SIZE = 512
"""Rows in a batch of everything that is not training."""
SIZES = (1, 32, BATCH_SIZE)
"""Rows in a batch where examples are asked about one by one or many at a time."""


def padded_batches(function: Callable[[Any], Any], rows: Any, size: int) -> Iterator[Any]:
    """What a function says of rows, batch by batch, on the host; the last one is padded and the padding dropped.

    The last row pads: a solver that iterates until all of a batch are done sees no row that is not of the data.

    Args:
      function: tree of `size` rows → tree of `size` rows, each of its own row alone.
      rows: tree of arrays, n ≥ 0 rows each; without any, one batch of zeros is run for the shapes.
      size: rows in a batch, ≥ 1.

    Yields:
      Trees of NumPy arrays, at most `size` rows each, n in all.
    """
    n = len(jax.tree.leaves(rows)[0])
    if not n:
        rows = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape[1:]), leaf.dtype), rows)
    for start in range(0, max(n, 1), size):
        index = np.clip(np.arange(start, start + size), 0, max(n - 1, 0))
        out = jax.device_get(function(jax.tree.map(lambda leaf, index=index: leaf[index], rows)))
        yield jax.tree.map(lambda leaf, left=n - start: leaf[:left], out)


def served(function: Callable[[Any], Any], rows: Any) -> Any:
    """What a compiled function says of all rows, in the fewest batches of `SIZES`: one row does not wait for 512.

    Args:
      function: tree of rows → tree of as many rows, each of its own row alone; compiled anew for every size.
      rows: tree of arrays, n ≥ 0 rows each.
    """
    n = len(jax.tree.leaves(rows)[0])
    size = next((size for size in SIZES if n <= size), SIZES[-1])
    if n == size:
        return jax.device_get(function(rows))
    return in_batches(function, rows, size)


def in_batches(function: Callable[[Any], Any], rows: Any, size: int = BATCH_SIZE) -> Any:
    """What a function says of all rows: `padded_batches`, put together again."""
    parts = list(padded_batches(function, rows, size))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
