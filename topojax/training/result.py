"""What a finished run leaves behind: result.json, and the table of it on the console."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from topojax.control.ending import SETTLED
from topojax.scoring.audit import audit
from topojax.scoring.run import Run
from topojax.scoring.split import Evaluation
from topojax.storage.logs import write_json
from topojax.storage.runtime import versions
from topojax.tracking.console import table


def result_of(
    run: Run,
    tested: Evaluation,
    *,
    best_epoch: int | None,
    metrics: Mapping[str, float | None],
    history: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything that result.json holds.

    Args:
      run: after its last epoch.
      tested: of the test split.
      best_epoch: of the checkpoints, None where none is best.
      metrics: of the last epoch.
      history: logged rows of the last fifth of the run.
      seconds: name → how long it took.
    """
    return {
        "name": run.config.name,
        **tested.named(),
        "labels_used": run.config.supervised.enabled,
        "readout_labels_used": run.num_classes > 1,
        "epochs": run.epoch,
        "ended": ended(run, metrics),
        "step": int(run.state.step),
        "best_epoch": best_epoch,
        "seed": run.config.seed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.state.params)),
        "data": run.manifest,
        "contracts": audit(run.config, metrics, history),
        "versions": versions(),
        **{f"time/{name}_s": round(value, 3) for name, value in seconds.items()},
    }


def ended(run: Run, metrics: Mapping[str, float | None]) -> str:
    """Why a run is over: settled, horizon (it has had its epochs), or stopped from outside."""
    if run.epoch >= run.config.train.epochs:
        return "horizon"
    return "settled" if metrics.get("ending/cause") == SETTLED else "stopped"


def write_result(path: pathlib.Path, result: dict[str, Any], *, shown: bool = True) -> None:
    """Write result.json and show it.

    Args:
      path: the run's folder.
      result: of `result_of`.
      shown: on the console.
    """
    file = path / "result.json"
    write_json(file, result)
    if not shown:
        return
    print(table(result))
    why = {"settled": "twice as many would gain too little", "horizon": "all that it may have", "stopped": "stopped"}
    print(f"\n{result['epochs']} epochs: {why[result['ended']]}")
    print(f"{file}: {result['time/total_s']:.1f} s in all, {result['time/compile_s']:.1f} s of it compiling")
