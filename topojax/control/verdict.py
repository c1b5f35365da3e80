"""What a contract says, for people: value, target, multiplier, and whether it holds."""

from typing import Any, NamedTuple

import numpy as np

from topojax.control.constraints import RELATIONS
from topojax.control.groups import GroupState
from topojax.control.likelihoods import WeighingState
from topojax.control.members import Member, signs


class Line(NamedTuple):
    """One contract; of many entries the worst one is told, with how many hold."""

    contract: str
    relation: str  # "<=", ">=", "=", or "weight" of a term that is no constraint
    target: float  # in the measurement's unit
    value: float  # likewise, mean of the last update; NaN before the first
    multiplier: float
    satisfied: bool  # every entry holds within its tolerance
    saturated: bool  # an entry sits at the largest multiplier, violated, for `patience` updates
    violated: int  # updates in a row that an entry has been violated
    frozen: int  # measurements that were not finite
    entries: int
    holding: int  # of them


class Report(NamedTuple):
    """The contracts of a problem; `print` shows a table."""

    lines: tuple[Line, ...]

    def __getitem__(self, name: Any) -> Any:
        """The line of a contract, by its name."""
        if isinstance(name, str):
            lines = {line.contract: line for line in self.lines}
            if name not in lines:
                raise KeyError(f"no contract {name!r}; there are {', '.join(lines)}")
            return lines[name]
        return tuple.__getitem__(self, name)

    def __str__(self) -> str:
        """A table of one line a contract."""
        head = ("contract", "value", "target", "multiplier", "satisfied", "saturated")
        rows = [head, *(_cells(line) for line in self.lines)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
        return "\n".join("  ".join(row).rstrip() for row in padded)


def of_constraint(member: Member, state: GroupState, multipliers: np.ndarray) -> Line:
    """What a constraint's multipliers know.

    Args:
      member: the contract.
      state: of its group, on the host.
      multipliers: [n], of the group.
    """
    part = member.where
    constraint = member.constraint
    error, scale, bound = (np.asarray(array)[part] for array in (state.error, state.scale, state.bound))
    sign = signs(constraint, part.stop - part.start)
    off = np.abs(error) if constraint.relation == "equal" else error
    holds = off <= np.asarray(state.tolerance)[part]
    worst = int(np.nanargmax(off)) if np.isfinite(off).any() else 0
    relation = RELATIONS[constraint.relation]
    if constraint.relation == "between":
        relation = "<=" if sign[worst] > 0 else ">="
    multiplier = multipliers[part]
    saturated = np.asarray(state.saturated)[part] >= np.asarray(state.patience)[part]
    return Line(
        contract=member.name,
        relation=relation,
        target=float(bound[worst]),
        value=float(bound[worst] + sign[worst] * scale[worst] * error[worst]),
        multiplier=float(multiplier[worst]),
        satisfied=bool(holds.all()),
        saturated=bool(saturated.any()),
        violated=int(np.asarray(state.violated)[part].max()),
        frozen=int(np.asarray(state.frozen)[part].sum()),
        entries=len(error),
        holding=int(holds.sum()),
    )


def of_weighing(name: str, kind: str, state: WeighingState) -> Line:
    """What a weighed term knows: it has no target to miss."""
    weight = float(state.law.effective(state.weight))
    frozen = int(state.frozen)
    return Line(name, kind, float("nan"), float(state.value), weight, True, False, 0, frozen, 1, 1)


def _cells(line: Line) -> tuple[str, ...]:
    satisfied = "yes" if line.satisfied else "no"
    if not line.satisfied and line.violated > 1:
        satisfied += f", for {line.violated} updates"
    if line.entries > 1 and not line.satisfied:
        satisfied += f" ({line.holding} of {line.entries})"
    if np.isnan(line.value):
        satisfied = "not measured"
    target = line.relation if np.isnan(line.target) else f"{line.relation} {line.target:.4g}"
    saturated = "yes" if line.saturated else "no"
    return (line.contract, f"{line.value:.4g}", target, f"{line.multiplier:.4g}", satisfied, saturated)
