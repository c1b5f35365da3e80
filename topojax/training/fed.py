"""An epoch in chunks that the host hands over: called as an epoch of data on the device is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.data.feed import Feed
from topojax.step.metrics import reduce_epoch
from topojax.step.numbered import Numbered
from topojax.step.state import TrainState
from topojax.storage.program_cache import Epoch, compile_epoch
from topojax.types import Array


def compile_fed(numbered: Numbered, numbers: Any, state: Any, feed: Feed, *, described: Any, **how: Any) -> Epoch:
    """Compile the steps of a chunk; what comes out takes a feed where an epoch takes a training split.

    Args:
      numbered: of the run.
      numbers: for their shapes.
      state: for its shapes.
      feed: for those of its chunks.
      described: as of `compile_epoch`.
      how: the rest of it.
    """
    assert numbered.chunk is not None
    of_chunk: Any = numbered._replace(epoch=numbered.chunk)  # type: ignore[arg-type]
    compiled = compile_epoch(of_chunk, numbers, state, feed.shapes, described=[described, "chunk"], **how)
    return compiled._replace(run=Chunked(compiled, feed.steps))


class Chunked:
    """(numbers, state, feed) → (state, metrics) of an epoch, chunk by chunk.

    Attributes:
      taken: metrics of the steps that the next epoch begins after, shape=(steps, metrics); None: it begins anew.
      between: told (state, metrics of the epoch's steps so far) between two chunks; may save them, and may raise.
    """

    def __init__(self, compiled: Epoch, steps: int):
        self._run, self._steps = compiled.run, steps
        self._reduced = jax.jit(lambda rows: reduce_epoch(compiled.names, jnp.concatenate(rows)[:steps]))
        self.taken: np.ndarray | None = None
        self.between: Callable[[TrainState, list[Any]], None] = lambda state, rows: None

    def __call__(self, numbers: Any, state: TrainState, feed: Feed) -> tuple[TrainState, Array]:
        """An epoch, or what is left of it."""
        rows: list[Any] = [] if self.taken is None else [self.taken]
        self.taken = None
        for chunk in feed.epoch():
            if len(rows) > 1:  # no more chunks on the device than the one at work and the next
                jax.block_until_ready(rows[-2])
            state, more = self._run(numbers, state, chunk)
            rows.append(more)
            if sum(map(len, rows)) < self._steps:
                self.between(state, rows)
        return state, self._reduced(rows)
