"""Decisions of a run in words: what changed from one epoch's metrics to the next, and why."""

from collections.abc import Mapping
from typing import Any

from topojax.control.governor import CAUSES

Row = Mapping[str, Any]
"""Metrics of one epoch on the host: name → number, None where it was not finite."""

_FLAGS = {"window/over_mixing": "over_mixing", "governor/exhausted": "grounding_given_up"}


def events(previous: Row, current: Row, advice: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a user may ask about later, in the order they would ask it.

      rate                    the governor's rate is not what it was: cause, from, to
      steps_skipped           steps that were not finite and changed nothing: count
      gate_opened             the window has held: jump and invariances start
      over_mixing             charts all used, but not by the data
      grounding_given_up      cuts of the rate did not bring grounding back; it is held
      constraint_unsatisfied  a weight sits at its maximum and its contract is still violated: name, value,
                              target, weight, advice

    All but `rate` and `steps_skipped` speak once, when the condition begins.

    Args:
      previous: the epoch before; for the first epoch, {'lr_governor': the initial rate}.
      current: this epoch, with the rate that its end has decided.
      advice: contract → what to change in the model.

    Returns:
      One dict an event, with the key 'event'.
    """
    found = _rate(previous, current)
    if current.get("guard/skipped"):
        found.append({"event": "steps_skipped", "count": int(current["guard/skipped"])})
    if current.get("gate/window") and not previous.get("gate/window"):
        found.append({"event": "gate_opened", "gate": "window"})
    found += [{"event": name} for flag, name in _FLAGS.items() if _begins(flag, previous, current)]
    for contract in unsatisfied(current, advice):
        if not previous.get(f"contract/{contract['name']}/unsatisfiable"):
            found.append({"event": "constraint_unsatisfied", **contract})
    return found


def unsatisfied(row: Row, advice: Mapping[str, str]) -> list[dict[str, Any]]:
    """Contracts that are violated with their weight at its maximum: name, value, target, weight, advice.

    Args:
      row: an epoch's metrics.
      advice: contract → what to change in the model.
    """
    names = [flag.split("/")[1] for flag in row if flag.endswith("/unsatisfiable") and row[flag]]
    return [
        {
            "name": name,
            "value": row.get(f"contract/{name}/signal"),
            "target": row.get(f"contract/{name}/target"),
            "weight": row.get(f"weight/{name}"),
            "advice": advice.get(name, ""),
        }
        for name in names
    ]


def _rate(previous: Row, current: Row) -> list[dict[str, Any]]:
    old, new = previous.get("lr_governor"), current.get("lr_governor")
    if old is None or new is None or old == new:
        return []
    decided = CAUSES[int(current.get("governor/cause") or 0)]
    causes = [decided] if decided != "none" else []
    if current.get("guard/skipped"):  # a step that is not finite cuts at once
        causes.append("non_finite")
    return [{"event": "rate", "cause": " and ".join(causes) or "unknown", "from": old, "to": new}]


def _begins(flag: str, previous: Row, current: Row) -> bool:
    return bool(current.get(flag)) and not previous.get(flag)
