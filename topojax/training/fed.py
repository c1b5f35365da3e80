"""An epoch in chunks that the host hands over: called as an epoch of data on the device is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

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
    of_chunk = numbered._replace(epoch=numbered.chunk)
    compiled = compile_epoch(of_chunk, numbers, state, feed.shapes, described=[described, "chunk"], **how)
    return compiled._replace(run=_in_chunks(compiled, feed.steps))


def _in_chunks(compiled: Epoch, steps: int) -> Callable[[Any, TrainState, Any], tuple[TrainState, Array]]:
    @jax.jit
    def reduced(rows: list[Array]) -> Array:
        return reduce_epoch(compiled.names, jnp.concatenate(rows)[:steps])

    def run(numbers: Any, state: TrainState, feed: Any) -> tuple[TrainState, Array]:
        rows: list[Array] = []
        for chunk in feed.epoch():
            if len(rows) > 1:  # no more chunks on the device than the one at work and the next
                jax.block_until_ready(rows[-2])
            state, more = compiled.run(numbers, state, chunk)
            rows.append(more)
        return state, reduced(rows)

    return run
