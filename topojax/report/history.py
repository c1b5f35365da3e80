"""What a run has written about itself: configuration, metrics, events and result, read back as columns."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from topojax.atlas.controllers import select_rows
from topojax.atlas.table import Contract
from topojax.storage.logs import rows_of
from topojax.storage.workdir import read_config, read_result


@dataclasses.dataclass(frozen=True)
class History:
    """The files of a workdir, none of them changed.

    Attributes:
      workdir: of the run.
      config: its configuration.
      rows: of metrics.jsonl, up to the epoch that is reported.
      events: of events.jsonl, likewise.
      result: of result.json, None while the run has not ended.
    """

    workdir: pathlib.Path
    config: Any
    rows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    result: dict[str, Any] | None

    @property
    def name(self) -> str:
        """What a legend calls the run: its folder."""
        return self.workdir.absolute().name

    @functools.cached_property
    def epoch(self) -> np.ndarray:
        """shape=(rows,): the epochs that were logged."""
        return np.array([row["epoch"] for row in self.rows], np.int64)

    @functools.cached_property
    def contracts(self) -> tuple[Contract, ...]:
        """The rows of the contract table that take part in the run."""
        return select_rows(self.config)

    def column(self, name: str) -> np.ndarray | None:
        """shape=(rows,), a metric over the logged epochs, NaN where it was not finite; None if it never was."""
        values = np.array([np.nan if row.get(name) is None else row[name] for row in self.rows], np.float64)
        return values if np.isfinite(values).any() else None

    def columns(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """`column` of each name that was measured."""
        found = {name: self.column(name) for name in names}
        return {name: values for name, values in found.items() if values is not None}


def read(workdir: pathlib.Path, *, until: int | None = None) -> History:
    """Read the files of a run; lines that were cut off are left out, as on resuming.

    Args:
      workdir: of the run.
      until: the last epoch of interest; all, unless told.

    Raises:
      UserError: no configuration there.
    """
    config, result = read_config(workdir), read_result(workdir)
    last = math.inf if until is None else until
    rows, events = (
        [row for row in rows_of(workdir / name) if row["epoch"] <= last] for name in ("metrics.jsonl", "events.jsonl")
    )
    return History(
        workdir,
        config,
        rows,
        events,
        result if until is None or (result or {}).get("epochs") == until else None,
    )


def spans(epoch: np.ndarray, flag: np.ndarray) -> list[tuple[float, float]]:
    """Intervals of epochs over which a logged flag stood: each row answers for the epochs since the row before.

    Args:
      epoch: [rows], increasing.
      flag: [rows], bool.
    """
    edges = np.concatenate([[0], epoch])
    out: list[tuple[float, float]] = []
    for start, end, on in zip(edges[:-1], edges[1:], flag, strict=True):
        if on and out and out[-1][1] == start:
            out[-1] = (out[-1][0], float(end))
        elif on:
            out.append((float(start), float(end)))
    return out
