"""Checkpoints within an epoch, of a run whose examples come from the host: state, and the metrics of the steps so far.

They lie in <workdir>/within, numbered by step; what reads a run, evaluation for one, knows whole epochs alone.
"""

import base64
import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from topojax.config.changes import changes
from topojax.config.io import from_json
from topojax.errors import tell
from topojax.storage.checkpoint import Checkpoints, Damaged
from topojax.storage.joint import Joint

FOLDER = "within"


class Within:
    """The latest checkpoint within an epoch, at most one.

    Args:
      workdir: of the run.
      gathered: where several processes save together, as of `Joint`.
    """

    def __init__(self, workdir: pathlib.Path, gathered: Callable[[Any], list[Any]] | None = None):
        self.folder, self._gathered = workdir / FOLDER, gathered

    def save(self, step: int, state: Any, meta: dict[str, Any], rows: np.ndarray) -> None:
        """Save one step.

        Args:
          step: optimizer steps made, within an epoch.
          state: of the run.
          meta: as of a checkpoint between epochs; `epoch` counts the whole ones.
          rows: shape=(steps of the epoch so far, metrics), float32.

        Raises:
          Stopped: the disk refuses.
        """
        text = base64.b64encode(np.ascontiguousarray(rows, np.float32).tobytes()).decode()
        together = self._gathered
        with contextlib.closing(
            Checkpoints(self.folder) if together is None else Joint(self.folder, gathered=together)
        ) as held:
            held.drop_after(step - 1)
            held.save(step, state, {**meta, "rows": text, "taken": len(rows)}, loss=None)

    def newest(self, abstract: Any, config: Any) -> tuple[Any, dict[str, Any], np.ndarray] | None:
        """State, metadata and rows of the checkpoint there is; None without one, or with a line if it cannot be read.

        Args:
          abstract: the state's structure.
          config: that the run goes on with: where another one was saved, the epoch begins anew.
        """
        if not (self.folder / "checkpoints").is_dir():  # a kill may come between the two folders
            return None
        with contextlib.closing(Checkpoints(self.folder, read_only=True)) as held:
            try:
                if not held.epochs():
                    return None
                saved = from_json(json.dumps(held.meta()["config"]), "the checkpoint's configuration")
                if changes(saved, config):
                    return None
                state, meta = held.restore(abstract)
            except Damaged as damage:
                tell(f"topojax: warning: {damage.what}: its epoch begins anew")
                return None
        rows = np.frombuffer(base64.b64decode(meta["rows"]), np.float32).reshape(meta["taken"], -1)
        return state, meta, rows

    def drop(self) -> None:
        """Delete what there is; of several processes, one does."""
        if self.folder.is_dir():
            with contextlib.closing(Checkpoints(self.folder)) as held:
                held.drop_after(-1)
