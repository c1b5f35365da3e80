"""The rows of a bank as vectors: a column for each field, and where each row's weights lie. Nothing moves here."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.control.base import Gain, is_known
from topojax.control.rows import Contract
from topojax.types import Array

MOVED = ("pid", "dual")
"""Mechanisms that a contract's error moves."""


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """n weights of a few rows, row by row; every array is static, of shape (n,) unless it says otherwise.

    Attributes:
      rows: the contracts, in the order of the vectors.
      slices: name → slice of the vectors.
      target: float32, in the signals' units.
      unit: float32, size of the target's unit.
      by_target: bool: errors are divided by the target, not by its unit.
      sign: float32, +1 where the weight lowers the signal.
      adaptive: bool: the weight is moved at all.
      minimum, maximum: float32, bounds of the weight.
      release: float32, log-weight per epoch and unit of slack; 0 of equalities and of what is not moved by its error.
      warming: bool: a warm-up sets the target.
      equal: bool: a deviation to either side is a violation.
      ratio: float32, of a warm-up's target to the average.
      mean: shape=(rows, n), float32: takes the mean over each row.
    """

    rows: tuple[Contract, ...]
    slices: dict[str, slice]
    target: Gain
    unit: Gain
    by_target: Gain
    sign: Gain
    adaptive: Gain
    minimum: Gain
    maximum: Gain
    release: Gain
    warming: Gain
    equal: Gain
    ratio: Gain
    mean: Gain

    def by_gate(self, values: Mapping[str, Array], dtype: Any) -> Array:
        """A value of every gate → of every weight behind it."""
        return join([jnp.full((row.size,), values[row.gate]) for row in self.rows], dtype)

    def by_row(self, values: Array) -> Array:
        """shape=(rows,): mean over each row's weights; NaN stays in its own row."""
        finite = jnp.isfinite(values)
        return jnp.where(self.mean @ finite > 1 - 1e-6, self.mean @ jnp.where(finite, values, 0.0), jnp.nan)

    def read(self, signals: Mapping[str, Array], field: str) -> Array:
        """The signals that rows name in `field`, one number a weight: NaN where there is none."""
        return jax.lax.stop_gradient(join([_signal(signals.get(getattr(row, field)), row) for row in self.rows]))


def columns(rows: Sequence[Contract], units: Mapping[str, float]) -> Columns:
    """The columns of these rows.

    Args:
      rows: contracts, of different names.
      units: unit → its size.
    """
    rows = tuple(rows)
    sizes = np.array([row.size for row in rows], int)
    starts = np.cumsum([0, *sizes])
    identity = np.eye(len(sizes), dtype=np.float32)

    def column(value: Callable[[Contract], Any], dtype: Any) -> Gain:
        return repeated([value(row) for row in rows], rows).astype(dtype)

    return Columns(
        rows=rows,
        slices={row.name: slice(int(start), int(start) + row.size) for row, start in zip(rows, starts, strict=False)},
        target=column(lambda row: row.target * units[row.unit], np.float32),
        unit=column(lambda row: units[row.unit], np.float32),
        by_target=column(lambda row: row.mechanism != "pid" or units[row.unit] == 1, bool),
        sign=column(lambda row: row.sign, np.float32),
        adaptive=column(lambda row: row.adaptive and row.mechanism != "constant", bool),
        minimum=column(lambda row: row.minimum, np.float32),
        maximum=column(lambda row: row.maximum, np.float32),
        release=column(lambda row: row.release if row.relation != "=" and row.mechanism in MOVED else 0.0, np.float32),
        warming=column(lambda row: row.target_rule == "warmup", bool),
        equal=column(lambda row: row.relation == "=", bool),
        ratio=column(lambda row: row.ratio, np.float32),
        mean=np.repeat(identity / sizes[:, None].astype(np.float32), sizes, axis=1),
    )


def repeated(values: Sequence[Any], rows: Sequence[Contract]) -> Gain:
    """A value of each row, repeated over the row's weights; traced if one of them is."""
    sizes = np.array([row.size for row in rows], int)
    if all(is_known(value) for value in values):
        return np.repeat(np.asarray(values), sizes)
    parts = [jax.lax.broadcast(jnp.asarray(value), (int(size),)) for value, size in zip(values, sizes, strict=True)]
    return jax.lax.concatenate(jax.tree.map(lambda part: part.astype(jnp.result_type(*parts)), parts), 0)


def join(parts: Sequence[Array], dtype: Any = jnp.float32) -> Array:
    """Vectors end to end; a bank may have no row at all."""
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def _signal(value: Array | None, row: Contract) -> Array:
    """A signal as a row reads it, shape=(row.size,)."""
    if value is None:
        return jnp.full((row.size,), jnp.nan, jnp.float32)
    value = jnp.mean(value) if row.size == 1 else value.reshape(-1)
    return jnp.broadcast_to(value.astype(jnp.float32), (row.size,))
