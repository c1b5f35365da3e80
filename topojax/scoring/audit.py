"""The contracts of a run, held against what was measured: who is satisfied, who is not, and what to do about it.

`topojax contracts --workdir=runs/digits` prints the table of any checkpoint.
"""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topojax.atlas.controllers import select_rows
from topojax.atlas.phases import PHASES
from topojax.control.bank import EQUAL_TOLERANCE as TOLERANCE
from topojax.storage.logs import rows_of


def audit(
    config: Any, row: Mapping[str, float | None], history: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Each contract of a run at the end of an epoch.

    Args:
      config: of the run.
      row: metrics of the epoch, name → number, None where it was not finite.
      history: logged rows of the last fifth of the run, for the ripple of the weights.

    Returns:
      A dict a contract: contract, mechanism (`constant` where the weight does not move), signal (what is held), value,
      relation, target (both in the signal's unit), error (dimensionless, positive = violated), weight (gates applied),
      satisfied (None: not measured), saturated (at its maximum and violated for `monitor.saturation_patience` epochs),
      gated (its gate has not opened), ripple (of the weight, see `ripple`), advice ('' where satisfied).
    """
    table = []
    for contract in select_rows(config):
        value, target, error, stuck = (
            row.get(f"contract/{contract.name}/{field}") for field in ("signal", "target", "error", "unsatisfiable")
        )
        satisfied = None
        if error is not None:
            satisfied = (abs(error) if contract.relation == "=" else error) <= TOLERANCE
        table.append(
            {
                "contract": contract.name,
                "mechanism": contract.mechanism if contract.adaptive else "constant",
                "signal": contract.signal,
                "value": value,
                "relation": contract.relation,
                "target": target,
                "error": error,
                "weight": row.get(f"weight/{contract.name}"),
                "satisfied": satisfied,
                "saturated": bool(stuck),
                "gated": waits(contract.gate, row),
                "ripple": ripple([past.get(f"weight/{contract.name}") for past in history], contract.initial),
                "advice": "" if satisfied else contract.advice,
            }
        )
    return table


def waits(gate: str, row: Mapping[str, float | None]) -> bool:
    """Whether rows behind a gate are still waiting for it."""
    phase = PHASES[int(row.get("gate/phase") or 0)]
    waiting = {"warmup": ("warmup",), "hold": ("warmup", "coupling"), "window": ("warmup", "coupling")}
    return phase in waiting.get(gate, ())


def ripple(weights: Sequence[float | None], initial: float) -> float | None:
    """Oscillation of a weight: RMS about its linear trend, over the larger of its mean and its initial value.

    A weight that has fallen far below where it began is switched off, and its last wiggles are no ripple. None for
    fewer than four numbers.
    """
    if len(weights) < 4 or any(w is None for w in weights):
        return None
    w = np.asarray(weights, float)
    t = np.arange(len(w)) - (len(w) - 1) / 2
    around = w - w.mean() - t * (t @ w) / (t @ t)
    return round(float(np.sqrt(np.mean(around**2)) / max(w.mean(), abs(initial), 1e-12)), 6)


def last_fifth(workdir: pathlib.Path, epoch: int) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl in the last 20 % of the epochs up to `epoch`."""
    return [row for row in rows_of(workdir / "metrics.jsonl") if 0.8 * epoch < row["epoch"] <= epoch]


def show(workdir: pathlib.Path, step: int | None = None, *, averaged: bool = False) -> str:
    """The table of a checkpoint as text.

    Args:
      workdir: of a run.
      step: which checkpoint, by epoch; the last unless told.
      averaged: what is held is measured once more, on the parameters that evaluation reads and on examples that are not
        moved (`scoring.averaged`); the data must be at hand.

    Raises:
      UserError: nothing there, no such checkpoint, or the data are gone.
    """
    from topojax.scoring.run import restore
    from topojax.storage.checkpoint import Checkpoints
    from topojax.tracking.console import contract_table

    run = restore(workdir, step)  # of the state, too: one that is damaged is not what scores are of
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints:
        meta = checkpoints.meta(run.epoch)
    config, row, about = run.config, meta["previous"], ""
    if averaged:
        from topojax.scoring.averaged import measured
        from topojax.scoring.split import load_splits

        again = measured(run, load_splits(run)[0])
        row = row | {name: value for name, value in again.items() if name.startswith("contract/")}
        about = ", averaged parameters, training examples as they are"
    table = audit(config, row, last_fifth(workdir, meta["epoch"]))
    return f"{config.name}, epoch {meta['epoch']}{about}\n\n{contract_table(table)}"
