"""Batches of some steps in a row, gathered on the host: what a device is handed while it trains on the ones before."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from topojax.data.mesh import AXIS, of_all
from topojax.types import Array, Batch


class Chunk(NamedTuple):
    """S steps' batches; images are bytes, or float32 rows."""

    batches: Batch  # image shape=(S, B, X), label (S, B), partner (S, B, X) where neighbours take part
    probe: Batch  # of the whole run: image shape=(P, X), label (P,)
    number: Array  # shape=(), int32: how many of the S are to be taken
    table: Array  # shape=(256,), float32: what each byte becomes


def lying(mesh: Mesh) -> Chunk:
    """Where a chunk lies on the devices of a run, as a prefix of its tree: each has its part of every batch."""
    everywhere: Any = NamedSharding(mesh, PartitionSpec())
    spread: Any = NamedSharding(mesh, PartitionSpec(None, AXIS))
    return Chunk(spread, everywhere, everywhere, everywhere)


def placed(chunk: Chunk, mesh: Mesh | None, size: int) -> Chunk:
    """A chunk on the devices.

    Args:
      chunk: on the host; of a batch, the examples that this process' devices compute.
      mesh: of the run; None: on the first device.
      size: B, examples of a batch.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, chunk)
    where: Any = lying(mesh).batches

    def spread(part: Any) -> Array:
        return jax.make_array_from_process_local_data(where, part, (part.shape[0], size, *part.shape[2:]))

    nothing: Any = None
    whole = jax.tree.map(lambda leaf: of_all(leaf, mesh), chunk._replace(batches=nothing))
    return whole._replace(batches=jax.tree.map(spread, chunk.batches))


def at(chunk: Chunk, step: Array) -> Batch:
    """The batch of one step of a chunk, float32."""
    one = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, step, keepdims=False), chunk.batches)
    return scaled(one, chunk.table)


def scaled(batch: Batch, table: Array) -> Batch:
    """A batch of bytes in [0, 1], float32; one of rows as it is.

    By a table, whose digits are those of `Units.scaled` on any backend: XLA makes a product of a division by a scalar.
    """

    def rows(x: Array) -> Array:
        return x if x.dtype == jnp.float32 else table.at[x.astype(jnp.int32)].get(mode="promise_in_bounds")

    partner = None if batch.partner is None else rows(batch.partner)
    return batch._replace(image=rows(batch.image), partner=partner)
