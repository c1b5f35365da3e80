"""BarrierTypeII: each part of the model may drift only as fast as the part that has to follow it (theory 1.4).

The healthy order of scales is δ ≪ γ ≪ α and β ≤ α. A part that breaks it gets a smaller rate, or none, for a while.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import checked, is_known, require_choice, require_positive, typed, where_active
from topojax.control.caps import barrier_latch
from topojax.types import Array

GROUPS = ("encoder", "router", "codes", "decoder", "heads")
"""Parameter groups, in the order of `HierarchyState.factors`."""
SCALES = ("alpha", "beta", "gamma", "delta")
"""Order of `HierarchyState.scales`: signal, routing, decoder drift, latent drift."""
BARRIERS = ("delta", "gamma", "beta")
"""Order of `latched`, `frozen` and `exhausted`, each named by the scale that is too large."""
ACTIONS = ("warn", "rate", "freeze")
OFFENDERS = {"delta": ("encoder", "codes"), "gamma": ("decoder",), "beta": ("router",)}
"""Barrier → the groups whose rate it cuts; heads are the signal's own and never cut."""

# shape=(groups, barriers): which barrier speaks for a group, at most one.
_SPEAKS = np.array([[group in OFFENDERS[barrier] for barrier in BARRIERS] for group in GROUPS])


class HierarchyState(NamedTuple):
    """State of the barriers."""

    scales: Array  # shape=(4,), float32, in SCALES' order: EMAs over the measurements; 0 before the first
    seen: Array  # shape=(4,), bool: that scale holds a value
    latched: Array  # shape=(3,), bool, in BARRIERS' order
    frozen: Array  # shape=(3,), int32: measurements in a row behind that barrier
    factors: Array  # shape=(5,), float32, in GROUPS' order, in [0, 1]: what each group's rate is multiplied with


class HierarchyInfo(NamedTuple):
    """What the barriers say now."""

    latched: Array  # shape=(3,), bool, in BARRIERS' order
    exhausted: Array  # shape=(3,), bool: `freeze_limit` measurements were not enough: report it
    barrier: Array  # shape=(), bool: β's latch once the router's own cuts are used up: the governor's `barrier`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Rates per group from measured scales: whoever drifts faster than its follower can track is slowed.

      barrier   latches at            clears at                        groups
      delta     δ > r₁ γ              δ < (1 − margin) r₁ γ            encoder, codes
      gamma     γ > r₂ α              γ < (1 − margin) r₂ α            decoder
      beta      β > α                 β < (1 − margin) α               router

      warn      factor = 1
      rate      factor ← max(minimum, shrink · factor)   behind the barrier, `freeze_limit` times in a row, then held
                factor ← min(1, recover · factor)        once it has cleared
      freeze    factor = 0                               behind the barrier, `freeze_limit` measurements in a row, then
                                                         1 until the barrier has cleared once

    Scales are compared as EMAs that start at their first finite value; a negative one (the rounding of a KL) counts as
    0. Where a measurement is not finite its scale keeps its value, and the barriers that read it keep their latches and
    neither cut nor recover, but their counts go on: a freeze ends even if nothing can be measured any more. While
    a frozen decoder has γ = 0, δ is not judged by it.

    One signal moves one thing at a time: β cuts the router first, and the rate of all only where that was not enough
    (or where the action is `warn`, and nothing else would be cut).

    Attributes:
      delta_gamma: r₁ > 0.
      gamma_alpha: r₂ > 0.
      margin: width of the dead band, relative, in [0, 1).
      decay: of the EMAs per measurement, in [0, 1).
      action: `warn`, `rate` or `freeze`.
      shrink: factor in (0, 1].
      recover: factor ≥ 1.
      minimum: least factor of `rate`, in (0, 1].
      freeze_limit: measurements in a row, ≥ 0.

    Raises:
      ValueError: a value out of its range; the message holds it.

    References:
      report §1 (scaling hierarchy); theory 1.4. Departs from it in the decay, 0.5 per probe (0.98 is meant for steps).
    """

    delta_gamma: float = 0.5
    gamma_alpha: float = 0.5
    margin: float = 0.2
    decay: float = 0.5
    action: str = "rate"
    shrink: float = 0.5
    recover: float = 1.25
    minimum: float = 1 / 16
    freeze_limit: int = 5

    def __post_init__(self) -> None:
        ratios = {"delta_gamma": self.delta_gamma, "gamma_alpha": self.gamma_alpha}
        checked(**ratios, margin=self.margin, freeze_limit=self.freeze_limit, recover=self.recover)
        require_positive(**ratios, shrink=self.shrink, minimum=self.minimum)
        require_choice("action", self.action, ACTIONS)
        for name, holds, interval in (
            ("margin", lambda x: x < 1, "[0, 1)"),
            ("decay", lambda x: 0 <= x < 1, "[0, 1)"),
            ("shrink", lambda x: x <= 1, "(0, 1]"),
            ("minimum", lambda x: x <= 1, "(0, 1]"),
            ("recover", lambda x: x >= 1, "[1, inf)"),
        ):
            value = getattr(self, name)
            if is_known(value) and not holds(value):
                raise ValueError(f"{name} must lie in {interval}, got {value}")

    def init(self) -> HierarchyState:
        """Nothing latched, all factors 1."""
        return HierarchyState(
            scales=typed(np.zeros(len(SCALES))),
            seen=typed(np.zeros(len(SCALES)), bool),
            latched=typed(np.zeros(len(BARRIERS)), bool),
            frozen=typed(np.zeros(len(BARRIERS)), jnp.int32),
            factors=typed(np.ones(len(GROUPS))),
        )

    def update(
        self,
        state: HierarchyState,
        *,
        alpha: ArrayLike,
        beta: ArrayLike,
        gamma: ArrayLike,
        delta: ArrayLike,
        measured: ArrayLike = True,
    ) -> tuple[HierarchyState, HierarchyInfo]:
        """The barriers at a probe.

        The scales are shape=(), dimensionless, per update of the parameters, all from one pair of snapshots of a fixed
        probe batch.

        Args:
          state: of the last probe.
          alpha: α, strength of the signal, λ_wfr RMS‖∇_z V‖.
          beta: β, routing, mean KL(w ‖ w⁻).
          gamma: γ, decoder drift at fixed latent points, relative to RMS‖x‖.
          delta: δ, latent drift, RMS‖z_geo − z_geo⁻‖ / λ_wfr.
          measured: bool, shape=(): where it is False every leaf keeps its bits.
        """
        values = jnp.stack([jnp.asarray(value, jnp.float32) for value in (alpha, beta, gamma, delta)])
        values = jnp.maximum(jax.lax.stop_gradient(values), 0.0)  # keeps NaN
        blended = jnp.where(state.seen, self.decay * state.scales + (1 - self.decay) * values, values)
        finite = jnp.isfinite(values) & jnp.isfinite(blended)
        scales = jnp.where(finite, blended, state.scales)

        latched, judged = self._latched(state, scales, finite)
        frozen = jnp.where(latched, state.frozen + 1, 0)
        factors = self._factors(state.factors, latched, judged, frozen)
        proposed = HierarchyState(scales, state.seen | finite, latched, frozen, factors.astype(jnp.float32))
        new = where_active(jnp.asarray(measured, bool), proposed, state)
        exhausted = new.latched & (new.frozen > self.freeze_limit)
        return new, HierarchyInfo(
            latched=new.latched,
            exhausted=exhausted,
            barrier=(new.latched if self.action == "warn" else exhausted)[BARRIERS.index("beta")],
        )

    def _latched(self, state: HierarchyState, scales: Array, finite: Array) -> tuple[Array, Array]:
        """Each barrier's latch, and whether its two scales could be compared: bool (3,), in BARRIERS' order."""
        alpha, beta, gamma, delta = scales
        has_alpha, has_beta, has_gamma, has_delta = finite
        comparable = has_delta & has_gamma & (state.factors[GROUPS.index("decoder")] > 0)
        judged = jnp.stack([comparable, has_gamma & has_alpha, has_beta & has_alpha])
        allowed = jnp.stack([self.delta_gamma * gamma, self.gamma_alpha * alpha, alpha])
        crossed = barrier_latch(state.latched, allowed, jnp.stack([delta, gamma, beta]), margin=self.margin)
        return jnp.where(judged, crossed, state.latched), judged

    def _factors(self, factors: Array, latched: Array, judged: Array, frozen: Array) -> Array:
        """Each group's share of the rate: (5,), in GROUPS' order."""
        held = latched & (frozen <= self.freeze_limit)
        if self.action == "rate":
            cuts, recovers = _groups(held & judged), _groups(~latched & judged)
            factors = jnp.where(cuts, jnp.maximum(self.shrink * factors, self.minimum), factors)
            return jnp.where(recovers, jnp.minimum(self.recover * factors, 1.0), factors)
        return jnp.where(_groups(held), 0.0, 1.0) if self.action == "freeze" else factors


def _groups(barriers: Array) -> Array:
    """What holds of a barrier, for the groups it speaks for: bool (3,) → (5,)."""
    return jnp.any(_SPEAKS & barriers[None, :], axis=1)
