"""Mechanism D, tracking: a weight that follows a measured value, such as a ratio of gradient norms."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import Controller, Info, finish, read, require_positive, static, typed
from topojax.types import Array

_RESOLUTION = 1e-6  # of a float32 logarithm: what is nearer than this has arrived


class TrackingState(NamedTuple):
    """State of `tracking`; the leaf has the shape of the gains, () or (n,)."""

    weight: Array  # float32, in [minimum, maximum]


def tracking(
    factor: ArrayLike,
    *,
    lag: ArrayLike,
    minimum: ArrayLike,
    maximum: ArrayLike,
    initial: ArrayLike,
    max_step: ArrayLike | None = None,
) -> Controller:
    """A first-order lag in log space towards a multiple of what is measured.

      log λ ← log λ + g (log clip(c m) − log λ)        g = 1 − exp(−Δt / lag)

    In logarithms, since a ratio that doubles and one that halves are equally far off. The measurement is clipped to
    [minimum, maximum] before the lag, so that one absurd ratio (a norm near 0 below the line) moves the weight by no
    more than a lag's share of the way to a bound.

    There is no error here and no sign rule: the second argument of `update` is the measured value m itself, > 0,
    shape () or the weight's. m ≤ 0 is as unusable as NaN: nothing moves and `Info.frozen` says so.

    Uses: the vq β = ‖∇L_codebook‖ / ‖∇L_commit‖ (c = 1; a decay of 0.9 per epoch is a lag of −1/log 0.9 = 9.5 epochs),
    the jump weight c/λ_wfr² (m = 1/λ_wfr²), the supervised weight as a ratio of gradient norms.

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
      report §3; theory 1.9 (vq β), 1.11 (jump weight).
    """
    limits = {} if max_step is None else {"max_step": max_step}
    gains = static(factor=factor, lag=lag, minimum=minimum, maximum=maximum, initial=initial, **limits)
    require_positive(factor=factor, minimum=minimum)
    low, high, step = gains["minimum"], gains["maximum"], gains.get("max_step")
    lagged = gains["lag"] > 0
    lag_epochs = np.where(lagged, gains["lag"], np.float32(1))
    everything = np.full(low.shape, np.finfo(np.float32).max, np.float32)

    def init() -> TrackingState:
        return TrackingState(weight=typed(gains["initial"]))

    def update(
        state: TrackingState, measured: ArrayLike, *, dt: ArrayLike = 1.0, active: ArrayLike = True
    ) -> tuple[TrackingState, Info]:
        reading = read(measured, dt, everything)
        reading = reading._replace(usable=reading.usable & (reading.error > 0))
        aim = jnp.clip(gains["factor"] * reading.error, low, high)
        gap = jnp.log(aim) - jnp.log(state.weight)
        gain = jnp.where(lagged, -jnp.expm1(-reading.dt / lag_epochs), 1.0)
        move = gain * gap if step is None else jnp.clip(gain * gap, -step, step)
        # Arriving is exact: the exponential of a logarithm is not.
        proposal = jnp.where(jnp.abs(gap - move) <= _RESOLUTION, aim, state.weight * jnp.exp(move))
        new = TrackingState(weight=jnp.clip(proposal, low, high))
        nothing = jnp.zeros_like(proposal)
        return finish(state, new, (nothing, new.weight - state.weight, nothing), reading, active, (low, high))

    return Controller(init, update)
