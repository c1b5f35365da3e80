"""The coupling window, measured: what flows into the charts, what mixes them, and how much grounding to ask for.

Pure functions of two streams: H(K) of a smooth usage estimate at every step, I(X;K) and H(K) of the epoch.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import checked, is_known, require_choice, require_positive, typed, where_active
from topojax.types import Array

MODES = ("target", "capacity")
CAPACITY_QUANTILE = 0.9
"""Quantile of I(X;K) over the horizon that stands for the boundary capacity (theory 1.7)."""


class CouplingState(NamedTuple):
    """State of the window; entropies and information in nats, all within [0, log N]."""

    epsilon: Array  # shape=(), float32: ε of the next epoch
    history: Array  # shape=(horizon,), float32: ring of I(X;K) by epoch; 0 where nothing is yet
    recorded: Array  # shape=(), int32: epochs that measured it
    entropy: Array  # shape=(), float32: H(K) at the last counted step
    entropy_seen: Array  # shape=(), bool: `entropy` holds a value
    mixing: Array  # shape=(), float32: sum of the positive increments of H(K) in this epoch


class CouplingInfo(NamedTuple):
    """What an epoch says of the window; every field has shape=()."""

    lambda_in: Array  # float32, nats: I(X;K) as given, not finite where it was not measured
    lambda_mix: Array  # float32, nats: by how much H(K) rose over the epoch; 0 if there was nothing to measure
    flows: Array  # bool: λ_in ≥ λ_mix
    over_mixing: Array  # bool: H(K) near log N and I(X;K) low, both at once
    grounded: Array  # bool: I(X;K) ≥ ε
    epsilon: Array  # float32, nats: ε, this epoch included
    ceiling: Array  # float32, nats: log N − ε, the theorem's bound on H(K)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coupling:
    """Measures of the window ε ≤ I(X;K), H(K) ≤ log N − ε, λ_in ≳ λ_mix.

      λ_in          I(X;K)
      λ_mix         Σ over the epoch's steps of (H_{t+1}(K) − H_t(K))₊
      over_mixing   H(K) > (1 − high) log N  and  I(X;K) < low log N
      ε, target     given
      ε, capacity   max(ε, floor log N, fraction · clip(Q₀.₉[I], [clip, 1] log N)), Q over the last `horizon` epochs;
                    floor log N until the first epoch; it never falls

    H(K) of a mini-batch is no measure of λ_mix: its increments are sampling noise, σ_H/√π per step whatever the model
    does. Give `update_step` a usage EMA or a fixed probe. λ_in and λ_mix are both of an epoch: a mean over its steps
    would make λ_mix a hundred times smaller than what it is compared with. What is not measured is neither grounded nor
    over-mixed, and does not flow.

    Attributes:
      mode: `target` or `capacity`.
      target: ε in nats, in (0, log N); not read with `capacity`.
      log_charts: log N > 0, nats.
      over_mixing: (high, low), each in (0, 1); a conjunction, since a perfect balanced atlas has H(K) = I = log N.
      capacity_fraction: in (0, 1).
      floor_fraction: in (0, 1).
      horizon: epochs, a whole number ≥ 1.
      capacity_clip: least capacity as a fraction of log N, in [0, 1].

    Raises:
      ValueError: a value out of its range; the message holds it.

    References:
      report §1 (coupling window); theory 1.3, 1.7, B13. The increments are of training time, not of environment time.
    """

    mode: str
    target: float | None = None
    log_charts: float
    over_mixing: tuple[float, float] = (0.1, 0.1)
    capacity_fraction: float = 0.25
    floor_fraction: float = 0.05
    horizon: int = 20
    capacity_clip: float = 0.1

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, MODES)
        fractions = {"capacity_fraction": self.capacity_fraction, "floor_fraction": self.floor_fraction}
        checked(log_charts=self.log_charts, **fractions)
        require_positive(log_charts=self.log_charts)
        high, low = self.over_mixing
        for name, value in (("over_mixing", high), ("over_mixing", low), *fractions.items()):
            if is_known(value) and not 0 < value < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {value}")
        if not 0 <= self.capacity_clip <= 1:
            raise ValueError(f"capacity_clip must lie in [0, 1], got {self.capacity_clip}")
        if int(self.horizon) != self.horizon or self.horizon < 1:
            raise ValueError(f"horizon must be a whole number >= 1, got {self.horizon}")
        known = is_known(self.target)
        if self.mode == "target" and known and (self.target is None or not 0 < self.target < self.log_charts):
            raise ValueError(f"target must lie in (0, log N = {self.log_charts:g}) nats, got {self.target}")

    def init(self) -> CouplingState:
        """Nothing measured; ε as given, or its floor."""
        floor = self.floor_fraction * self.log_charts
        return CouplingState(
            epsilon=typed(floor if self.mode == "capacity" or self.target is None else self.target),
            history=typed(np.zeros(int(self.horizon))),
            recorded=typed(0, jnp.int32),
            entropy=typed(0.0),
            entropy_seen=typed(False, bool),
            mixing=typed(0.0),
        )

    def update_step(self, state: CouplingState, usage_entropy: ArrayLike, counted: ArrayLike) -> CouplingState:
        """The window a step later.

        Args:
          state: of the window.
          usage_entropy: H(K) in nats, shape=().
          counted: bool, shape=(): of a step that is not, or that is not finite, every leaf keeps its bits.
        """
        entropy, finite = self._nats(usage_entropy)
        rise = jnp.where(state.entropy_seen, jnp.maximum(entropy - state.entropy, 0.0), 0.0)
        new = state._replace(
            entropy=entropy,
            entropy_seen=jnp.ones_like(state.entropy_seen),
            mixing=state.mixing + rise,
        )
        return where_active(finite & jnp.asarray(counted, bool), new, state)

    def end_epoch(
        self, state: CouplingState, *, information: ArrayLike, usage_entropy: ArrayLike
    ) -> tuple[CouplingState, CouplingInfo]:
        """The window an epoch later, and what it says.

        Args:
          state: after the epoch's last step.
          information: I(X;K) of the epoch, nats, shape=(); non-finite where it was not measured.
          usage_entropy: H(K) of the epoch, likewise.
        """
        given = jax.lax.stop_gradient(jnp.asarray(information, jnp.float32))
        inflow, known = self._nats(given)
        entropy, entropy_known = self._nats(usage_entropy)
        here = np.arange(int(self.horizon)) == state.recorded % int(self.horizon)
        history = jnp.where(here & known, inflow, state.history)
        recorded = state.recorded + known
        epsilon = self._epsilon(state.epsilon, history, recorded)
        mix = state.mixing
        high, low = self.over_mixing
        used, uninformed = entropy > (1 - high) * self.log_charts, inflow < low * self.log_charts
        info = CouplingInfo(
            lambda_in=given,
            lambda_mix=mix,
            flows=known & (inflow >= mix),
            over_mixing=known & entropy_known & used & uninformed,
            grounded=known & (inflow >= epsilon),
            epsilon=epsilon,
            ceiling=self.log_charts - epsilon,
        )
        new = state._replace(
            epsilon=epsilon,
            history=history,
            recorded=recorded,
            mixing=jnp.zeros_like(state.mixing),
        )
        return new, info

    def last_information(self, state: CouplingState) -> tuple[Array, Array]:
        """I(X;K) of the last epoch that measured it, nats, and whether there was one."""
        return state.history[(state.recorded - 1) % int(self.horizon)], state.recorded > 0

    def _epsilon(self, epsilon: Array, history: Array, recorded: Array) -> Array:
        """ε of the next epoch."""
        if self.mode == "target":
            return epsilon
        capacity = _quantile(history, jnp.minimum(recorded, int(self.horizon)), CAPACITY_QUANTILE)
        capacity = jnp.clip(capacity, self.capacity_clip * self.log_charts, self.log_charts)
        return jnp.where(recorded > 0, jnp.maximum(epsilon, self.capacity_fraction * capacity), epsilon)

    def _nats(self, value: ArrayLike) -> tuple[Array, Array]:
        """Within [0, log N], which a plug-in estimate may miss by rounding, and whether it was measured at all."""
        value = jax.lax.stop_gradient(jnp.asarray(value, jnp.float32))
        finite = jnp.isfinite(value)
        return jnp.clip(jnp.where(finite, value, 0.0), 0.0, self.log_charts), finite


def _quantile(values: Array, count: Array, fraction: float) -> Array:
    """Quantile of the first `count` ≥ 1 entries, linear between neighbours as in NumPy."""
    ordered = jnp.sort(jnp.where(np.arange(values.size) < count, values, np.finfo(np.float32).max))
    last = jnp.maximum(count - 1, 0)
    position = fraction * last.astype(jnp.float32)
    below = jnp.floor(position).astype(jnp.int32)
    above = jnp.minimum(below + 1, last)
    share = position - below
    return (1 - share) * ordered[below] + share * ordered[above]
