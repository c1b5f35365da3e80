"""Batches of some steps in a row, gathered on the host: what a device is handed while it trains on the ones before."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from topojax.types import Array, Batch


class Chunk(NamedTuple):
    """S steps' batches; images are bytes, or float32 rows."""

    batches: Batch  # image shape=(S, B, X), label (S, B), partner (S, B, X) where neighbours take part
    probe: Batch  # of the whole run: image shape=(P, X), label (P,)
    number: Array  # shape=(), int32: how many of the S are to be taken
    table: Array  # shape=(256,), float32: what each byte becomes


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
