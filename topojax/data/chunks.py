"""Batches of some steps in a row, gathered on the host: what a device is handed while it trains on the ones before."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from topojax.types import Array, Batch


class Chunk(NamedTuple):
    """S steps' batches; images are bytes, or float32 rows."""

    batches: Batch  # image shape=(S, B, X), label (S, B), partner (S, B, X) where neighbours take part
    probe: Batch  # of the whole run: image shape=(P, X), label (P,)
    count: Array  # shape=(), int32: how many of the S are to be taken
    low: Array  # shape=(), float32: the byte that becomes 0
    width: Array  # shape=(), float32: how many more become 1


def at(chunk: Chunk, step: Array) -> Batch:
    """The batch of one step of a chunk, float32."""
    one = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, step, keepdims=False), chunk.batches)
    return scaled(one, chunk.low, chunk.width)


def scaled(batch: Batch, low: Array, width: Array) -> Batch:
    """A batch of bytes in [0, 1], float32; one of rows as it is.

    (x − low) / width,   the digits of `Units.scaled`: `width` is an argument of the program, for XLA makes a product of
    a division by a constant.
    """

    def rows(x: Array) -> Array:
        return x if x.dtype == jnp.float32 else (x.astype(jnp.float32) - low) / width

    partner = None if batch.partner is None else rows(batch.partner)
    return batch._replace(image=rows(batch.image), partner=partner)
