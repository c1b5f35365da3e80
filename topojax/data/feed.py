"""Batches from the host: gathered chunk by chunk in the order of (seed, epoch), by a thread, while the device works."""

import collections
import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from topojax.data.chunks import Chunk, lying, placed
from topojax.data.divided import columns
from topojax.data.neighbours import choices
from topojax.data.order import batch_indices, probe_indices
from topojax.data.rows import Rows
from topojax.types import Array, Batch

BYTES = 2**25
"""Of a chunk, about; at least one step's."""
AHEAD = 2
"""Chunks that wait for the device."""


class Feed:
    """The chunks of a run's epochs.

    Args:
      train: the training split, its images `Rows`.
      seed: of the run.
      batch_size: examples a step.
      probe_size: of the probe batch.
      pairs: whether each example comes with a neighbour of its.
      mesh: of the devices that share a batch; a process gathers what its own compute.
      held: what the thread works within: JAX's switches are a thread's own.
    """

    def __init__(
        self,
        train: Batch,
        *,
        seed: int,
        batch_size: int,
        probe_size: int,
        pairs: bool = False,
        mesh: Mesh | None = None,
        held: Callable[[], Any] = contextlib.nullcontext,
    ):
        self._rows, self._label = cast(Rows, train.image), np.asarray(train.label)
        self._neighbours = np.asarray(train.neighbours) if pairs and train.neighbours is not None else None
        self._seed, self._size, self._held = np.int32(seed), batch_size, held
        self._mesh, self._own = mesh, columns(batch_size, mesh)
        self._number = len(self._label)
        self.steps = self._number // batch_size
        self._table = self._rows.table
        with held():
            probe = np.asarray(probe_indices(self._seed, self._number, probe_size))
            self._order_of = jax.jit(lambda epoch: batch_indices(self._seed, epoch, self._number, self._size))
        self._probe = Batch(self._rows.raw(probe), self._label[probe])  # type: ignore[arg-type]
        each = self._probe.image[:1].nbytes * batch_size * (1 if self._neighbours is None else 2)
        self.size = min(self.steps, max(1, BYTES // each))
        self._pool = futures.ThreadPoolExecutor(1, "topojax-feed")
        self._waiting: collections.deque[futures.Future] = collections.deque()
        self._orders: dict[int, np.ndarray] = {}  # of the epoch at hand

    @property
    def shapes(self) -> Chunk:
        """What a chunk is made of, without values; with a mesh, where it lies."""
        batch, x = (self.size, self._size), self._rows.shape[1]
        image = jax.ShapeDtypeStruct((*batch, x), self._probe.image.dtype)
        batches: Any = Batch(image, jax.ShapeDtypeStruct(batch, jnp.int32))  # type: ignore[arg-type]
        if self._neighbours is not None:
            batches = batches._replace(partner=image)
        table = jax.ShapeDtypeStruct((256,), jnp.float32)
        probe = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._probe)
        chunk = Chunk(batches, probe, jax.ShapeDtypeStruct((), jnp.int32), table)  # type: ignore[arg-type]
        if self._mesh is None:
            return chunk
        where = jax.tree.broadcast(lying(self._mesh), chunk)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), chunk, where)

    def begin(self, key: Array, epoch: int, step: int = 0, at: dict[str, Any] | None = None) -> None:
        """Gather from here on.

        Args:
          key: of the training state.
          epoch: the next one, counted from 0.
          step: of it, that it begins at.
          at: what a checkpoint says of an iterator (`stream.state_of`); an order by the step alone has none.
        """
        self._drop()
        self._key, self._next, self._first = key, (epoch, step), step
        for _ in range(AHEAD):
            self._submit()

    def epoch(self) -> Iterator[Chunk]:
        """The chunks of the next epoch, or of what is left of the first one, on the device."""
        first, self._first = self._first, 0
        for _ in range(first, self.steps, self.size):
            chunk = self._waiting.popleft().result()
            self._submit()
            yield chunk

    def again(self, key: Array, epoch: int) -> Iterator[Chunk]:
        """The chunks of any epoch, gathered as they are asked for, whole on the first device."""
        for start in range(0, self.steps, self.size):
            with self._held():
                order = self._order(epoch, start)
                yield self._chunk(key, epoch, start, order, self._raw(order), whole=True)

    def close(self) -> None:
        """Stop gathering."""
        self._drop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _drop(self, *, wait: bool = False) -> None:
        for future in self._waiting:
            future.cancel()
        if wait:
            futures.wait(self._waiting)
        self._waiting.clear()

    def _submit(self) -> None:
        epoch, start = self._next
        self._waiting.append(self._pool.submit(self._gathered, self._key, epoch, start))
        following = start + self.size
        self._next = (epoch, following) if following < self.steps else (epoch + 1, 0)

    def _gathered(self, key: Array, epoch: int, start: int) -> Chunk:
        """A chunk on the device; what is missing from the last one of an epoch is its last batch again."""
        with self._held():
            order = self._order(epoch, start)
            return self._chunk(key, epoch, start, order, self._raw(order[:, self._own]))

    def _order(self, epoch: int, start: int) -> np.ndarray:
        """The examples of the steps of a chunk, [≤ S, B]."""
        order = self._orders.get(epoch)
        if order is None:
            order = np.asarray(self._order_of(np.int32(epoch)))
            self._orders = {epoch: order}
        return order[start : start + self.size]

    def _chunk(
        self, key: Array, epoch: int, start: int, order: np.ndarray, images: np.ndarray, *, whole: bool = False
    ) -> Chunk:
        """A chunk of steps that are `start` and on of an epoch.

        Args:
          key: of the training state.
          epoch: counted from 0.
          start: the first of the steps.
          order: [≤ S, B], their examples.
          images: [≤ S, b, X], of them the rows of this process.
          whole: all rows are, on the first device.
        """
        own = slice(None) if whole else self._own
        count = len(order)
        if count < self.size:
            left = [(0, self.size - count), (0, 0)]
            order, images = np.pad(order, left, mode="edge"), np.pad(images, [*left, (0, 0)], mode="edge")
        batches = Batch(images, self._label[order[:, own]])  # type: ignore[arg-type]
        if self._neighbours is not None:
            steps = epoch * self.steps + start + np.arange(self.size)
            count_of = self._neighbours.shape[1]
            choice = np.asarray(_choices(key, jnp.asarray(steps, jnp.int32), self._size, count_of))
            near = self._neighbours[order[:, own], choice[:, own]]
            batches = batches._replace(partner=self._raw(near))  # type: ignore[arg-type]
        chunk = Chunk(batches, self._probe, np.int32(count), self._table)  # type: ignore[arg-type]
        return placed(chunk, None if whole else self._mesh, self._size)

    def _raw(self, index: np.ndarray) -> np.ndarray:
        return self._rows.raw(index.reshape(-1)).reshape(*index.shape, -1)


def _choices_one_by_one(key: Array, steps: Array, size: int, count: int) -> Array:
    """`choices` of some steps: a draw mapped over keys is another one with some kinds of them."""
    return jax.lax.map(lambda step: choices(key, step, size, count), steps)


_choices = jax.jit(_choices_one_by_one, static_argnums=(2, 3))
