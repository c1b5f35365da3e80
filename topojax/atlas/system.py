"""Control of a run: weights, rate, window, drift hierarchy and gates, as one state and a few pure functions."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from topojax.atlas import system_metrics
from topojax.atlas.coupling import Coupling, CouplingState
from topojax.atlas.hierarchy import Hierarchy, HierarchyState
from topojax.atlas.phases import phase
from topojax.control.bank import Bank, BankState
from topojax.control.base import require_choice
from topojax.control.ending import Ending, EndingState
from topojax.control.gate import Gate, GateState
from topojax.control.governor import Governor, GovernorState
from topojax.types import Array, Metrics

ESTIMATES = {"epoch": ("I_XK", "H_K"), "usage": ("I_XK_usage", "H_K_usage"), "probe": ("I_XK_probe", "H_K_probe")}
"""Where decisions read I(X;K) and H(K) → the names of the two signals: means over the epoch's batches, a decayed
average of usage, or the probe batch."""
LEVEL = 0.25
"""Fraction of what caps allow above which the governor's rate has found its level."""
RATE_SIGNALS = ("task", "lyapunov")
"""What the governor watches: the unweighted task loss over the epoch, or V_L on the probe batch."""


class ControlState(NamedTuple):
    """Everything control remembers; lives next to the params, in the checkpoint too."""

    bank: BankState
    governor: GovernorState
    coupling: CouplingState
    window: GateState
    hierarchy: HierarchyState
    ending: EndingState
    sums: dict[str, Array]  # name → shape=(), float32: sums over the steps of this epoch
    steps: Array  # shape=(), int32: finite steps of this epoch


@dataclasses.dataclass(frozen=True, eq=False)
class Control:
    """Pure functions of the whole of control; the parts interlock: the window opens gates and holds the rate.

    Attributes:
      bank: weights of all contracts.
      governor: of the learning rate.
      coupling: the window I(X;K) ≥ ε, and over-mixing.
      window: the gate that jump and invariances wait for.
      hierarchy: α, β, γ, δ and the rates of parameter groups.
      ending: when there is no more to gain, and the fall of the rate.
      estimate: a key of `ESTIMATES`.
      rate_signal: one of `RATE_SIGNALS`.
      stability: largest relative change of I(X;K) from one epoch to the next that counts as stable; the window must
        have held, and been stable, before its gate opens (theory 1.11).
      warmup_epochs: epochs of phase 1, in which rows behind the gate `warmup` weigh nothing.
      hold_rate_on_saturation: no growth of the rate while a contract cannot be satisfied.

    Raises:
      ValueError: an unknown estimate or signal.

    References:
      report §1, §4.
    """

    bank: Bank
    governor: Governor
    coupling: Coupling
    window: Gate
    hierarchy: Hierarchy
    ending: Ending
    estimate: str = "epoch"
    rate_signal: str = "task"
    stability: float = 0.05
    warmup_epochs: int = 0
    hold_rate_on_saturation: bool = False

    def __post_init__(self) -> None:
        require_choice("estimate", self.estimate, tuple(ESTIMATES))
        require_choice("rate_signal", self.rate_signal, RATE_SIGNALS)

    def init(self) -> ControlState:
        """Nothing measured yet; the window's contract has its first ε."""
        sums = {name: jnp.zeros((), jnp.float32) for name in self.summed()}
        coupling = self.coupling.init()
        bank = self._retargeted(self.bank.init(), coupling.epsilon)
        parts = (bank, self.governor.init(), coupling, self.window.init(), self.hierarchy.init(), self.ending.init())
        return ControlState(*parts, sums, jnp.zeros((), jnp.int32))

    def weights(self, state: ControlState) -> dict[str, Array]:
        """Contract → weight, gates applied, gradient stopped."""
        one = jnp.float32(1.0)
        openings = {"none": one, "hold": one, "warmup": self._warm(state).astype(jnp.float32)}
        return self.bank.weights(state.bank, openings | {"window": state.window.ramp})

    def targets(self, state: ControlState) -> dict[str, Array]:
        """Contract → target, in the signals' units."""
        return self.bank.targets(state.bank)

    def violation(self, state: ControlState, signals: Mapping[str, Array]) -> Array:
        """Σ ½ max(0, C_k)², the contracts' part of V_L."""
        return self.bank.violation(state.bank, signals)

    def update(
        self, state: ControlState, signals: Mapping[str, Array], *, dt: float, finite: Array
    ) -> tuple[ControlState, Metrics]:
        """Control a step later, and what is said of it.

        Args:
          state: of control.
          signals: name → array: those that contracts hold or follow, `task` (unweighted likelihoods), the pair of
            `ESTIMATES`, `H_K_usage`, `update_ratio` (asked over allowed).
          dt: time since the last step, epochs.
          finite: bool, shape=(): the step was. One that was not reaches only the governor.
        """
        signals = jax.lax.stop_gradient(dict(signals))
        moving = {gate: moves & finite for gate, moves in self._moving(state).items()}
        bank, info = self.bank.update(state.bank, signals, dt=dt, moving=moving, counted=finite)
        governor, _ = self.governor.update_step(state.governor, finite)
        coupling = self.coupling.update_step(state.coupling, signals["H_K_usage"], finite)
        sums = {name: state.sums[name] + jnp.where(finite, signals[name], 0.0) for name in self.summed()}
        new = state._replace(bank=bank, governor=governor, coupling=coupling, sums=sums, steps=state.steps + finite)
        return new, system_metrics.of_step(self.bank, info)

    def end_epoch(
        self, state: ControlState, signals: Mapping[str, Array], *, probed: Array
    ) -> tuple[ControlState, Metrics]:
        """Control an epoch later, and what is said of it; once an epoch.

        Args:
          state: after the epoch's last step.
          signals: of the last probe: `lyapunov`, `alpha`, `beta`, `gamma`, `delta`, and the pair of the estimate
            `probe`.
          probed: bool, shape=(): the probe's signals are new.
        """
        count = jnp.where(state.steps > 0, state.steps, jnp.nan)  # no finite step: NaN, read as not measured
        average = {name: total / count for name, total in state.sums.items()}
        # The probe's are of this moment, the others of the epoch.
        source = signals if self.estimate == "probe" else average
        information, usage = (source[name] for name in ESTIMATES[self.estimate])
        before, known = self.coupling.last_information(state.coupling)
        coupling, mixing = self.coupling.end_epoch(state.coupling, information=information, usage_entropy=usage)
        bank, contracts = self.bank.end_epoch(state.bank, moving=self._moving(state))
        bank = self._retargeted(bank, mixing.epsilon)
        holds = mixing.grounded & ~mixing.over_mixing
        ready = self._level(average["update_ratio"]) & holds & ~jnp.any(contracts.working)
        ending = self.ending.update(state.ending, average["progress"], ready=ready)
        scales = {name: signals[name] for name in ("alpha", "beta", "gamma", "delta")}
        hierarchy, barriers = self.hierarchy.update(state.hierarchy, **scales, measured=probed)
        unsatisfiable = jnp.any(contracts.unsatisfiable)
        governor, decision = self.governor.update_epoch(
            state.governor,
            loss=signals["lyapunov"] if self.rate_signal == "lyapunov" else average["task"],
            information=information,
            grounding_target=mixing.epsilon,
            over_mixing=mixing.over_mixing,
            update_ratio=average["update_ratio"],
            barrier=barriers.barrier,
            barrier_measured=probed,
            hold=(unsatisfiable & self.hold_rate_on_saturation) | (state.ending.began > 0),
        )
        stable = known & (jnp.abs(information - before) <= self.stability * jnp.abs(information))
        window = self.window.update(state.window, holds, stable)
        sums = jax.tree.map(jnp.zeros_like, state.sums)
        new = ControlState(bank, governor, coupling, window, hierarchy, ending, sums, jnp.zeros_like(state.steps))
        return new, {
            **system_metrics.of_rate(decision),
            **system_metrics.of_ending(self.ending, ending),
            **system_metrics.of_window(mixing, usage),
            "gate/phase": phase(self._warm(state), window),
            **system_metrics.of_drift(hierarchy, barriers),
            **system_metrics.of_contracts(self.bank, contracts, target=state.bank.target, frozen=bank.frozen),
        }

    def summed(self) -> tuple[str, ...]:
        """Signals of which an epoch takes the mean."""
        return tuple(dict.fromkeys(("task", "progress", *ESTIMATES[self.estimate], "update_ratio")))

    def _level(self, ratio: Array) -> Array:
        """Whether the rate is about as large as the caps allow, where there are any; shape=()."""
        return (ratio <= 0) | (ratio >= LEVEL)

    def _warm(self, state: ControlState) -> Array:
        return state.governor.epoch >= self.warmup_epochs

    def _moving(self, state: ControlState) -> dict[str, Array]:
        """Gate → whether the rows behind it adapt."""
        return {
            "none": jnp.bool_(True),
            "warmup": self._warm(state),
            "hold": state.window.opened,
            "window": state.window.ramp > 0,
        }

    def _retargeted(self, bank: BankState, epsilon: Array) -> BankState:
        """ε is the target of the window's contract, where there is one."""
        return self.bank.retarget(bank, "window", epsilon) if "window" in self.bank.slices else bank
