"""Mechanism A, dual ascent: the multiplier of a constraint grows while the constraint is violated."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from topojax.control.base import Gain, Info, checked, finish, limited, read, require_choice, require_positive, typed
from topojax.types import Array

FORMS = ("additive", "multiplicative")


class DualState(NamedTuple):
    """State of `dual_ascent`; every leaf has the shape of the gains, () or (n,)."""

    weight: Array  # float32, in [minimum, maximum]: the multiplier λ
    error: Array  # float32, last usable error, clipped; 0 before the first update


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DualAscent:
    """A controller made by `dual_ascent`, which checks its gains: float32 arrays of one shape, () or (n,)."""

    form: str = dataclasses.field(metadata={"static": True})
    rate: Gain
    damping: Gain
    minimum: Gain
    maximum: Gain
    initial: Gain
    error_clip: Gain
    max_step: Gain | None = None

    def init(self) -> DualState:
        """The multiplier at its initial value, no error seen."""
        return DualState(weight=typed(self.initial), error=jnp.zeros(self.minimum.shape, jnp.float32))

    def update(
        self, state: DualState, error: ArrayLike, *, dt: ArrayLike = 1.0, active: ArrayLike = True
    ) -> tuple[DualState, Info]:
        """The multiplier an update later, as `Controller.update` has it."""
        low, high, step = self.minimum, self.maximum, self.max_step
        reading = read(error, dt, self.error_clip)
        growth = self.rate * reading.dt * reading.error
        if self.form == "additive":
            proposal = limited(state.weight, state.weight + growth, step)
            increment = growth
        else:
            growth = growth if step is None else jnp.clip(growth, -step, step)
            proposal = state.weight * jnp.exp(growth)
            increment = jnp.clip(proposal, low, high) - state.weight  # exp may overflow; a log must not
        new = DualState(weight=jnp.clip(proposal, low, high), error=reading.error)
        nothing = jnp.zeros_like(increment)
        return finish(state, new, (nothing, increment, nothing), reading, active, (low, high))

    def effective(self, state: DualState) -> Array:
        """clip(λ + c e), or clip(λ exp(c e)), gradient stopped."""
        push = self.damping * state.error
        weight = state.weight + push if self.form == "additive" else state.weight * jnp.exp(push)
        return jax.lax.stop_gradient(jnp.clip(weight, self.minimum, self.maximum))


def dual_ascent(
    rate: ArrayLike,
    *,
    damping: ArrayLike = 0.0,
    form: str = "additive",
    minimum: ArrayLike = 0.0,
    maximum: ArrayLike = 10.0,
    initial: ArrayLike,
    error_clip: ArrayLike = 2.0,
    max_step: ArrayLike | None = None,
) -> DualAscent:
    """Multiplier of an inequality constraint, projected on [minimum, maximum] after each step.

      additive         λ ← clip(λ + η Δt e)
      multiplicative   λ ← clip(λ exp(η Δt e))      stays positive; speed proportional to λ
      effective        clip(λ + c e), clip(λ exp(c e))   the weight in the loss; λ itself is not changed by c

    e > 0 (violated) raises λ. Plain steps, no momentum: Adam on a scalar moves ± its rate whatever the
    violation, and momentum rings. The damping c is the augmented-Lagrangian term (c/2)C² of the method of
    multipliers, seen through its gradient (λ + c C)∇C: it damps the orbit of the bare saddle-point flow
    around the solution.

    Args:
      rate: η ≥ 0, weight per epoch at unit error (additive), or log-weight per epoch (multiplicative).
      damping: c ≥ 0, weight per unit error (additive), or log-weight (multiplicative).
      form: `additive` or `multiplicative`.
      minimum: lower bound of λ; > 0 for `multiplicative`, where 0 would be absorbing.
      maximum: upper bound of λ.
      initial: λ before the first update.
      error_clip: errors are clipped to ± this.
      max_step: largest |Δλ| of one update (additive) or |Δ log λ| (multiplicative: 0.1 is GECO's factor of
        0.9 to 1.1). Per update, not per epoch: it is a guard against outliers, not a gain. None: no limit.

    Returns:
      A `Controller` with `DualState`. `Info.i` is the increment before projection; p and d are 0.

    Raises:
      ValueError: a negative or non-finite gain, minimum > maximum, initial out of bounds, an unknown form, or
        minimum = 0 with `multiplicative`; the message holds the value.

    References:
      report §2A; theory 1.1 (method A), B2; Platt and Barr, "Constrained differential optimization" (NIPS
      1987) for the damping; Rezende and Viola, "Taming VAEs" (2018, GECO) for the multiplicative form.
      Deviation from report §2A: the step is η Δt, so that it does not depend on steps per epoch.
    """
    require_choice("form", form, FORMS)
    limits = {"minimum": minimum, "maximum": maximum, "initial": initial, "error_clip": error_clip}
    limits |= {} if max_step is None else {"max_step": max_step}
    gains = checked(rate=rate, damping=damping, **limits)
    if form == "multiplicative":
        require_positive(minimum=minimum)
    return DualAscent(form, **gains)
