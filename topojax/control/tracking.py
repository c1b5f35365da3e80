"""Mechanism D, tracking: a weight that follows a measured value, such as a ratio of gradient norms."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import Gain, Info, checked, finish, read, require_positive, typed, weight_of
from topojax.types import Array

_RESOLUTION = 1e-6  # of a float32 logarithm: what is nearer than this has arrived


class TrackingState(NamedTuple):
    """State of `tracking`; the leaf has the shape of the gains, () or (n,)."""

    weight: Array  # float32, in [minimum, maximum]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Tracking:
    """A controller made by `tracking`, which checks its gains: float32 arrays of one shape, () or (n,)."""

    factor: Gain
    lag: Gain
    minimum: Gain
    maximum: Gain
    initial: Gain
    max_step: Gain | None = None

    def init(self) -> TrackingState:
        """The weight at its initial value."""
        return TrackingState(weight=typed(self.initial))

    def update(
        self, state: TrackingState, measured: ArrayLike, *, dt: ArrayLike = 1.0, active: ArrayLike = True
    ) -> tuple[TrackingState, Info]:
        """The weight an update later, as `Controller.update` has it, but of the measured value in place of an error."""
        low, high = self.minimum, self.maximum
        lagged = self.lag > 0
        reading = read(measured, dt, np.full(low.shape, np.finfo(np.float32).max, np.float32))
        reading = reading._replace(usable=reading.usable & (reading.error > 0))
        aim = jnp.clip(self.factor * reading.error, low, high)
        gap = jnp.log(aim) - jnp.log(state.weight)
        gain = jnp.where(lagged, -jnp.expm1(-reading.dt / jnp.where(lagged, self.lag, np.float32(1))), 1.0)
        move = gain * gap if self.max_step is None else jnp.clip(gain * gap, -self.max_step, self.max_step)
        # Arriving is exact: the exponential of a logarithm is not.
        proposal = jnp.where(jnp.abs(gap - move) <= _RESOLUTION, aim, state.weight * jnp.exp(move))
        new = TrackingState(weight=jnp.clip(proposal, low, high))
        nothing = jnp.zeros_like(proposal)
        return finish(state, new, (nothing, new.weight - state.weight, nothing), reading, active, (low, high))

    def effective(self, state: TrackingState) -> Array:
        """The weight, gradient stopped."""
        return weight_of(state)


def tracking(
    factor: ArrayLike,
    *,
    lag: ArrayLike,
    minimum: ArrayLike,
    maximum: ArrayLike,
    initial: ArrayLike,
    max_step: ArrayLike | None = None,
) -> Tracking:
    """A first-order lag in log space towards a multiple of what is measured.

      log λ ← log λ + g (log clip(c m) − log λ)        g = 1 − exp(−Δt / lag)

    In logarithms, since a ratio that doubles and one that halves are equally far off. The measurement is clipped to
    [minimum, maximum] before the lag, so that one absurd ratio (a norm near 0 below the line) moves the weight by no
    more than a lag's share of the way to a bound.

    There is no error here and no sign rule: the second argument of `update` is the measured value m itself, > 0,
    shape () or the weight's. m ≤ 0 is as unusable as NaN: nothing moves and `Info.frozen` says so.

    Uses: weights that balance the gradients of two terms (m = the ratio of their norms, c = 1; a decay of 0.9 per
    epoch is a lag of −1/log 0.9 = 9.5 epochs), or that scale with a measured length (m = 1/length²).

    Args:
      factor: c > 0.
      lag: time constant in epochs, ≥ 0; 0 follows at once.
      minimum: lower bound of λ, > 0.
      maximum: upper bound of λ.
      initial: λ before the first update.
      max_step: largest |Δ log λ| of one update; None: no limit.

    Returns:
      A `Controller` with `TrackingState`. `Info.i` is the increment that was made; p and d are 0.

    Raises:
      ValueError: a negative or non-finite gain, factor or minimum not > 0, minimum > maximum or initial out of
        bounds; the message holds the value.

    References:
      report §3; theory 1.9, 1.11.
    """
    limits = {} if max_step is None else {"max_step": max_step}
    gains = checked(factor=factor, lag=lag, minimum=minimum, maximum=maximum, initial=initial, **limits)
    require_positive(factor=factor, minimum=minimum)
    return Tracking(**gains)
