"""Former layouts of the training state: leaves that are gone or came, so that older checkpoints restore."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.control.ending import EndingState
from topojax.types import Array

GONE = frozenset({"control.coupling.steps"})
"""Leaves that former layouts hold: read, checked with the rest, and dropped."""
ADDED: dict[str, float] = {
    **dict.fromkeys((f"control.ending.{field}" for field in EndingState._fields), 0),
    "control.governor.grounded": 1,
    "control.sums.progress": 0,
}
"""Leaves that former layouts lack → what every entry of theirs starts from."""


_AVERAGED = re.compile(r"(baselines\.\w+)\.average\.(.*)")


def source_of(name: str) -> str | None:
    """The leaf that one which former layouts lack begins as a copy of: a baseline's average, of its parameters."""
    match = _AVERAGED.fullmatch(name)
    return f"{match[1]}.params.{match[2]}" if match else None


def differences(saved: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """What keeps a checkpoint from being read as this state, a line each: leaves as `checkpoint.describe` has them."""
    names = [*wanted, *(name for name in saved if name not in wanted)]
    return [
        f"{name}: saved {saved.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}"
        for name in names
        if saved.get(name) != wanted.get(name)
        and not (name in GONE and name not in wanted)
        and not (name in ADDED and name not in saved)
        and not (name not in saved and source_of(name) in saved)
    ]


def shape_of(described: str) -> jax.ShapeDtypeStruct:
    """A leaf from its description, 'float32[2, 3]'; only of a kind of number."""
    dtype, sizes = re.fullmatch(r"(\w+)\[([\d, ]*)\]", described).groups()  # type: ignore[union-attr]
    return jax.ShapeDtypeStruct(tuple(int(size) for size in sizes.split(",") if size.strip()), np.dtype(dtype))


def begun(name: str, leaf: Any, saved: Mapping[str, Array]) -> Array:
    """A leaf that a former layout lacks, as a run of it would have begun."""
    source = source_of(name)
    if source is not None and source in saved:
        return jnp.copy(saved[source])
    return jnp.full(leaf.shape, ADDED.get(name, 0), leaf.dtype)
