"""What the governor remembers, what it says, and the causes that it gives."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.control.base import typed
from topojax.types import Array

CAUSES = (
    "none",
    "grow",
    "recover",
    "spike",
    "grounding",
    "over_mixing",
    "oversized",
    "barrier",
    "plateau",
    "non_finite",
    "settle",
    "acquit",
    "horizon",
)
"""Names of the int32 indices in `GovernorState.cause` and `Decision.cause`."""


class GovernorState(NamedTuple):
    """State of the governor; every leaf has shape=()."""

    rate: Array  # float32, in [minimum, maximum]: η before caps and schedules
    loss_ema: Array  # float32
    loss_best: Array  # float32, least loss_ema so far
    information_ema: Array  # float32, nats: information that the model keeps of its input
    loss_seen: Array  # bool: loss_ema and loss_best hold a value
    information_seen: Array  # bool: information_ema holds a value
    grounded: Array  # bool: information has reached its target once
    stable: Array  # int32, healthy epochs in a row since the last cut
    unstable: Array  # int32, epochs in a row with spike, oversize or non-finite loss, since the last cut
    plateau: Array  # int32, epochs without a new best since the last cut
    ungrounded: Array  # int32, epochs in a row without grounding or over-mixed
    frozen: Array  # int32, epochs in a row behind the barrier
    failures: Array  # int32, non-finite steps in a row
    failures_total: Array  # int32, non-finite steps
    epoch: Array  # int32, epochs decided
    changes: Array  # int32, changes of the rate
    changed_at: Array  # int32, value of `epoch` at the last change
    cause: Array  # int32, index of the last change's cause


class Decision(NamedTuple):
    """What one update did, for logs; every field has shape=()."""

    cause: Array  # int32, index of this change's cause; 0 if the rate is what it was
    previous: Array  # float32, the rate before
    spike: Array  # bool: the loss stands above its EMA by more than the tolerance
    grounded: Array  # bool: information has reached its target (or is not measured) and nothing is over-mixed
    exhausted: Array  # bool: grounding or barrier has used up its cuts and is still violated: report it


_FLOATS = ("rate", "loss_ema", "loss_best", "information_ema")
_BOOLS = ("loss_seen", "information_seen", "grounded")


def fresh(rate: ArrayLike) -> GovernorState:
    """The state before the first epoch: nothing measured, nothing counted."""
    kinds = dict.fromkeys(_FLOATS, jnp.float32) | dict.fromkeys(_BOOLS, jnp.bool_)
    zeros = {name: typed(0, kinds.get(name, jnp.int32)) for name in GovernorState._fields}
    return GovernorState(**zeros)._replace(rate=typed(rate))


def moving_average(average: Array, value: Array, decay: float, started: Array) -> Array:
    """EMA that starts at its first finite value and skips the others."""
    blended = jnp.where(started, decay * average + (1 - decay) * value, value)
    return jnp.where(jnp.isfinite(value), blended, average)


def in_a_row(counter: Array, holds: Array) -> Array:
    """One more where it holds, 0 where it does not."""
    return jnp.where(holds, counter + 1, 0)
