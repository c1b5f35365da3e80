"""ν-PI: proportional-integral control of a multiplier, its proportional part on a smoothed error.

  ξ ← ν ξ + (1 − ν) e
  λ ← clip(λ + K_i Δt e + K_p Δξ)                  Δξ the change of ξ; the first error starts ξ

ν = 0 is PI in velocity form. ν < 0 is gradient ascent of rate η with Polyak's momentum β = ν, a negative one, at
K_i = η / (1 − ν) and K_p = −η ν / (1 − ν)²; positive momentum is a negative K_p, which is refused. The proportional
part brakes before the error changes sign, which is what bare dual ascent overshoots for want of.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import Gain, Info, checked, finish, is_known, read, typed, weight_of
from topojax.types import Array


class NuPiState(NamedTuple):
    """State of `nu_pi`; every leaf has the shape of the gains, () or (n,)."""

    weight: Array  # float32, in [minimum, maximum]: the multiplier, and the integral
    smooth: Array  # float32, ξ
    started: Array  # bool: ξ holds an error


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NuPi:
    """A controller made by `nu_pi`, which checks its gains: float32 arrays of one shape, () or (n,)."""

    kp: Gain
    ki: Gain
    nu: Gain
    minimum: Gain
    maximum: Gain
    initial: Gain
    error_clip: Gain

    def init(self) -> NuPiState:
        """The multiplier at its initial value, no error seen."""
        shape = self.initial.shape
        return NuPiState(typed(self.initial), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, bool))

    def update(
        self, state: NuPiState, error: ArrayLike, *, dt: ArrayLike = 1.0, active: ArrayLike = True
    ) -> tuple[NuPiState, Info]:
        """The multiplier an update later, as `Controller.update` has it."""
        reading = read(error, dt, self.error_clip)
        smooth = jnp.where(state.started, self.nu * state.smooth + (1 - self.nu) * reading.error, reading.error)
        p = self.kp * jnp.where(state.started, smooth - state.smooth, 0.0)
        i = self.ki * reading.dt * reading.error
        weight = jnp.clip(state.weight + (p + i), self.minimum, self.maximum)
        new = NuPiState(weight, smooth, jnp.ones_like(state.started))
        return finish(state, new, (p, i, jnp.zeros_like(i)), reading, active, (self.minimum, self.maximum))

    def effective(self, state: NuPiState) -> Array:
        """The multiplier, gradient stopped."""
        return weight_of(state)


def nu_pi(
    kp: ArrayLike,
    ki: ArrayLike,
    nu: ArrayLike = 0.0,
    *,
    minimum: ArrayLike = 0.0,
    maximum: ArrayLike = np.inf,
    initial: ArrayLike = 0.0,
    error_clip: ArrayLike = np.inf,
) -> NuPi:
    """ν-PI control of one multiplier, or of a bank of them.

    Args:
      kp: K_p ≥ 0, weight per unit error.
      ki: K_i ≥ 0, weight per unit error and unit of time.
      nu: ν in (−1, 1), per update: how much of ξ stays.
      minimum: lower bound of λ.
      maximum: upper bound of λ.
      initial: λ before the first update.
      error_clip: errors are clipped to ± this.

    Returns:
      A `Controller` with `NuPiState`. `Info.p + Info.i` is the increment before projection.

    Raises:
      ValueError: a negative or non-finite gain, ν outside (−1, 1), minimum > maximum or initial out of bounds; the
        message holds the value.

    References:
      Sohrabi et al., "On PI controllers for updating Lagrange multipliers in constrained optimization" (ICML 2024),
      alg. 1. Deviation: the first error moves λ by K_i Δt e alone, as in `pid`; theirs adds K_p ξ_0 for one choice of
      ξ_{−1}.
    """
    limits = {"minimum": minimum, "maximum": maximum, "initial": initial, "error_clip": error_clip}
    values = checked(kp=kp, ki=ki, nu=nu, **limits)
    if is_known(nu) and not (np.abs(values["nu"]) < 1).all():
        raise ValueError(f"nu must lie in (-1, 1), got {nu}")
    return NuPi(**values)
