"""Phases and gates: when regularisers, jump and invariances may start (report §4, theory 1.11)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.types import Array


class GateState(NamedTuple):
    """State of one gate; every leaf has shape=()."""

    held: Array  # int32, epochs in a row that the condition has held
    opened: Array  # bool: the gate has opened once
    ramp: Array  # float32, in [0, 1]: what the gated weights are multiplied with


class Gate(NamedTuple):
    """`init() -> GateState`, `update(state, condition, stable=True) -> GateState`, once an epoch."""

    init: Callable[[], GateState]
    update: Callable[..., GateState]


def gate(hold_epochs: int, ramp_epochs: int) -> Gate:
    """Opens once its condition has held for `hold_epochs` epochs in a row, then ramps from 0 to 1.

      ramp ← min(1, ramp + 1 / ramp_epochs)    while open and the condition holds

    A lost condition holds the ramp where it is and never resets it. `stable` matters only before the gate has opened:
    an epoch that is not stable starts the count anew.

    Args:
      hold_epochs: ≥ 0; 0 opens at the first update.
      ramp_epochs: ≥ 1.

    Raises:
      ValueError: a value out of range.
    """
    if hold_epochs < 0:
        raise ValueError(f"hold_epochs must be >= 0, got {hold_epochs}")
    if ramp_epochs < 1:
        raise ValueError(f"ramp_epochs must be >= 1, got {ramp_epochs}")

    def init() -> GateState:
        return GateState(jnp.zeros((), jnp.int32), jnp.zeros((), bool), jnp.zeros((), jnp.float32))

    def update(state: GateState, condition: ArrayLike, stable: ArrayLike = True) -> GateState:
        condition = jnp.asarray(condition, bool)
        held = jnp.where(condition & stable, state.held + 1, 0)
        opened = state.opened | (held >= hold_epochs)
        step = jnp.where(opened & condition, 1.0 / ramp_epochs, 0.0)
        return GateState(held, opened, jnp.minimum(state.ramp + step, 1.0).astype(jnp.float32))

    return Gate(init, update)


PHASES = ("warmup", "coupling", "ramp", "all")
"""Names of the codes of `phase`: recon and vq alone; the window being established; gated terms ramping; all on."""


def phase(warm: ArrayLike, gate: GateState) -> Array:
    """Where a run stands in the protocol of report §4, as an int32 code of `PHASES`.

    Args:
      warm: the warm-up is over.
      gate: of the coupling window.
    """
    beyond = jnp.where(gate.opened, jnp.where(gate.ramp >= 1.0, 3, 2), 1)
    return jnp.where(jnp.asarray(warm, bool), beyond, 0).astype(jnp.int32)
