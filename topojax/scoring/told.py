"""An evaluation as JSON, and as text for the terminal."""

from typing import Any

import numpy as np

from topojax.scoring.split import ABOUT, LABELS, Evaluation
from topojax.tracking.console import columns, number


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation without its rows: numbers under the names of result.json, tables as lists; NaN is null."""
    return {
        "split": evaluation.split,
        "epoch": evaluation.epoch,
        "examples": len(evaluation.predictions["chart"]),
        **evaluation.named(),
        "labels": {f"{evaluation.split}/{name}": use for name, use in evaluation.labels.items()},
        "labels_mean": LABELS,
        "notes": list(evaluation.notes),
        "tables": {name: _listed(table) for name, table in evaluation.tables.items()},
    }


def text(evaluation: Evaluation) -> str:
    """An evaluation for the terminal: each number, how labels went into it, what it is; then the notes."""
    head = f"epoch {evaluation.epoch}, {evaluation.split} split, {len(evaluation.predictions['chart'])} examples"
    rows = [(evaluation.split, "", "labels", "")]
    for name, value in evaluation.numbers.items():
        rows.append((name, number(value), evaluation.labels[name], ABOUT[name].about))
    used = [f"{use}: {LABELS[use]}" for use in LABELS if use in evaluation.labels.values()]
    return "\n\n".join(
        [head, columns(rows), *(["\n".join(evaluation.notes)] if evaluation.notes else []), "; ".join(used)]
    )


def _listed(table: np.ndarray) -> Any:
    cells = table.astype(object)
    cells[~np.isfinite(table)] = None
    return cells.tolist()
