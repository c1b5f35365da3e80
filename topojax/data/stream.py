"""Batches through grain: its global shuffle, its reading threads, and an iterator whose state is in the checkpoint.

The order is a function of (seed, epoch), and another one than that of memory: a shuffle of indices that takes no memory
however many examples there are; or, of files that are unpacked in groups, one from group to group (`windowed`).
"""

import functools
import sys
from typing import Any

import numpy as np

from topojax.data.chunks import Chunk
from topojax.data.feed import Feed
from topojax.data.order import windowed
from topojax.errors import needing
from topojax.types import Array

THREADS = 8
"""That read batches."""
STATE = "next_index"
"""What grain's state of an iterator of batches counts."""


class Stream(Feed):
    """A `Feed` in grain's order, read by grain.

    Raises:
      UserError: grain is not installed.
    """

    def __init__(self, *args: Any, **settings: Any):
        with needing("stream", "config.data.mode = 'stream'"):
            import grain
        super().__init__(*args, **settings)
        groups = self._rows.given.groups
        if groups is None:
            ordered = grain.MapDataset.range(self._number).seed(int(self._seed)).shuffle()
            self._indices = ordered.batch(self._size, drop_remainder=True).repeat()
        else:
            seed, near = int(self._seed), self._rows.given.near
            self._windowed = functools.lru_cache(2)(lambda epoch: windowed(seed, epoch, groups, near))
            self._indices = grain.MapDataset.range(sys.maxsize).map(self._near)
        batches = self._indices.map(self._read)
        options = grain.ReadOptions(num_threads=min(THREADS, self.size), prefetch_buffer_size=self.size)
        self._batches = iter(batches.to_iter_dataset(options))

    def _near(self, batch: int) -> np.ndarray:
        """The positions of a batch, counted from the first epoch's."""
        epoch, step = divmod(int(batch), self.steps)
        return self._windowed(epoch)[step * self._size : (step + 1) * self._size]

    def _read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A batch's examples, and of them the rows of this process as they lie there; in one of grain's threads."""
        return index.astype(np.int32), self._rows.raw(index[self._own])

    def begin(self, key: Array, epoch: int, step: int = 0, at: dict[str, Any] | None = None) -> None:
        """Gather from here on: grain's iterator is set to its state in a checkpoint, or to the batch after so many."""
        self._drop(wait=True)
        self._batches.set_state(at or self.state(epoch, step))
        super().begin(key, epoch, step)

    def state(self, epoch: int, step: int) -> dict[str, Any]:
        """Of the iterator, when so many steps of an epoch have been taken; what waits for the device is not counted."""
        return self._batches.get_state() | {STATE: epoch * self.steps + step}

    def _order(self, epoch: int, start: int) -> np.ndarray:
        first = epoch * self.steps + start
        count = min(self.size, self.steps - start)
        return np.stack([self._indices[at].astype(np.int32) for at in range(first, first + count)])

    def _gathered(self, key: Array, epoch: int, start: int) -> Chunk:
        with self._held():
            count = min(self.size, self.steps - start)
            order, images = zip(*(next(self._batches) for _ in range(count)), strict=True)
            return self._chunk(key, epoch, start, np.stack(order), np.stack(images))


def state_of(feed: Feed | None, epoch: int, step: int) -> dict[str, Any]:
    """What a checkpoint says of an iterator; nothing where the order is a function of the step alone."""
    return {"stream": feed.state(epoch, step)} if isinstance(feed, Stream) else {}
