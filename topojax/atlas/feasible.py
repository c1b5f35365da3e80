"""Targets that contradict each other, and gains that cannot settle: said before a run, not found out by it."""

from collections.abc import Iterable, Mapping
from typing import Any

from topojax.atlas.table import Contract
from topojax.control.pid import report_form_is_stable

_SLACK = 1e-6


def conflicts(
    rows: Iterable[Contract],
    units: Mapping[str, float],
    *,
    two_sided: bool = False,
    largest_energy: float = float("inf"),
) -> list[str]:
    """Sentences that say which targets cannot hold together, and what to do (theory 1.3).

      I(X;K) = H(K) − H(K|X) at their set-points:   ε ≤ H*(K) − H*(K|X)
      the literal window:                           H*(K) ≤ log N − ε

    Args:
      rows: contracts of a run.
      units: unit → value in nats or 1 (`table.unit_values`).
      two_sided: the window loss bounds H(K) from above too.
      largest_energy: the largest E‖z − mean‖² that the latent can have, latent units squared.

    Returns:
      One sentence a conflict; empty where there is none.
    """
    by_name = {row.name: row for row in rows if row.target_rule == "absolute"}
    nats = {name: row.target * units[row.unit] for name, row in by_name.items()}
    log_charts = units["log_charts"]
    found = []
    for name, row in by_name.items():
        if row.unit.startswith("log_") and row.relation == ">=" and row.target > 1 + _SLACK:
            found.append(f"contracts.{name}.target = {row.target:g} {row.unit}: {row.signal} is at most 1 {row.unit}")
    if {"window", "diversity", "entropy"} <= set(nats):
        room = nats["diversity"] - nats["entropy"]
        if nats["window"] > room + _SLACK:
            found.append(
                f"contracts.window asks for I(X;K) >= {nats['window']:.3g} nats, but contracts.diversity "
                f"(H(K) {nats['diversity']:.3g}) and contracts.entropy (H(K|X) {nats['entropy']:.3g}) leave "
                f"{max(room, 0.0):.3g}: lower window's or entropy's target, or raise diversity's"
            )
    if two_sided and {"window", "diversity"} <= set(nats):
        ceiling = log_charts - nats["window"]
        if nats["diversity"] > ceiling + _SLACK:
            found.append(
                f"contracts.diversity asks for H(K) >= {nats['diversity']:.3g} nats, but with "
                f"losses.window_two_sided the window bounds it by log N - epsilon = {ceiling:.3g}: lower one target"
            )
    if {"sup_temperature", "sup_purity"} <= set(nats) and nats["sup_temperature"] > nats["sup_purity"] + _SLACK:
        found.append(
            f"contracts.sup_temperature holds class entropy at {nats['sup_temperature']:.3g} nats, but "
            f"contracts.sup_purity allows {nats['sup_purity']:.3g}: lower the former or raise the latter"
        )
    if nats.get("variance", 0.0) > largest_energy:
        found.append(
            f"contracts.variance.target = {nats['variance']:g} exceeds {largest_energy:.3g}, the largest energy of a "
            "latent in the ball: lower it, or set config.model.ball=False"
        )
    return found


def unstable_gains(rows: Iterable[Contract]) -> list[dict[str, Any]]:
    """PIDs in `report` form whose gains cannot settle on a response of their `lag` (`report_form_is_stable`).

    Returns:
      A dict for each: name, kp, ki, kd, lag, and the largest ki that would be stable at unit gain.
    """
    found = []
    for row in rows:
        if row.mechanism != "pid" or row.form != "report" or not row.adaptive:
            continue
        if not bool(report_form_is_stable(row.kp, row.ki, row.lag, kd=row.kd)):
            limit = row.kp * (1 + row.kd) / row.lag if row.lag else 0.0
            gains = {name: getattr(row, name) for name in ("kp", "ki", "kd", "lag")}
            found.append({"name": row.name, **gains, "ki_below": round(limit, 6)})
    return found
