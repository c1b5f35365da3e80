"""The phases of a run: which gates of the protocol are open (report §4, theory 1.11)."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.control.gate import GateState
from topojax.types import Array

PHASES = ("warmup", "coupling", "ramp", "all")
"""Names of the codes of `phase`: recon and vq alone; the window being established; gated terms ramping; all on."""


def phase(warm: ArrayLike, window: GateState) -> Array:
    """Where a run stands in the protocol, as an int32 code of `PHASES`.

    Args:
      warm: bool, shape (): the warm-up is over.
      window: the gate that waits for the coupling window.
    """
    beyond = jnp.where(window.opened, jnp.where(window.ramp >= 1.0, 3, 2), 1)
    return jnp.where(jnp.asarray(warm, bool), beyond, 0).astype(jnp.int32)
