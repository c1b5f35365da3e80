"""Mechanism B, PID: a loss weight that holds a measured signal at a set-point.

With e the clipped error, ê its low-pass (time constant `derivative_filter`) and d = Δê/Δt,

  incremental   λ ← clip(λ + K_p Δe + K_i Δt e + K_d Δd)
  report        λ ← clip(λ + Δt (K_p e + I + K_d d)),     I = K_i Σ Δt e
  position      λ ← clip(λ_0 + K_p e + I + K_d d),        I = K_i Σ Δt e

e > 0 raises λ. Every sum carries Δt (in epochs) once and every difference is divided by it, so gains
mean the same at any number of steps per epoch; at Δt = 1 the lines are the textbook's.

*incremental* (default): K_d = 0 is PI; K_p = K_d = 0 is dual ascent with rate K_i, bit for bit. The
clipped weight is the integral, so leaving a bound takes one update. The first update has no Δe, hence
no kick.

*report*: report §2B to the letter, a double integrator: λ' = K_p e + K_i ∫e. Against a plant of lag τ
it is stable only for K_p (1 + g K_d) > τ K_i (`report_form_is_stable`); beyond, it cycles for ever.
Three guards that the report does not have: I stands still while λ is at a bound and e pushes outward;
an I that points out of the bound is dropped when e turns back; |I| ≤ maximum − minimum. K_p here is a
rate (weight per epoch).

*position*: `initial` is the bias λ_0, which the P term leaves at the first update. I is not advanced
while a limit cuts λ and e pushes further, and stays in [minimum − λ_0, maximum − λ_0].
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import Gain, Info, Reading, checked, finish, limited, read, require_choice, typed, weight_of
from topojax.types import Array

FORMS = ("incremental", "report", "position")


class PidState(NamedTuple):
    """State of `pid`; every leaf has the shape of the gains, () or (n,)."""

    weight: Array  # float32, in [minimum, maximum]; in the incremental form also the integral
    error: Array  # float32, last usable error, clipped
    filtered: Array  # float32, low-passed error, of which the derivative is taken
    slope: Array  # float32, last derivative of `filtered`, per epoch
    integral: Array  # float32, K_i ∫e, in units of the weight (position) or weight per epoch (report)
    started: Array  # bool: `error` and `filtered` hold history; without it there is no Δe to react to


Terms = tuple[Array, Array, Array]  # p, i and d of an increment


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Pid:
    """A controller made by `pid`, which checks its gains: float32 arrays of one shape, () or (n,)."""

    form: str = dataclasses.field(metadata={"static": True})
    kp: Gain
    ki: Gain
    kd: Gain
    derivative_filter: Gain
    minimum: Gain
    maximum: Gain
    initial: Gain
    error_clip: Gain
    max_step: Gain | None = None

    def init(self) -> PidState:
        """The weight at its initial value, without history."""
        shape = self.initial.shape
        error, filtered, slope, integral = (jnp.zeros(shape, jnp.float32) for _ in range(4))
        return PidState(typed(self.initial), error, filtered, slope, integral, jnp.zeros(shape, bool))

    def update(
        self, state: PidState, error: ArrayLike, *, dt: ArrayLike = 1.0, active: ArrayLike = True
    ) -> tuple[PidState, Info]:
        """The weight an update later, as `Controller.update` has it."""
        reading = read(error, dt, self.error_clip)
        # A filter of 0 becomes one so short that exp(−Δt/lag) underflows to 0.
        lag = jnp.maximum(self.derivative_filter, np.float32(1e-20))
        past = jnp.where(state.started, state.filtered, reading.error)
        filtered = past - jnp.expm1(-reading.dt / lag) * (reading.error - past)
        slope = (filtered - past) / reading.dt
        step = {"incremental": self._incremental, "report": self._report, "position": self._position}[self.form]
        weight, integral, parts = step(state, reading, slope)
        new = PidState(weight, reading.error, filtered, slope, integral, jnp.ones_like(state.started))
        return finish(state, new, parts, reading, active, (self.minimum, self.maximum))

    def effective(self, state: PidState) -> Array:
        """The weight, gradient stopped."""
        return weight_of(state)

    def _incremental(self, state: PidState, reading: Reading, slope: Array) -> tuple[Array, Array, Terms]:
        i = self.ki * reading.dt * reading.error
        p = self.kp * (reading.error - jnp.where(state.started, state.error, reading.error))
        d = self.kd * (slope - state.slope)
        return self._bounded(state, state.weight + (p + i + d)), state.integral, (p, i, d)

    def _report(self, state: PidState, reading: Reading, slope: Array) -> tuple[Array, Array, Terms]:
        growth = self.ki * reading.dt * reading.error
        integral = report_integral(state, reading.error, growth, self.minimum, self.maximum)
        p, i, d = reading.dt * self.kp * reading.error, reading.dt * integral, reading.dt * self.kd * slope
        return self._bounded(state, state.weight + (p + i + d)), integral, (p, i, d)

    def _position(self, state: PidState, reading: Reading, slope: Array) -> tuple[Array, Array, Terms]:
        bias, growth = self.initial, self.ki * reading.dt * reading.error
        integral = jnp.clip(state.integral + growth, self.minimum - bias, self.maximum - bias)
        asked = bias + self.kp * reading.error + integral + self.kd * slope
        p, i, d = self.kp * (reading.error - state.error), integral - state.integral, self.kd * (slope - state.slope)
        weight = self._bounded(state, asked)
        # λ uses the advanced integral, so that it reaches the bound; the kept one does not wind up.
        integral = jnp.where((asked - weight) * reading.error > 0, state.integral, integral)
        return weight, integral, (p, i, d)

    def _bounded(self, state: PidState, asked: Array) -> Array:
        return jnp.clip(limited(state.weight, asked, self.max_step), self.minimum, self.maximum)


def pid(
    kp: ArrayLike,
    ki: ArrayLike,
    kd: ArrayLike = 0.0,
    *,
    form: str = "incremental",
    derivative_filter: ArrayLike = 1.0,
    minimum: ArrayLike = 0.0,
    maximum: ArrayLike = 10.0,
    initial: ArrayLike = 0.1,
    error_clip: ArrayLike = 2.0,
    max_step: ArrayLike | None = None,
) -> Pid:
    """Set-point control of one loss weight, or of a bank of them, in one of the forms above.

    Args:
      kp: K_p ≥ 0, weight per unit error (report: per epoch).
      ki: K_i ≥ 0, weight per unit error and epoch (report: per epoch²).
      kd: K_d ≥ 0, weight · epochs per unit error (report: weight). Needs quiet signals: prefer PI in a
        mini-batch.
      form: `incremental`, `report` or `position`.
      derivative_filter: time constant of the low-pass in epochs; 0 differentiates the raw error.
      minimum: lower bound of λ.
      maximum: upper bound of λ.
      initial: λ before the first update.
      error_clip: errors are clipped to ± this.
      max_step: largest |Δλ| of one update (not per epoch). None: no limit.

    Returns:
      A `Controller` with `PidState`. `Info.p + Info.i + Info.d` is the increment before `max_step` and
      projection (position: the change of the three terms).

    Raises:
      ValueError: a negative or non-finite gain, minimum > maximum, initial out of bounds or an unknown
        form; the message holds the value.

    References:
      report §2B; theory 1.1 ("Exact form of B": why the default departs from the report), B1 (windup), B3
      (Δt); Åström and Murray, "Feedback Systems", ch. 11.
    """
    require_choice("form", form, FORMS)
    limits = {"minimum": minimum, "maximum": maximum, "initial": initial, "error_clip": error_clip}
    limits |= {} if max_step is None else {"max_step": max_step}
    gains = checked(kp=kp, ki=ki, kd=kd, derivative_filter=derivative_filter, **limits)
    return Pid(form, **gains)


def report_integral(state: PidState, error: Array, growth: Array, low: Gain, high: Gain) -> Array:
    """The report form's I after this error: frozen at a bound, dropped on the way back, |I| ≤ range."""
    top, bottom = state.weight >= high, state.weight <= low
    outward = (top & (error > 0)) | (bottom & (error < 0))
    kept = jnp.where(top & (error < 0), jnp.minimum(state.integral, 0.0), state.integral)
    kept = jnp.where(bottom & (error > 0), jnp.maximum(kept, 0.0), kept)
    return jnp.clip(jnp.where(outward, state.integral, kept + growth), low - high, high - low)


def report_form_is_stable(
    kp: ArrayLike, ki: ArrayLike, lag: ArrayLike, *, kd: ArrayLike = 0.0, gain: ArrayLike = 1.0
) -> np.ndarray | np.bool_:
    """Whether `form='report'` settles on a first-order plant m' = (g λ − m)/τ.

    The loop's polynomial is τ s³ + (1 + g K_d) s² + g K_p s + g K_i; Routh's condition for it is

      K_p (1 + g K_d) > τ K_i,

    in which g cancels for K_d = 0. Exact for Δt ≪ τ. Without K_i the form is an ordinary integral
    controller and always settles.

    Args:
      kp: as in `pid`.
      ki: as in `pid`.
      lag: τ ≥ 0, time constant of the response of signal to weight, in epochs.
      kd: as in `pid`.
      gain: g ≥ 0, stationary change of the error per unit of weight; matters only with K_d.

    Returns:
      bool, elementwise.

    Raises:
      ValueError: a negative or non-finite value.

    References:
      theory 1.1 ("Exact form of B"), B1.
    """
    values = checked(kp=kp, ki=ki, lag=lag, kd=kd, gain=gain)
    stiffness = values["kp"] * (1 + values["gain"] * values["kd"])
    return (values["ki"] == 0) | (stiffness > values["lag"] * values["ki"])
