"""Checkpoints that several processes write together: Orbax's own way with an array of all of them.

Each process writes its part of every array into a folder of its own beside the others'; process 0 writes the metadata,
and when all have come to Orbax's barrier it joins the parts and renames the folder, so that a checkpoint is whole or
not there. They wait by the coordination service, not by a program on the devices: a process that is gone is noticed.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from topojax.data.mesh import of_all
from topojax.errors import Stopped, reason
from topojax.storage.checkpoint import Checkpoints, described, folder_made, on_host, present
from topojax.storage.manager import Manager, manager_options


class Joint(Checkpoints):
    """The checkpoints of a run of several processes: each reads by itself, and all write together.

    Every process makes one, saves the same epochs, and closes it.

    Args:
      workdir: of the run.
      keep: as of `Checkpoints`.
      gathered: value of this process → those of all, in their order; all wait for each other there.
    """

    def __init__(self, workdir: pathlib.Path, *, keep: int = 1, gathered: Callable[[Any], list[Any]]):
        first = jax.process_index() == 0
        if first:
            folder_made(workdir)
        gathered(None)
        super().__init__(workdir, read_only=True)
        self._gathered, self._read_only = gathered, not first
        every = ocp.options.MultiprocessingOptions(primary_host=0, active_processes=set(range(jax.process_count())))
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(type_handler_registry=_registry(), multiprocessing_options=every),
            "meta": ocp.JsonCheckpointHandler(multiprocessing_options=every),
        }
        self._writer = Manager(self.directory, options=manager_options(keep, every), item_handlers=handlers)
        devices = {device.process_index: device for device in reversed(jax.devices())}
        self._mesh = Mesh(np.array([devices[index] for index in sorted(devices)]), ("process",))

    def save(self, epoch: int, state: Any, meta: dict[str, Any], *, loss: float | None) -> None:
        """Save one epoch; a kill of any process in the middle leaves the earlier checkpoints as they were.

        Where the processes do not hold the same bits, all that is written is process 0's.

        Args:
          epoch: not saved before.
          state: of this process.
          meta: as of `Checkpoints.save`; process 0's is written.
          loss: as of `Checkpoints.save`.

        Raises:
          Stopped: the disk refuses, or another process is gone.
        """
        here = on_host(state)
        meta = described(here, meta)
        same = len(set(self._gathered(meta["digest"]))) == 1
        leaves = present(state if same else here)
        # What lies in each process is cut between them; NumPy's arrays are process 0's, which writes them.
        held = {
            name: of_all(leaf, self._mesh) if isinstance(leaf, jax.Array) else leaf for name, leaf in leaves.items()
        }
        try:
            self._writer.reload()
            self._writer.save(
                epoch,
                args=ocp.args.Composite(state=ocp.args.PyTreeSave(held), meta=ocp.args.JsonSave(meta)),
                metrics={"loss": float("inf") if loss is None else loss},
            )
        except Exception as error:  # as in `Checkpoints.save`
            raise Stopped(f"cannot save epoch {epoch} in {self.directory}: {reason(error)}") from error

    def drop_after(self, epoch: int) -> None:
        """Delete the checkpoints of later epochs: process 0 does, before anybody goes on."""
        if not self._read_only:
            super().drop_after(epoch)
        self._gathered(None)
        self._manager.reload()

    def epochs(self) -> list[int]:
        """Epochs that have a complete checkpoint by now, increasing."""
        self._manager.reload()
        return super().epochs()

    def close(self) -> None:
        """Release the directory."""
        self._writer.close()
        super().close()


def _registry() -> Any:
    """How arrays are written here; what reads them is as ever."""
    from orbax.checkpoint._src.metadata import array_metadata_store  # there is no public way: it holds keys' kinds

    parts = ocp.type_handlers.ArrayHandler(use_replica_parallel=True, array_metadata_store=array_metadata_store.Store())
    return ocp.type_handlers.create_type_handler_registry(
        (jax.Array, parts), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
