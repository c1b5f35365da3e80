"""Control of a run: the bank of weights, the governor of the rate and the gates, as one state and pure functions."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.control.bank import Bank, BankState
from topojax.control.governor import Governor, GovernorState
from topojax.control.protocol import Gate, GateState
from topojax.types import Array, Metrics


class ControlState(NamedTuple):
    """Everything control remembers; lives next to the params, in the checkpoint too."""

    bank: BankState
    governor: GovernorState
    window: GateState
    sums: dict[str, Array]  # name → shape=(), float32: sums over the steps of this epoch
    steps: Array  # shape=(), int32: finite steps of this epoch


class Control(NamedTuple):
    """Pure functions of the whole of control.

    Attributes:
      init: () → ControlState.
      weights: state → {contract: weight}, gates applied, gradient stopped.
      update: (state, signals, *, dt, finite) → (state, metrics): every step. `signals` maps names to arrays; it holds
        the bank's signals and `loss` (unweighted likelihoods), `I_XK`, `H_K`, `update_ratio` (asked over allowed). Of
        a step that was not finite only the governor hears.
      end_epoch: state → (state, metrics): once an epoch.
      quiet: state → metrics of the same names as `end_epoch`, for the steps in between.
    """

    init: Callable[[], ControlState]
    weights: Callable[[ControlState], dict[str, Array]]
    update: Callable[..., tuple[ControlState, Metrics]]
    end_epoch: Callable[[ControlState], tuple[ControlState, Metrics]]
    quiet: Callable[[ControlState], Metrics]


EPOCH_SUMS = ("loss", "I_XK", "H_K", "update_ratio")


def control(
    bank: Bank,
    governor: Governor,
    window: Gate,
    *,
    log_charts: float,
    grounding: float,
    over_mixing: tuple[float, float],
) -> Control:
    """Interlock the parts: what the window says opens gates and holds the rate.

    Args:
      bank: weights of all contracts.
      governor: of the learning rate.
      window: the gate that jump and invariances wait for.
      log_charts: log N, nats.
      grounding: ε of the coupling window, nats.
      over_mixing: (high, low): over-mixed where H(K) > (1 − high) log N and I(X;K) < low · log N, both at once: a
        perfect balanced atlas has H(K) = I = log N (theory 1.3).
    """
    high, low = over_mixing
    sizes = np.array([bank.slices[row.name].stop - bank.slices[row.name].start for row in bank.rows], int)
    mean = np.repeat(np.eye(len(sizes), dtype=np.float32) / sizes[:, None].astype(np.float32), sizes, axis=1)

    def init() -> ControlState:
        sums = {name: jnp.zeros((), jnp.float32) for name in EPOCH_SUMS}
        return ControlState(bank.init(), governor.init(), window.init(), sums, jnp.zeros((), jnp.int32))

    def openings(state: ControlState) -> dict[str, Array]:
        return {"none": jnp.float32(1.0), "hold": jnp.float32(1.0), "window": state.window.ramp}

    def moving(state: ControlState) -> dict[str, Array]:
        return {"none": jnp.bool_(True), "hold": state.window.opened, "window": state.window.ramp > 0}

    def weights(state: ControlState) -> dict[str, Array]:
        return bank.weights(state.bank, openings(state))

    def update(
        state: ControlState, signals: Mapping[str, Array], *, dt: float, finite: Array
    ) -> tuple[ControlState, Metrics]:
        signals = jax.lax.stop_gradient(dict(signals))
        moves = {gate: opened & finite for gate, opened in moving(state).items()}
        moved, info = bank.update(state.bank, signals, dt=dt, moving=moves, counted=finite)
        rate, _ = governor.update_step(state.governor, finite)
        sums = {name: state.sums[name] + jnp.where(finite, signals[name], 0.0) for name in EPOCH_SUMS}
        new = ControlState(moved, rate, state.window, sums, state.steps + finite)
        return new, {f"contract/*/{part}": mean @ getattr(info, part) for part in ("p", "i", "d")}

    def end_epoch(state: ControlState) -> tuple[ControlState, Metrics]:
        count = state.steps.astype(jnp.float32)  # 0 steps: NaN, which the governor reads as not measured
        average = {name: total / count for name, total in state.sums.items()}
        mixed = (average["H_K"] > (1 - high) * log_charts) & (average["I_XK"] < low * log_charts)
        held, epoch = bank.end_epoch(state.bank)
        rate, decision = governor.update_epoch(
            state.governor,
            loss=average["loss"],
            information=average["I_XK"],
            grounding_target=grounding,
            over_mixing=mixed,
            update_ratio=average["update_ratio"],
        )
        opened = window.update(state.window, (average["I_XK"] >= grounding) & ~mixed)
        zeros = jax.tree.map(jnp.zeros_like, state.sums)
        new = ControlState(held, rate, opened, zeros, jnp.zeros_like(state.steps))
        return new, {
            "governor/cause": decision.cause,
            "governor/grounded": decision.grounded,
            "governor/exhausted": decision.exhausted,
            "window/over_mixing": mixed,
            # Of a per-chart contract the log keeps the mean, and any chart that cannot be satisfied.
            "contract/*/signal": mean @ epoch.signal,
            "contract/*/target": mean @ state.bank.target,
            "contract/*/error": mean @ epoch.error,
            "contract/*/unsatisfiable": mean @ epoch.unsatisfiable > 0,
        }

    def quiet(state: ControlState) -> Metrics:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda s: end_epoch(s)[1], state))

    return Control(init, weights, update, end_epoch, quiet)
