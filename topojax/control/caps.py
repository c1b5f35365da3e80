"""Upper bounds on the learning rate, from the update that a rate would really make. Pure functions, no state.

The direction u is what the optimizer proposes at rate 1 (for Adam m̂/(√v̂ + ε), not the gradient: theory
A4), so the update at rate η is −η u. Caps are finite for any input, so that a minimum over caps is safe.
"""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import checked, is_known
from topojax.types import Array

NO_CAP = float(np.finfo(np.float32).max)
"""A rate that no rate exceeds: what a cap is when nothing binds."""


def update_ratio_cap(
    direction_norm: ArrayLike, param_norm: ArrayLike, ratio: ArrayLike, *, minimum_norm: ArrayLike = 1e-3
) -> Array:
    """Largest η with ‖η u‖ ≤ ρ max(‖θ‖, floor).

      η = ρ max(‖θ‖, floor) / ‖u‖

    The governor's `update_ratio` signal is rate / this: above 1, the rate asks for more than the cap grants.

    Args:
      direction_norm: ‖u‖ ≥ 0, of the whole tree or of one group or tensor (then shapes agree).
      param_norm: ‖θ‖ ≥ 0, same shape.
      ratio: ρ, relative change allowed per step; 1e-2 suits Adam, whose ‖u‖ is about √(number of
        parameters) early on.
      minimum_norm: floor of ‖θ‖; without it parameters that start at 0 could never move.

    Returns:
      float32, 0 where a norm is not finite (such a step must not be made), `NO_CAP` where u = 0.

    References:
      report §1 (QSL bound), §5 (max update ratio); theory 1.5, A4.
    """
    direction, size, allowed = (jnp.asarray(value, jnp.float32) for value in (direction_norm, param_norm, ratio))
    finite = jnp.isfinite(direction) & jnp.isfinite(size)
    cap = allowed * jnp.maximum(size, minimum_norm) / jnp.where(direction > 0, direction, 1.0)
    return jnp.where(finite, jnp.where(direction > 0, jnp.minimum(cap, NO_CAP), NO_CAP), 0.0)


def speed_cap(rate: ArrayLike, speed: ArrayLike, maximum_speed: ArrayLike) -> Array:
    """Largest η that keeps what moves at or below v_max, in proportion to a measured speed.

      η = rate · v_max / speed

    Args:
      rate: rate in force when the speed was measured, > 0.
      speed: distance that the model's representation of fixed examples moved per update, in any metric (mean,
        p95 or max, the caller's choice).
      maximum_speed: v_max, in the same unit.

    Returns:
      float32; `NO_CAP` where the points did not move, or the rate was 0 and nothing can be inferred; the
      present rate where the speed is not finite.

    References:
      report §1 (v_max in state space); theory 1.5 (QSLCheck, state space).
    """
    rate, speed, limit = (jnp.asarray(value, jnp.float32) for value in (rate, speed, maximum_speed))
    moved = (speed > 0) & (rate > 0)
    cap = jnp.minimum(rate * (limit / jnp.where(moved, speed, 1.0)), NO_CAP)
    return jnp.where(jnp.isfinite(speed), jnp.where(moved, cap, NO_CAP), rate)


def active_cap(rate: ArrayLike, *caps: ArrayLike) -> tuple[Array, Array]:
    """The rate in force, and which of the bounds set it.

      η = min(rate, cap_1, …, cap_k)

    Args:
      rate: the governor's, shape () or (n,).
      *caps: schedules and caps, in an order that the caller names; NaN counts as no cap.

    Returns:
      η (float32) and an int32 index: 0 where the rate itself is the least, k where the k-th cap is (the
      first of equals).

    Example:
      >>> eta, which = active_cap(state.rate, cosine(step), update_ratio_cap(u, theta, 0.01))
      >>> name = ("governor", "schedule", "update_ratio")[which]
    """
    rate = jnp.asarray(rate, jnp.float32)
    bounds = jnp.stack([rate, *(jnp.broadcast_to(jnp.asarray(cap, jnp.float32), rate.shape) for cap in caps)])
    bounds = jnp.where(jnp.isnan(bounds), NO_CAP, bounds)
    return bounds.min(axis=0), bounds.argmin(axis=0).astype(jnp.int32)


def barrier_latch(latched: ArrayLike, alpha: ArrayLike, beta: ArrayLike, *, margin: float = 0.2) -> Array:
    """BarrierTypeII as a Schmitt trigger: on at β > α, off again at β < (1 − margin) α.

    The governor's `barrier` signal. Without the dead band a β close to α would flip it every epoch.

    Args:
      latched: the trigger's last value, bool.
      alpha: signal scale α.
      beta: update scale β, in the unit of α.
      margin: width of the dead band relative to α, in [0, 1).

    Returns:
      bool; the last value where α or β is not finite.

    Raises:
      ValueError: margin outside [0, 1).

    References:
      report §1 (scaling hierarchy); theory 1.4.
    """
    if is_known(margin) and not checked(margin=margin)["margin"] < 1:
        raise ValueError(f"margin must be < 1, got {margin}")
    latched = jnp.asarray(latched, bool)
    alpha, beta = jnp.asarray(alpha, jnp.float32), jnp.asarray(beta, jnp.float32)
    crossed = jnp.where(latched, beta >= (1 - margin) * alpha, beta > alpha)
    return jnp.where(jnp.isfinite(alpha) & jnp.isfinite(beta), crossed, latched)
