"""Control of a run: weights, rate, window, drift hierarchy and gates, as one state and a few pure functions."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.coupling import Coupling, CouplingState
from topojax.atlas.hierarchy import BARRIERS, GROUPS, Hierarchy, HierarchyState
from topojax.control.bank import Bank, BankState
from topojax.control.gate import Gate, GateState, phase
from topojax.control.governor import Governor, GovernorState
from topojax.types import Array, Metrics

ESTIMATES = {"epoch": ("I_XK", "H_K"), "usage": ("I_XK_usage", "H_K_usage"), "probe": ("I_XK_probe", "H_K_probe")}
"""Where decisions read I(X;K) and H(K) → the names of the two signals: means over the epoch's batches, a decayed
average of usage, or the probe batch."""
RATE_SIGNALS = ("task", "lyapunov")
"""What the governor watches: the unweighted task loss over the epoch, or V_L on the probe batch."""


class ControlState(NamedTuple):
    """Everything control remembers; lives next to the params, in the checkpoint too."""

    bank: BankState
    governor: GovernorState
    coupling: CouplingState
    window: GateState
    hierarchy: HierarchyState
    sums: dict[str, Array]  # name → shape=(), float32: sums over the steps of this epoch
    steps: Array  # shape=(), int32: finite steps of this epoch


class Control(NamedTuple):
    """Pure functions of the whole of control.

    Attributes:
      init: () → ControlState.
      weights: state → {contract: weight}, gates applied, gradient stopped.
      update: (state, signals, *, dt, finite) → (state, metrics): every step. `signals` maps names to arrays: those that
        contracts hold or follow, `task` (unweighted likelihoods), the pair of `ESTIMATES`, `H_K_usage`, `update_ratio`
        (asked over allowed), and from the last probe `lyapunov`, `alpha`, `beta`, `gamma`, `delta`. Of a step that was
        not finite only the governor hears.
      targets: state → {contract: target}, in the signals' units.
      violation: (state, signals) → Σ ½ max(0, C_k)², the contracts' part of V_L.
      end_epoch: (state, signals, *, probed) → (state, metrics): once an epoch; `probed` says whether the probe's
        signals are new.
    """

    init: Callable[[], ControlState]
    weights: Callable[[ControlState], dict[str, Array]]
    update: Callable[..., tuple[ControlState, Metrics]]
    targets: Callable[[ControlState], dict[str, Array]]
    violation: Callable[[ControlState, Mapping[str, Array]], Array]
    end_epoch: Callable[..., tuple[ControlState, Metrics]]


def control(
    bank: Bank,
    governor: Governor,
    coupling: Coupling,
    window: Gate,
    hierarchy: Hierarchy,
    *,
    estimate: str = "epoch",
    rate_signal: str = "task",
    stability: float = 0.05,
    warmup_epochs: int = 0,
    hold_rate_on_saturation: bool = False,
) -> Control:
    """Interlock the parts: what the window says opens gates and holds the rate (report §1, §4).

    Args:
      bank: weights of all contracts.
      governor: of the learning rate.
      coupling: the window I(X;K) ≥ ε, and over-mixing.
      window: the gate that jump and invariances wait for.
      hierarchy: α, β, γ, δ and the rates of parameter groups.
      estimate: a key of `ESTIMATES`.
      rate_signal: one of `RATE_SIGNALS`.
      stability: largest relative change of I(X;K) from one epoch to the next that counts as stable; the window must
        have held, and been stable, before its gate opens (theory 1.11).
      warmup_epochs: epochs of phase 1, in which rows behind the gate `warmup` weigh nothing.
      hold_rate_on_saturation: no growth of the rate while a contract cannot be satisfied.
    """
    information_name, usage_name = ESTIMATES[estimate]
    epoch_sums = tuple(dict.fromkeys(("task", information_name, usage_name, "update_ratio")))
    sizes = np.array([bank.slices[row.name].stop - bank.slices[row.name].start for row in bank.rows], int)
    mean = np.repeat(np.eye(len(sizes), dtype=np.float32) / sizes[:, None].astype(np.float32), sizes, axis=1)
    has_window = any(row.name == "window" for row in bank.rows)

    def by_row(values: Array) -> Array:
        """Mean over each row's entries; NaN stays in its own row."""
        finite = jnp.isfinite(values)
        return jnp.where(mean @ finite > 1 - 1e-6, mean @ jnp.where(finite, values, 0.0), jnp.nan)

    def init() -> ControlState:
        sums = {name: jnp.zeros((), jnp.float32) for name in epoch_sums}
        mixing = coupling.init()
        held = bank.retarget(bank.init(), "window", mixing.epsilon) if has_window else bank.init()
        parts = (held, governor.init(), mixing, window.init(), hierarchy.init())
        return ControlState(*parts, sums, jnp.zeros((), jnp.int32))

    def warm(state: ControlState) -> Array:
        return state.governor.epoch >= warmup_epochs

    def openings(state: ControlState) -> dict[str, Array]:
        one = jnp.float32(1.0)
        return {"none": one, "hold": one, "warmup": warm(state).astype(jnp.float32), "window": state.window.ramp}

    def moving(state: ControlState) -> dict[str, Array]:
        return {
            "none": jnp.bool_(True),
            "warmup": warm(state),
            "hold": state.window.opened,
            "window": state.window.ramp > 0,
        }

    def weights(state: ControlState) -> dict[str, Array]:
        return bank.weights(state.bank, openings(state))

    def update(
        state: ControlState, signals: Mapping[str, Array], *, dt: float, finite: Array
    ) -> tuple[ControlState, Metrics]:
        signals = jax.lax.stop_gradient(dict(signals))
        moves = {gate: opened & finite for gate, opened in moving(state).items()}
        moved, info = bank.update(state.bank, signals, dt=dt, moving=moves, counted=finite)
        rate, _ = governor.update_step(state.governor, finite)
        mixing = coupling.update_step(state.coupling, signals["H_K_usage"], finite)
        sums = {name: state.sums[name] + jnp.where(finite, signals[name], 0.0) for name in epoch_sums}
        new = state._replace(bank=moved, governor=rate, coupling=mixing, sums=sums, steps=state.steps + finite)
        return new, {f"contract/*/{part}": mean @ getattr(info, part) for part in ("p", "i", "d")}

    def violation(state: ControlState, signals: Mapping[str, Array]) -> Array:
        error = bank.errors(state.bank, signals)
        violated = jnp.where(bank.equal, jnp.abs(error), jnp.maximum(error, 0.0))
        return 0.5 * jnp.sum(jnp.where(jnp.isfinite(violated), violated**2, 0.0))

    def end_epoch(state: ControlState, signals: Mapping[str, Array], *, probed: Array) -> tuple[ControlState, Metrics]:
        count = jnp.where(state.steps > 0, state.steps, jnp.nan)  # no finite step: NaN, read as not measured
        average = {name: total / count for name, total in state.sums.items()}
        # The probe's are of this moment, the others of the epoch.
        seen_by = signals if estimate == "probe" else average
        information, usage = seen_by[information_name], seen_by[usage_name]
        before, known = coupling.last_information(state.coupling)
        mixing, seen = coupling.end_epoch(state.coupling, information=information, usage_entropy=usage)
        held, epoch = bank.end_epoch(state.bank, moving=moving(state))
        if has_window:
            held = bank.retarget(held, "window", seen.epsilon)
        drift, barriers = hierarchy.update(
            state.hierarchy, **{name: signals[name] for name in ("alpha", "beta", "gamma", "delta")}, measured=probed
        )
        unsatisfiable = jnp.any(epoch.unsatisfiable)
        rate, decision = governor.update_epoch(
            state.governor,
            loss=signals["lyapunov"] if rate_signal == "lyapunov" else average["task"],
            information=information,
            grounding_target=seen.epsilon,
            over_mixing=seen.over_mixing,
            update_ratio=average["update_ratio"],
            barrier=barriers.barrier,
            barrier_measured=probed,
            hold=unsatisfiable & hold_rate_on_saturation,
        )
        holds = seen.grounded & ~seen.over_mixing
        stable = known & (jnp.abs(information - before) <= stability * jnp.abs(information))
        opened = window.update(state.window, holds, stable)
        zeros = jax.tree.map(jnp.zeros_like, state.sums)
        new = ControlState(held, rate, mixing, opened, drift, zeros, jnp.zeros_like(state.steps))
        return new, {
            "governor/cause": decision.cause,
            "governor/grounded": decision.grounded,
            "governor/exhausted": decision.exhausted,
            "governor/spike": decision.spike,
            "window/over_mixing": seen.over_mixing,
            "window/I_XK": information,
            "window/H_K": usage,
            "window/epsilon": seen.epsilon,
            "window/ceiling": seen.ceiling,
            "window/lambda_in": seen.lambda_in,
            "window/lambda_mix": seen.lambda_mix,
            "window/flows": seen.flows,
            "gate/phase": phase(warm(state), opened),
            **{f"hierarchy/{name}": drift.scales[i] for i, name in enumerate(("alpha", "beta", "gamma", "delta"))},
            **{f"hierarchy/behind_{name}": barriers.latched[i] for i, name in enumerate(BARRIERS)},
            "hierarchy/exhausted": jnp.any(barriers.exhausted),
            **{f"rate/{group}": drift.factors[i] for i, group in enumerate(GROUPS)},
            # Of a per-chart contract the log keeps the mean, and any chart that cannot be satisfied.
            "contract/*/signal": by_row(epoch.signal),
            "contract/*/target": mean @ state.bank.target,
            "contract/*/error": by_row(epoch.error),
            "contract/*/unsatisfiable": mean @ epoch.unsatisfiable > 0,
            "contract/*/frozen": mean @ held.frozen,
        }

    def targets(state: ControlState) -> dict[str, Array]:
        return bank.targets(state.bank)

    return Control(init, weights, update, targets, violation, end_epoch)
