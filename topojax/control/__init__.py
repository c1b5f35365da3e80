"""Controllers of loss weights and of the learning rate: pure functions, usable in any JAX training loop.

`dual_ascent` for constraints, `pid` for set-points, `tracking` for weights that follow a measurement, `precision` for
likelihood scales; `governor` for the rate, `caps` for its bounds; `gate` for what has to wait for a condition. `bank`
drives a whole table of contracts as one controller.
"""

from topojax.control import caps, precision
from topojax.control.bank import Bank, BankState, bank
from topojax.control.base import Controller, Info
from topojax.control.gate import Gate, GateState, gate
from topojax.control.governor import CAUSES, Decision, Governor, GovernorState, governor
from topojax.control.pid import Pid, PidState, pid, report_form_is_stable
from topojax.control.primal_dual import DualAscent, DualState, dual_ascent
from topojax.control.rows import Contract
from topojax.control.tracking import Tracking, TrackingState, tracking

__all__ = [
    "CAUSES",
    "Bank",
    "BankState",
    "Contract",
    "Controller",
    "Decision",
    "DualAscent",
    "DualState",
    "Gate",
    "GateState",
    "Governor",
    "GovernorState",
    "Info",
    "Pid",
    "PidState",
    "Tracking",
    "TrackingState",
    "bank",
    "caps",
    "dual_ascent",
    "gate",
    "governor",
    "pid",
    "precision",
    "report_form_is_stable",
    "tracking",
]
