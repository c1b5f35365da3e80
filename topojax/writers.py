"""Where a run's numbers go: JSON lines always, TensorBoard when asked, one result file at the end."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from topojax.errors import UserError


def number(value: Any) -> float | int | bool | None:
    """A scalar as JSON has it: float32 by its shortest digits (0.01, not 0.00999999), None if not finite."""
    scalar = np.asarray(value)[()]
    if isinstance(scalar, np.bool_):
        return bool(scalar)
    if isinstance(scalar, np.integer):
        return int(scalar)
    return float(str(scalar)) if math.isfinite(scalar) else None


def numbers(metrics: Mapping[str, Any]) -> dict[str, float | int | bool | None]:
    """`number` of each scalar."""
    return {name: number(value) for name, value in metrics.items()}


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all: another name in the same folder first, then a rename.

    Raises:
      OSError: where the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """`write_text` of `value` as indented JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


class JsonLines:
    """A file of one JSON object a line, each with an 'epoch'.

    Opened for a run that goes on from some epoch, it drops the lines of later epochs and a last line that was
    cut off, so that a resumed file equals an uninterrupted one.

    Args:
      path: of the file; made if missing.
      epoch: the epoch the run goes on from; 0 empties the file.
    """

    def __init__(self, path: pathlib.Path, epoch: int):
        kept = _lines_until(path, epoch) if path.exists() else []
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object and hand it to the operating system; NaN is refused."""
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lines_until(path: pathlib.Path, epoch: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n") or row["epoch"] > epoch:
            break
        kept.append(line)
    return kept


class Writers:
    """metrics.jsonl, events.jsonl and, when asked, TensorBoard's event files.

    Args:
      workdir: of the run.
      epoch: the epoch it goes on from, 0 for a new run.
      tensorboard: also write <workdir>/tensorboard, through clu (imports TensorFlow).

    Raises:
      UserError: TensorBoard is asked for and cannot be imported.
    """

    def __init__(self, workdir: pathlib.Path, epoch: int, *, tensorboard: bool):
        self._board = _summary_writer(workdir / "tensorboard") if tensorboard else None
        self._metrics = JsonLines(workdir / "metrics.jsonl", epoch)
        self._events = JsonLines(workdir / "events.jsonl", epoch)

    def metrics(self, epoch: int, step: int, values: Mapping[str, float | int | bool | None]) -> None:
        """One row of scalars; `nonfinite` counts those that are None."""
        missing = sum(value is None for value in values.values())
        self._metrics.write({"epoch": epoch, "step": step, **values, "nonfinite": missing})
        if self._board is not None:
            scalars = {name: float(value) for name, value in values.items() if value is not None}
            self._board.write_scalars(step, scalars)

    def event(self, epoch: int, step: int, event: Mapping[str, Any]) -> None:
        """One decision (`events.events`)."""
        self._events.write({"epoch": epoch, "step": step, **event})

    def close(self) -> None:
        """Flush and close everything."""
        self._metrics.close()
        self._events.close()
        if self._board is not None:
            self._board.close()


def _summary_writer(directory: pathlib.Path) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from clu import metric_writers
    except ImportError as error:
        raise UserError(
            f"config.log.tensorboard needs TensorFlow and tensorboard ({error}): "
            "pip install 'topojax[tf]', or leave it off"
        ) from error
    return metric_writers.SummaryWriter(str(directory))
