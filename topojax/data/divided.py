"""A training split in memory, divided: each device of a mesh holds a part of the rows, a process those of its devices.

The examples of a batch lie anywhere. Each device looks up those that it holds, zeros in place of the others, and a
reduce-scatter adds the zeros away and leaves each device with its part of the batch: the digits are those of the rows.
Labels and neighbours, a few bytes an example, lie on every device.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from topojax.data.mesh import AXIS, of_all, within
from topojax.types import Array, Batch


class Share:
    """The rows of a split that the devices of this process hold.

    Args:
      image: [n, X], all of them.
      mesh: of the run.
    """

    def __init__(self, image: Any, mesh: Mesh):
        self.shape, self.dtype = image.shape, image.dtype
        each, places = rows_each(len(image), mesh), _places(mesh)
        self.first = each * places.start
        self.rows = np.array(image[self.first : each * places.stop])

    def __getitem__(self, at: slice) -> np.ndarray:
        """Some of them, counted as in the whole split."""
        return self.rows[at.start - self.first : at.stop - self.first]


class Divided:
    """The rows of a divided split, inside of `jit`: to be indexed as an array is.

    Args:
      rows: shape=(≥ n, X), spread over the mesh.
      mesh: of the run.
    """

    def __init__(self, rows: Array, mesh: Mesh):
        self._rows, self._mesh = rows, mesh

    def __getitem__(self, index: Array) -> Array:
        """Rows of it.

        Args:
          index: shape=(B,), int32.

        Returns:
          shape=(B, X): spread over the mesh where B can be, else whole on every device.
        """
        spread = index.shape[0] % self._mesh.size == 0

        def of_device(rows: Array, index: Array) -> Array:
            place = index - jax.lax.axis_index(AXIS) * rows.shape[0]
            mine = (place >= 0) & (place < rows.shape[0])
            found = jnp.where(mine[:, None], rows[jnp.clip(place, 0, rows.shape[0] - 1)], 0)
            if spread:
                return jax.lax.psum_scatter(found, AXIS, scatter_dimension=0, tiled=True)
            return jax.lax.psum(found, AXIS)

        out = PartitionSpec(AXIS) if spread else PartitionSpec()
        specs: dict[str, Any] = {"in_specs": (PartitionSpec(AXIS), PartitionSpec()), "out_specs": out}
        return jax.shard_map(of_device, mesh=self._mesh, check_vma=False, **specs)(self._rows, index)


def rows_each(number: int, mesh: Mesh) -> int:
    """How many of so many rows each device holds, the last ones fewer."""
    return -(-number // mesh.size)


def share(train: Batch, mesh: Mesh) -> Batch:
    """A split on the host of which a process keeps what its devices hold."""
    return train._replace(image=cast(Array, Share(train.image, mesh)))


def placed(train: Batch, mesh: Mesh | None) -> Batch:
    """A split on the devices of a run.

    Args:
      train: on the host, whole or a `share`.
      mesh: None: all of it on the first device.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, train)
    image, each = train.image, rows_each(train.image.shape[0], mesh)

    def rows(index: Any) -> np.ndarray:
        first = index[0].start or 0
        found = np.asarray(image[first : min(first + each, image.shape[0])])
        return np.pad(found, [(0, each - len(found)), (0, 0)])

    shape = (each * mesh.size, *image.shape[1:])
    spread = jax.make_array_from_callback(shape, NamedSharding(mesh, PartitionSpec(AXIS)), rows)
    nothing: Any = None
    whole = jax.tree.map(lambda leaf: of_all(np.asarray(leaf), mesh), train._replace(image=nothing))
    return whole._replace(image=spread)


def looked_up(data: Batch, mesh: Mesh | None, number: int) -> Batch:
    """A split as a program is given it, as one whose images can be indexed; inside of `jit`.

    Args:
      data: as `placed`; or whole, as the members of a population have it.
      mesh: of the run.
      number: n, training examples.
    """
    if mesh is None or within() or data.image.shape[0] != rows_each(number, mesh) * mesh.size:
        return data
    return data._replace(image=cast(Array, Divided(data.image, mesh)))


def _places(mesh: Mesh) -> slice:
    """Of the devices in a row, those of this process."""
    own = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return slice(own[0], own[-1] + 1)


def columns(size: int, mesh: Mesh | None) -> slice:
    """Of so many examples of a batch, those that the devices of this process compute."""
    if mesh is None:
        return slice(0, size)
    each, places = size // mesh.size, _places(mesh)
    return slice(each * places.start, each * places.stop)
