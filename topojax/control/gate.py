"""A gate: what has to wait until a condition has held for a while, and then fades in (report §4, theory 1.11)."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.control.base import is_known
from topojax.types import Array


class GateState(NamedTuple):
    """State of one gate; every leaf has shape=()."""

    held: Array  # int32, epochs in a row that the condition has held
    opened: Array  # bool: the gate has opened once
    ramp: Array  # float32, in [0, 1]: what the gated weights are multiplied with


@dataclasses.dataclass(frozen=True)
class Gate:
    """Opens once its condition has held for `hold_epochs` epochs in a row, then ramps from 0 to 1.

      ramp ← min(1, ramp + 1 / ramp_epochs)    while open and the condition holds

    A lost condition holds the ramp where it is and never resets it.

    Attributes:
      hold_epochs: ≥ 0; 0 opens at the first update.
      ramp_epochs: ≥ 1.

    Raises:
      ValueError: a value out of range.
    """

    hold_epochs: int
    ramp_epochs: int

    def __post_init__(self) -> None:
        if is_known(self.hold_epochs) and self.hold_epochs < 0:
            raise ValueError(f"hold_epochs must be >= 0, got {self.hold_epochs}")
        if is_known(self.ramp_epochs) and self.ramp_epochs < 1:
            raise ValueError(f"ramp_epochs must be >= 1, got {self.ramp_epochs}")

    def init(self) -> GateState:
        """Closed."""
        return GateState(jnp.zeros((), jnp.int32), jnp.zeros((), bool), jnp.zeros((), jnp.float32))

    def update(self, state: GateState, condition: ArrayLike, stable: ArrayLike = True) -> GateState:
        """The gate an epoch later.

        Args:
          state: of the last epoch.
          condition: bool, shape ().
          stable: bool, shape (); matters only before the gate has opened: an epoch that is not stable starts the count
            anew.
        """
        condition = jnp.asarray(condition, bool)
        held = jnp.where(condition & stable, state.held + 1, 0)
        opened = state.opened | (held >= self.hold_epochs)
        step = jnp.where(opened & condition, 1.0 / self.ramp_epochs, 0.0)
        return GateState(held, opened, jnp.minimum(state.ramp + step, 1.0).astype(jnp.float32))


gate = Gate
"""A gate of these epochs, in the manner of the other controllers: `gate(5, 20).init()`."""
