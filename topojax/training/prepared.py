"""What a run is made of: its data, its configuration as the data complete it, its model and its program."""

import contextlib
import importlib.util
import pathlib
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

from topojax.config.found import fitted
from topojax.config.numbers import pack
from topojax.config.validate import validate
from topojax.data import sets
from topojax.errors import UserError, needing, tell
from topojax.scoring.run import build, numbered_of
from topojax.scoring.split import contents
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import Checkpoints, last_epoch
from topojax.storage.joint import Joint
from topojax.storage.runtime import use_compilation_cache, versions
from topojax.training.handed import Handed
from topojax.training.processes import Alone


def look_for_extras(config: Any) -> None:
    """Refuse a run whose numbers go where nothing is installed to take them.

    Raises:
      UserError: naming the extra.
    """
    for wanted, package, extra, field in (
        (config.log.tensorboard, "tensorflow", "tf", "config.log.tensorboard"),
        (config.mlflow.enabled, "mlflow", "mlflow", "config.mlflow.enabled"),
        (config.data.mode == "stream", "grain", "stream", "config.data.mode = 'stream'"),
    ):
        with needing(extra, field):
            if wanted and importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named {package!r}")


class Prepared:
    """The parts of a run that are there before its first state."""

    on_host = True
    """Whether it takes a training split that stays on the host."""

    def __init__(
        self,
        config: Any,
        path: pathlib.Path,
        started: float,
        data: Any = None,
        keep: Collection[str] = (),
        peers: Alone | None = None,
    ):
        if config.train.compilation_cache:
            use_compilation_cache()
        self.path, self.started, self.peers = path, started, peers or Alone()
        found = data if isinstance(data, sets.Dataset) else None  # read already
        self.dataset = found or sets.load(config.data, seed=config.seed, data=data, on_host=self.on_host)
        data = None if found else data
        if last_epoch(path):
            keep = {*keep, *workdirs.as_trained(path, config)}
        self.config, self.changes = fitted(config, self.dataset, in_memory=data is not None, keep=keep)
        if self.config.data.neighbours and self.dataset.train.neighbours is None:
            train = sets.with_neighbours(self.dataset.train, self.config.data.neighbours)
            self.dataset = self.dataset._replace(train=train)
        if self.changes:
            validate(self.config)
        config = self.config
        self.about = {"data": self.dataset.manifest, **self.dataset.sizes()}
        self.handed = Handed(config, self.dataset, data, several=self.peers.number > 1)
        self.dataset = self.handed.dataset
        self.versions = versions()  # asked once: it starts git
        self.model, self.program = build(config, self.about)
        self.numbers = jax.tree.map(jnp.asarray, pack(config))
        self.numbered = numbered_of(config, self.about)
        self.advice = {row.name: row.advice for row in self.program.rows}
        # A gradient ratio that no weight follows is not measured: not a number that is missing, but none.
        self.unmeasured = {
            f"contract/{row.name}/{field}"
            for row in self.program.rows
            if row.signal.endswith("_balance") and row.mechanism != "track"
            for field in ("signal", "error")
        }

    def same_data(self) -> None:
        """Refuse to go on with other data than those of the run that is there.

        Raises:
          UserError: where they are not the same, also between processes; or processes that do not share the folder.
        """
        if self.peers.number > 1:
            self.peers.same(contents(self.dataset.manifest), f"have read other data as {self.dataset.name}")
            self.peers.same(self.dataset.mode, "have memory for other modes of the data: set config.data.mode")
            self.peers.same(last_epoch(self.path), f"do not see the same checkpoints in {self.path}: share the folder")
        if last_epoch(self.path):
            with contextlib.closing(Checkpoints(self.path, read_only=True)) as checkpoints:
                meta = checkpoints.newest(checkpoints.meta)
            if contents(meta["data"]) != contents(self.dataset.manifest):
                raise UserError(
                    f"the data of {self.dataset.name} are not those {self.path} was trained on: bring them back, or "
                    "name another --workdir"
                )

    def opened(self) -> Checkpoints:
        """The run's checkpoints; several processes write them together, once process 0 has the folder."""
        keep = self.config.checkpoint.keep
        if self.peers.number > 1:
            return Joint(self.path, keep=keep, gathered=self.peers.gathered)
        return Checkpoints(self.path, keep=keep)

    def remember(self) -> None:
        """Write the configuration, and say what was found out of the data."""
        if not self.peers.first:
            return
        workdirs.write_config(self.path, self.config)
        if last_epoch(self.path) or not (self.dataset.notes or self.changes):
            return
        changes = {c.field: (c.asked, c.value) for c in self.changes}
        workdirs.write_found(self.path, self.config, changes, self.dataset.notes)
        for note in self.dataset.notes:
            tell(f"data: {note}")
        for why in dict.fromkeys(change.why for change in self.changes):
            fields = [f"config.{c.field} = {c.value}" for c in self.changes if c.why == why]
            tell(f"data: {', '.join(fields)} ({why})")
