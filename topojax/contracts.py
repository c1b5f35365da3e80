"""The contracts of a run, held against what was measured: who is satisfied, who is not, and what to do about it.

  python -m topojax.contracts --workdir=runs/digits [--step=50]

prints the table of any checkpoint.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from topojax.control import contracts
from topojax.errors import exit_status

TOLERANCE = 0.05
"""Dimensionless error up to which a contract counts as satisfied: 5 % of its target (of its unit, for set-points)."""


def audit(config: Any, row: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Each contract of a run at the end of an epoch.

    Args:
      config: of the run.
      row: metrics of the epoch, name → number, None where it was not finite.

    Returns:
      A dict a contract: contract, signal (what is held), value, relation, target (both in the signal's unit), error
      (dimensionless, positive = violated), weight (before gates), satisfied, saturated (at its maximum and violated for
      ten epochs), gated (its gate has not opened), advice ('' where satisfied). `satisfied` is None if not measured.
    """
    rows = contracts.select(config.contracts.to_dict(), labels=config.supervised.enabled)
    table = []
    for contract in rows:
        value, target, error, stuck = (
            row.get(f"contract/{contract.name}/{field}") for field in ("signal", "target", "error", "unsatisfiable")
        )
        satisfied = None
        if error is not None:
            satisfied = (abs(error) if contract.relation == "=" else error) <= TOLERANCE
        table.append(
            {
                "contract": contract.name,
                "signal": contract.signal,
                "value": value,
                "relation": contract.relation,
                "target": target,
                "error": error,
                "weight": row.get(f"weight/{contract.name}"),
                "satisfied": satisfied,
                "saturated": bool(stuck),
                "gated": contract.gate == "window" and not row.get("gate/window"),
                "advice": "" if satisfied else contract.advice,
            }
        )
    return table


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m topojax.contracts", description="Print the contracts of a run.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    parser.add_argument("--step", type=int, help="which checkpoint, by epoch (default: the last)")
    arguments = parser.parse_args()
    return exit_status(lambda: print(show(pathlib.Path(arguments.workdir), arguments.step)))


def show(workdir: pathlib.Path, step: int | None = None) -> str:
    """The table of a checkpoint as text.

    Raises:
      UserError: nothing there, or no such checkpoint.
    """
    from topojax.checkpoint import Checkpoints
    from topojax.console import contract_table
    from topojax.workdir import read_config

    config = read_config(workdir)
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        meta = checkpoints.meta(step)
    finally:
        checkpoints.close()
    return f"{config.name}, epoch {meta['epoch']}\n\n{contract_table(audit(config, meta['previous']))}"


if __name__ == "__main__":
    sys.exit(main())
