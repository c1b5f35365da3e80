"""Evaluate a run on a split of its data: a table, and everything behind it as JSON.

  python -m topojax.evaluate --workdir=runs/digits [--step=50] [--split=train] [--out=FILE]

Writes <workdir>/evaluation.json; of another split or step, evaluation_train.json, evaluation_step50.json.
"""

import argparse
import pathlib
import sys
from typing import Any

import numpy as np

from topojax.errors import UserError, exit_status
from topojax.scoring.split import ABOUT, LABELS, SPLITS, Evaluation, evaluate
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


def _default_path(workdir: pathlib.Path, step: int | None, split: str) -> pathlib.Path:
    parts = ["evaluation", *([split] if split != "test" else []), *([f"step{step}"] if step is not None else [])]
    return workdir / ("_".join(parts) + ".json")


def main(argv: list[str] | None = None) -> int:
    """Command line; 2 on a UserError."""
    parser = argparse.ArgumentParser("python -m topojax.evaluate", description="Evaluate a run on a split of its data.")
    parser.add_argument("--workdir", required=True, help="where the run lives")
    parser.add_argument("--step", type=int, help="which checkpoint, by epoch (default: the latest)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: test")
    parser.add_argument("--out", type=pathlib.Path, help="the JSON file (default: in the workdir)")
    arguments = parser.parse_args(argv)

    def carry_out() -> None:
        from topojax.storage.logs import write_json
        from topojax.storage.runtime import use_compilation_cache

        use_compilation_cache()
        workdir = pathlib.Path(arguments.workdir)
        evaluation = evaluate(workdir, step=arguments.step, split=arguments.split)
        path = arguments.out or _default_path(workdir, arguments.step, arguments.split)
        print(text(evaluation))
        try:
            write_json(path, as_json(evaluation))
        except OSError as error:
            raise UserError(f"--out={path} cannot be written: {error.strerror}") from error
        print(f"\nwritten to {path}")

    return exit_status(carry_out)


if __name__ == "__main__":
    sys.exit(main())
