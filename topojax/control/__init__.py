"""Controllers of loss weights and of the learning rate: pure functions, usable in any JAX training loop.

`dual_ascent` for constraints, `pid` for set-points, `tracking` for weights that follow a measurement, `precision` for
likelihood scales; `governor` for the rate, `caps` for its bounds, `hierarchy` for rates of parameter groups; `coupling`
for the window I(X;K) ≥ ε, `gate` for what has to wait for it. `bank` drives a whole table of contracts as one
controller, `control` interlocks them all.
"""

from topojax.control import caps, precision
from topojax.control.bank import Bank, BankState, bank
from topojax.control.base import Controller, Info
from topojax.control.contracts import TABLE, Contract, select, unit_values
from topojax.control.coupling import Coupling, CouplingState, coupling
from topojax.control.feasible import conflicts, unstable_gains
from topojax.control.governor import CAUSES, Decision, Governor, GovernorState, governor
from topojax.control.hierarchy import Hierarchy, HierarchyState, hierarchy
from topojax.control.pid import PidState, pid, report_form_is_stable
from topojax.control.primal_dual import DualState, dual_ascent
from topojax.control.protocol import Gate, GateState, gate
from topojax.control.system import Control, ControlState, control
from topojax.control.tracking import TrackingState, tracking

__all__ = [
    "CAUSES",
    "TABLE",
    "Bank",
    "BankState",
    "Contract",
    "Control",
    "ControlState",
    "Controller",
    "Coupling",
    "CouplingState",
    "Decision",
    "DualState",
    "Gate",
    "GateState",
    "Governor",
    "GovernorState",
    "Hierarchy",
    "HierarchyState",
    "Info",
    "PidState",
    "TrackingState",
    "bank",
    "caps",
    "conflicts",
    "control",
    "coupling",
    "dual_ascent",
    "gate",
    "governor",
    "hierarchy",
    "pid",
    "precision",
    "report_form_is_stable",
    "select",
    "tracking",
    "unit_values",
    "unstable_gains",
]
