"""What control says of a step and of an epoch, under the names that logs and the report know."""

import jax.numpy as jnp

from topojax.atlas.coupling import CouplingInfo
from topojax.atlas.hierarchy import BARRIERS, GROUPS, SCALES, HierarchyInfo, HierarchyState
from topojax.control.bank import Bank, EpochInfo
from topojax.control.base import Info
from topojax.control.ending import Ending, EndingState
from topojax.control.governor import Decision
from topojax.types import Array, Metrics


def of_step(bank: Bank, info: Info) -> Metrics:
    """The parts of each contract's increment."""
    return {f"contract/*/{part}": bank.columns.mean @ getattr(info, part) for part in ("p", "i", "d")}


def of_rate(decision: Decision) -> Metrics:
    """What the governor decided, and on what grounds."""
    return {f"governor/{name}": getattr(decision, name) for name in ("cause", "grounded", "exhausted", "spike")}


def of_ending(ending: Ending, state: EndingState) -> Metrics:
    """What another doubling of the epochs would gain, and how the run ends."""
    known = state.seen > 2  # before, a number that is not finite would be no news
    return {
        "ending/gain": jnp.where(known, ending.gain(state), 0.0),
        "ending/cause": state.cause,
        "ending/last": state.last,
    }


def of_window(mixing: CouplingInfo, usage: Array) -> Metrics:
    """The coupling window; `usage` is the H(K) that was read."""
    return {
        "window/over_mixing": mixing.over_mixing,
        "window/I_XK": mixing.lambda_in,
        "window/H_K": usage,
        "window/epsilon": mixing.epsilon,
        "window/ceiling": mixing.ceiling,
        "window/lambda_in": mixing.lambda_in,
        "window/lambda_mix": mixing.lambda_mix,
        "window/flows": mixing.flows,
    }


def of_drift(state: HierarchyState, info: HierarchyInfo) -> Metrics:
    """Scales, the barriers that they are behind, and each group's share of the rate."""
    return {
        **{f"hierarchy/{name}": state.scales[i] for i, name in enumerate(SCALES)},
        **{f"hierarchy/behind_{name}": info.latched[i] for i, name in enumerate(BARRIERS)},
        "hierarchy/exhausted": info.exhausted.any(),
        **{f"rate/{group}": state.factors[i] for i, group in enumerate(GROUPS)},
    }


def of_contracts(bank: Bank, epoch: EpochInfo, *, target: Array, frozen: Array) -> Metrics:
    """Each contract's mean; of one with many weights, any that cannot be satisfied.

    Args:
      bank: whose rows they are.
      epoch: what it said.
      target: shape=(n,), that the epoch was held to.
      frozen: shape=(n,), of `BankState`.
    """
    columns = bank.columns
    return {
        "contract/*/signal": columns.by_row(epoch.signal),
        "contract/*/target": columns.mean @ target,
        "contract/*/error": columns.by_row(epoch.error),
        "contract/*/unsatisfiable": columns.mean @ epoch.unsatisfiable > 0,
        "contract/*/frozen": columns.mean @ frozen,
    }
