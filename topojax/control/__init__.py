"""Control of a loss of many terms, and of the learning rate: pure functions, usable in any JAX training loop.

`contracts` makes a problem of constraints over pytrees (`at_most`, `at_least`, `equal`, `between`) and of weighed
terms (`likelihood`, `balanced`); it holds the signs, the terms and the multipliers. Their laws are controllers that
also stand alone: `dual_ascent`, `nu_pi`, `pid`, `tracking`, `by_optax`. `scale_by_governor` is the rate as an
optax transform, `governor` the same for epochs, `caps` its bounds; `gate` is
for what has to wait for a condition, `bank` for a table of contracts as rows of data.
"""

from topojax.control import caps, precision
from topojax.control.bank import Bank, BankState, bank
from topojax.control.base import Controller, Info
from topojax.control.constraints import (
    Constraint,
    Options,
    Proxy,
    Rule,
    ascent,
    at_least,
    at_most,
    between,
    equal,
    nupi,
    pi,
)
from topojax.control.gate import Gate, GateState, gate
from topojax.control.governor import CAUSES, Decision, Governor, GovernorState, governor
from topojax.control.learning_rate import (
    ScaleByGovernorState,
    bound,
    cause,
    keep_finite,
    scale_by_governor,
    update_ratio,
)
from topojax.control.likelihoods import Balanced, Weighing, balanced, likelihood
from topojax.control.nupi import NuPi, NuPiState, nu_pi
from topojax.control.optimizer import Optax, OptaxState, by_optax
from topojax.control.penalty import Penalty, augmented
from topojax.control.pid import Pid, PidState, pid, report_form_is_stable
from topojax.control.primal_dual import DualAscent, DualState, dual_ascent
from topojax.control.problem import Duals, Problem, contracts
from topojax.control.rows import Contract
from topojax.control.tracking import Tracking, TrackingState, tracking
from topojax.control.verdict import Line, Report

__all__ = [
    "CAUSES",
    "Balanced",
    "Bank",
    "BankState",
    "Constraint",
    "Contract",
    "Controller",
    "Decision",
    "DualAscent",
    "DualState",
    "Duals",
    "Gate",
    "GateState",
    "Governor",
    "GovernorState",
    "Info",
    "Line",
    "NuPi",
    "NuPiState",
    "Optax",
    "OptaxState",
    "Options",
    "Penalty",
    "Pid",
    "PidState",
    "Problem",
    "Proxy",
    "Report",
    "Rule",
    "ScaleByGovernorState",
    "Tracking",
    "TrackingState",
    "Weighing",
    "ascent",
    "at_least",
    "at_most",
    "augmented",
    "balanced",
    "bank",
    "between",
    "bound",
    "by_optax",
    "caps",
    "cause",
    "contracts",
    "dual_ascent",
    "equal",
    "gate",
    "governor",
    "keep_finite",
    "likelihood",
    "nu_pi",
    "nupi",
    "pi",
    "pid",
    "precision",
    "report_form_is_stable",
    "scale_by_governor",
    "tracking",
    "update_ratio",
]
