"""What a run trains on, handed to its devices: resident rows, or a feed of what stays on the host.

Of several processes each keeps the rows that its own devices hold (`mode = "memory"`), or reads those that they compute
(`host`, `stream`). What needs all of them, a diagnosis or the baselines' evaluation, reads the data once more.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from topojax.config.batch import examples_a_step
from topojax.data import divided, sets
from topojax.data.feed import Feed
from topojax.data.mesh import make_mesh
from topojax.data.stream import Stream
from topojax.errors import UserError
from topojax.training.beginning import looked_at
from topojax.types import Batch


class Handed:
    """The training split of a run.

    Args:
      config: of the run.
      dataset: with the whole split.
      data: that it was made of, where that is in memory.
      several: whether other processes train along.
    """

    def __init__(self, config: Any, dataset: sets.Dataset, data: Any, *, several: bool):
        self._config, self._data, self._manifest, self._several = config, data, dataset.manifest, several
        self._mesh = make_mesh(config.mesh.data)
        self._dataset, self._looked_at = dataset, None
        if several and dataset.mode == "memory" and self._mesh is not None:
            self._looked_at = looked_at(config, dataset.train)
            self._dataset = dataset._replace(train=divided.share(dataset.train, self._mesh))

    @property
    def dataset(self) -> sets.Dataset:
        """What is kept: of a training split in memory, a process' share."""
        return self._dataset

    @property
    def looked_at(self) -> np.ndarray:
        """What the first state is centred on: the same images in every process."""
        return looked_at(self._config, self._dataset.train) if self._looked_at is None else self._looked_at

    def resident(self) -> Batch:
        """The split on the devices."""
        return divided.placed(self._dataset.train, self._mesh)

    def feed(self, *, pairs: bool, held: Callable[[], Any]) -> Feed:
        """What hands over a split that stays on the host.

        Args:
          pairs: whether each example comes with a neighbour of its.
          held: what its thread works within.
        """
        config = self._config
        return (Stream if self._dataset.mode == "stream" else Feed)(
            self._dataset.train,
            seed=config.seed,
            batch_size=examples_a_step(config),
            probe_size=config.probe.size,
            pairs=pairs,
            mesh=self._mesh,
            held=held,
        )

    def whole(self) -> Batch:
        """All of the split, on the host.

        Raises:
          UserError: it has to be read again, and has changed.
        """
        train = self._dataset.train
        if not isinstance(train.image, divided.Share):
            return train
        found = sets.load(self._config.data, seed=self._config.seed, data=self._data)
        if found.manifest != self._manifest:
            raise UserError(f"the data of {found.name} have changed while they were trained on")
        return train._replace(image=found.train.image)

    def here(self) -> Batch:
        """All of the split, on the first device."""
        return jax.tree.map(jax.numpy.asarray, self.whole())
