"""Control of a run: the bank of weights, the governor of the rate and the gates, as one state and pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from topojax.control.bank import Bank, BankState
from topojax.control.governor import Decision, Governor, GovernorState
from topojax.control.protocol import Gate, GateState
from topojax.types import Array


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
      update: (state, signals, *, dt) → (state, metrics): every step. `signals` maps names to arrays; it holds the
        bank's signals and `loss` (unweighted likelihoods), `I_XK`, `H_K`, `update_ratio` (asked over allowed).
      end_epoch: state → (state, metrics): once an epoch.
      skip: state → state: a step that was not finite; only the governor hears of it.
      quiet: state → metrics of the same names as `end_epoch`, for the steps in between.
    """

    init: Callable[[], ControlState]
    weights: Callable[[ControlState], dict[str, Array]]
    update: Callable[..., tuple[ControlState, dict[str, Array]]]
    end_epoch: Callable[[ControlState], tuple[ControlState, dict[str, Array]]]
    skip: Callable[[ControlState], ControlState]
    quiet: Callable[[ControlState], dict[str, Array]]


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
        state: ControlState, signals: Mapping[str, Array], *, dt: float
    ) -> tuple[ControlState, dict[str, Array]]:
        signals = jax.lax.stop_gradient(dict(signals))
        moved, info = bank.update(state.bank, signals, dt=dt, moving=moving(state))
        sums = {name: state.sums[name] + signals[name] for name in EPOCH_SUMS}
        metrics = {}
        for row in bank.rows:
            where = bank.slices[row.name]
            for part in ("p", "i", "d"):
                metrics[f"contract/{row.name}/{part}"] = jnp.mean(getattr(info, part)[where])
        return state._replace(bank=moved, sums=sums, steps=state.steps + 1), metrics

    def end_epoch(state: ControlState) -> tuple[ControlState, dict[str, Array]]:
        count = state.steps.astype(jnp.float32)  # 0 steps: NaN, which the governor reads as not measured
        mean = {name: total / count for name, total in state.sums.items()}
        mixed = (mean["H_K"] > (1 - high) * log_charts) & (mean["I_XK"] < low * log_charts)
        held, epoch = bank.end_epoch(state.bank)
        rate, decision = governor.update_epoch(
            state.governor,
            loss=mean["loss"],
            information=mean["I_XK"],
            grounding_target=grounding,
            over_mixing=mixed,
            update_ratio=mean["update_ratio"],
        )
        opened = window.update(state.window, (mean["I_XK"] >= grounding) & ~mixed)
        new = ControlState(
            held, rate, opened, jax.tree.map(jnp.zeros_like, state.sums), jnp.zeros_like(state.steps)
        )
        return new, report(epoch, decision, mixed, state.bank)

    def report(epoch: Any, decision: Decision, mixed: Array, state: BankState) -> dict[str, Array]:
        metrics = {
            "governor/cause": decision.cause,
            "governor/grounded": decision.grounded,
            "governor/exhausted": decision.exhausted,
            "window/over_mixing": mixed,
        }
        for row in bank.rows:
            where = bank.slices[row.name]
            # Of a per-chart contract the log keeps the mean, and the worst of what must not be averaged away.
            metrics |= {
                f"contract/{row.name}/signal": jnp.mean(epoch.signal[where]),
                f"contract/{row.name}/target": jnp.mean(state.target[where]),
                f"contract/{row.name}/error": jnp.mean(epoch.error[where]),
                f"contract/{row.name}/unsatisfiable": jnp.any(epoch.unsatisfiable[where]),
            }
        return metrics

    def skip(state: ControlState) -> ControlState:
        rate, _ = governor.update_step(state.governor, False)
        return state._replace(governor=rate)

    def quiet(state: ControlState) -> dict[str, Array]:
        return jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda s: end_epoch(s)[1], state)
        )

    return Control(init, weights, update, end_epoch, skip, quiet)
