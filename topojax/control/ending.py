"""When a run is over: it ends where twice the effort would gain too little, and its rate falls to the end by itself.

  gain      g = (S − F) / log₂(t_F / t_S)      what doubling the epochs gains, in the unit of the loss
  settled   g < least gain, `patience` epochs in a row
  decline   over the next share · t epochs the rate falls linearly, to `floor` of itself

S and F are averages over the whole past, of weights s^2 and s^14 in the epoch s: their centres lie at t_S = ¾ t and
t_F = 15/16 t, whatever t is. Why by doublings: losses fall as powers of the effort, so that a gain for an epoch tells
how long a run is already, and a gain for a doubling tells whether to go on. A run that is told its length declines in
time for it.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.control.base import checked, require_positive, typed
from topojax.control.governor_state import in_a_row
from topojax.types import Array

ENDINGS = ("going", "settled", "horizon")
"""Names of the codes of `EndingState.cause`."""
SETTLED, HORIZON = 1, 2
NEVER = 2**31 - 1
"""As a limit: there is none."""
_SLOW, _FAST = 2.0, 14.0
_DOUBLINGS = math.log2(((_FAST + 1) / (_FAST + 2)) / ((_SLOW + 1) / (_SLOW + 2)))


class EndingState(NamedTuple):
    """State of an `Ending`; every field has shape=()."""

    epoch: Array  # int32, epochs closed
    seen: Array  # int32, epochs whose loss was finite
    slow: Array  # float32, S
    fast: Array  # float32, F
    idle: Array  # int32, epochs in a row that gained too little
    began: Array  # int32, epochs closed when the decline began; 0: not yet
    cause: Array  # int32, index into ENDINGS
    last: Array  # int32, the epoch that ends the run; 0: not known


@dataclasses.dataclass(frozen=True, eq=False)
class Ending:
    """The end of a run of epochs.

    Attributes:
      limit: epochs, ≥ 1: the run is over then, whatever it gains.
      least_gain: in the unit of the loss, a doubling.
      share: of the decline, in the epochs before it; > 0.
      floor: what is left of the rate at the end, in (0, 1].
      patience: epochs, ≥ 1.
      least: epochs before anything is decided.
      settles: whether it may end before the limit.

    Example:
      >>> ending = Ending(limit=400)
      >>> state = ending.update(ending.init(), loss)            # once an epoch
      >>> rate * ending.factor(state, epochs)                   # at any time, epochs a fraction too
    """

    limit: ArrayLike
    least_gain: ArrayLike = 0.05
    share: ArrayLike = 0.5
    floor: ArrayLike = 0.01
    patience: ArrayLike = 3
    least: ArrayLike = 10
    settles: bool = True

    def check(self) -> None:
        """Look at the numbers whose values are known.

        Raises:
          ValueError: a value out of its range; the message holds it.
        """
        numbers = {name: getattr(self, name) for name in ("limit", "share", "floor", "patience")}
        checked(least_gain=self.least_gain, least=self.least, **numbers)
        require_positive(**numbers)

    def init(self) -> EndingState:
        """Before the first epoch."""
        floats = ("slow", "fast")
        names = EndingState._fields
        return EndingState(**{name: typed(0, jnp.float32 if name in floats else jnp.int32) for name in names})

    def gain(self, state: EndingState) -> Array:
        """g, in the unit of the loss; NaN before the third epoch."""
        return jnp.where(state.seen > 2, (state.slow - state.fast) / _DOUBLINGS, jnp.nan)

    def update(self, state: EndingState, loss: ArrayLike, *, ready: ArrayLike = True) -> EndingState:
        """An epoch later.

        Args:
          state: of the last epoch.
          loss: shape=(), of the epoch: on a scale on which equal differences matter equally, as nats or the log of an
            error. One that is not finite says nothing.
          ready: bool: the rate has found its level; before, little gain is no evidence.
        """
        loss = jax.lax.stop_gradient(jnp.asarray(loss, jnp.float32))
        limit = jnp.asarray(self.limit, jnp.int32)
        # Another limit than the fall was made for, or a run that is to go on although it has settled.
        moved = (state.cause == HORIZON) & (state.last != limit) | ((state.cause == SETTLED) & (not self.settles))
        going = state._replace(began=jnp.zeros_like(state.began), cause=jnp.zeros_like(state.cause))
        state = jax.tree.map(lambda a, b: jnp.where(moved, a, b), going, state)
        finite = jnp.isfinite(loss)
        epoch, seen = state.epoch + 1, state.seen + finite

        def averaged(average: Array, power: float) -> Array:
            share = (power + 1.0) / (jnp.maximum(seen, 1) + power)
            return jnp.where(finite, average + share * (loss - average), average)

        slow, fast = averaged(state.slow, _SLOW), averaged(state.fast, _FAST)
        new = state._replace(epoch=epoch, seen=seen, slow=slow, fast=fast)
        little = jnp.asarray(ready, bool) & (self.gain(new) < self.least_gain) & (epoch >= self.least)
        idle = jnp.where(finite, in_a_row(state.idle, little), state.idle)
        settled = (idle >= self.patience) & self.settles
        due = (epoch * (1.0 + jnp.asarray(self.share, jnp.float32))).astype(jnp.int32) >= limit
        begins = (state.began == 0) & (settled | due)
        over = jnp.where(due, limit, jnp.minimum(epoch + jnp.ceil(self.share * epoch).astype(jnp.int32), limit))
        return new._replace(
            idle=idle,
            began=jnp.where(begins, epoch, state.began),
            cause=jnp.where(begins, jnp.where(due, HORIZON, SETTLED), state.cause).astype(jnp.int32),
            last=jnp.where(begins, over, jnp.where(state.began > 0, state.last, 0)),
        )

    def factor(self, state: EndingState, epochs: ArrayLike) -> Array:
        """Share of the rate that is left, in [floor, 1].

        Args:
          state: of the last epoch.
          epochs: shape=(), passed so far, fractions too.
        """
        length = jnp.maximum(state.last - state.began, 1)
        share = jnp.clip((epochs - state.began) / length, 0.0, 1.0)
        return jnp.where(state.began > 0, 1.0 - (1.0 - jnp.asarray(self.floor, jnp.float32)) * share, 1.0)

    def over(self, state: EndingState) -> Array:
        """Whether the last epoch was the run's."""
        return (state.last > 0) & (state.epoch >= state.last)
