"""Decisions of a run in words: what changed from one epoch's metrics to the next, and why."""

from collections.abc import Mapping
from typing import Any

from topojax.atlas.hierarchy import BARRIERS, GROUPS, OFFENDERS
from topojax.atlas.phases import PHASES
from topojax.control.ending import ENDINGS
from topojax.control.governor import CAUSES

CAPS = ("governor", "schedule", "update_ratio", "latent_speed")
"""Names of the codes of the metric `lr_cap`: what set the rate in force."""
LYAPUNOV_TOLERANCE = 0.1
"""Relative rise of V_L from one probe to the next that is worth a line."""

Row = Mapping[str, Any]
"""Metrics of one epoch on the host: name → number, None where it was not finite."""

_FLAGS = {
    "window/over_mixing": "over_mixing",
    "hierarchy/exhausted": "barrier_given_up",
}


def events(previous: Row, current: Row, advice: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a user may ask about later, in the order they would ask it.

      rate                    the governor's rate is not what it was: cause, from, to
      group_rate              the share of a parameter group is not what it was: group, cause, from, to
      cap                     another bound than before set the rate of the epoch's last step: from, to
      steps_skipped           steps that were not finite and changed nothing: count
      ending                  the rate falls from here on, to the end of the run: cause (settled: twice the epochs would
                              gain too little; horizon: in time for the last one), last (epoch), gain (of a doubling)
      spike                   the loss stands above its average by more than the tolerance: loss
      lyapunov_rose           V_L on the probe batch is larger than at the last probe: by (relative), value
      phase                   of the protocol: from, to
      gate_opened             the window has held: jump and invariances start
      grounding_lost          I(X;K) has fallen below ε: value, epsilon
      over_mixing             charts all used, but not by the data
      mixing_outruns_inflow   λ_mix > λ_in: lambda_in, lambda_mix
      grounding_given_up      cuts of the rate did not bring grounding back; it is held
      barrier                 a drift scale is too large for the next: scale, groups that it slows, the four scales
      barrier_given_up        cutting or freezing those groups did not help; they are let go
      revived                 dead codes and charts that took over half of another: codes, charts
      signal_not_finite       a contract's signal could not be used, its weight stood still: name, count
      constraint_unsatisfied  a weight sits at its maximum and its contract is still violated: name, value,
                              target, weight, advice

    Conditions speak once, when they begin. Training itself adds, in the epoch that it is about to train,

      setting                 a setting is not what it was at the last checkpoint: field, from, to
      schedule_changed        the run is longer or shorter than it was, and so is its schedule: caps and epochs
      rolled_back             steps were not finite, and the run began again from its last checkpoint: the epoch that
                              failed, the attempt, the tensor and the term that were first not finite, the rate from, to

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
    found += [
        *_ending(previous, current),
        *_group_rates(previous, current),
        *_caps(previous, current),
        *_loss(previous, current),
    ]
    found += [*_window(previous, current), *_barriers(previous, current)]
    found += [{"event": name} for flag, name in _FLAGS.items() if _begins(flag, previous, current)]
    if _ungrounded(current) and not _ungrounded(previous):
        found.append({"event": "grounding_given_up"})
    if any(current.get(f"revived/{kind}") for kind in ("codes", "charts")):
        found.append(
            {"event": "revived", **{kind: int(current[f"revived/{kind}"] or 0) for kind in ("codes", "charts")}}
        )
    for name in advice:
        count = (current.get(f"contract/{name}/frozen") or 0) - (previous.get(f"contract/{name}/frozen") or 0)
        if count > 0:
            # Of a per-chart contract the mean over charts: one chart at one step is still an event.
            found.append({"event": "signal_not_finite", "name": name, "count": max(1, round(count))})
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


def _ending(previous: Row, current: Row) -> list[dict[str, Any]]:
    cause = int(current.get("ending/cause") or 0)
    if not cause or cause == int(previous.get("ending/cause") or 0):
        return []
    about = {"last": int(current["ending/last"]), "gain": current.get("ending/gain")}
    return [{"event": "ending", "cause": ENDINGS[cause], **about}]


def _group_rates(previous: Row, current: Row) -> list[dict[str, Any]]:
    found = []
    for group in GROUPS:
        old, new = previous.get(f"rate/{group}", 1.0), current.get(f"rate/{group}")
        if new is None or old is None or old == new:
            continue
        behind = [b for b in BARRIERS if group in OFFENDERS[b] and current.get(f"hierarchy/behind_{b}")]
        cause = " and ".join(behind) if new < old else "released"
        found.append({"event": "group_rate", "group": group, "cause": cause, "from": old, "to": new})
    return found


def _caps(previous: Row, current: Row) -> list[dict[str, Any]]:
    old, new = previous.get("lr_cap"), current.get("lr_cap")
    if old is None or new is None or old == new:
        return []
    return [{"event": "cap", "from": CAPS[int(old)], "to": CAPS[int(new)]}]


def _loss(previous: Row, current: Row) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if _begins("governor/spike", previous, current):
        found.append({"event": "spike", "loss": current.get("signal/task")})
    rise, value = current.get("probe/V_L_rise"), current.get("probe/V_L")
    if rise and rise > LYAPUNOV_TOLERANCE and value != previous.get("probe/V_L"):
        found.append({"event": "lyapunov_rose", "by": rise, "value": value})
    return found


def _window(previous: Row, current: Row) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    old, new = (int(row.get("gate/phase") or 0) for row in (previous, current))
    if old != new:
        found.append({"event": "phase", "from": PHASES[old], "to": PHASES[new]})
    if current.get("gate/window") and not previous.get("gate/window"):
        found.append({"event": "gate_opened", "gate": "window"})
    if previous.get("governor/grounded") and not current.get("governor/grounded"):
        at = {"value": current.get("window/I_XK"), "epsilon": current.get("window/epsilon")}
        found.append({"event": "grounding_lost", **at})
    if previous.get("window/flows") and not current.get("window/flows"):
        flow = {name: current.get(f"window/{name}") for name in ("lambda_in", "lambda_mix")}
        found.append({"event": "mixing_outruns_inflow", **flow})
    return found


def _barriers(previous: Row, current: Row) -> list[dict[str, Any]]:
    scales = {name: current.get(f"hierarchy/{name}") for name in ("alpha", "beta", "gamma", "delta")}
    return [
        {"event": "barrier", "scale": name, "groups": ", ".join(OFFENDERS[name]), **scales}
        for name in BARRIERS
        if _begins(f"hierarchy/behind_{name}", previous, current)
    ]


def _ungrounded(row: Row) -> bool:
    """The governor's cuts are used up on grounding, not on a barrier."""
    return bool(row.get("governor/exhausted")) and not row.get("governor/grounded")


def _begins(flag: str, previous: Row, current: Row) -> bool:
    return bool(current.get(flag)) and not previous.get(flag)
