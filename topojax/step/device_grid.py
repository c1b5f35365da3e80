"""Devices of a population in rows: members are spread over the rows, each member's batch over the devices of its row.

Between rows nothing is exchanged; within one the compiler puts in the sums of a batch, as for a run of its own
(`data.mesh`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from topojax.data import mesh as of_batch
from topojax.errors import UserError

AXIS = "members"
"""Name of the mesh's axis that members are spread over."""


def grid(size: int, devices: Sequence[Any], *, rows: int = 0, each: int = 1) -> Mesh | None:
    """The devices that a population uses, `rows` × `each` of them.

    Args:
      size: members.
      devices: those there are, of one process.
      rows: `mesh.members`, devices that members are spread over; 0: as many as there are and divide the members.
      each: `mesh.data`, devices that share the batch of a member.

    Returns:
      A mesh with the axes `members` and, where a batch is spread, `data`; None for one device.

    Raises:
      UserError: rows that do not divide the members, or more devices than there are.
    """
    there = len(devices)
    if rows and size % rows:
        raise UserError(f"config.mesh.members = {rows}: must divide the {size} members of the population")
    if max(rows, 1) * each > there:
        asked = f"mesh.members = {rows} times config.mesh.data = {each}" if rows else f"mesh.data = {each}"
        raise UserError(
            f"config.{asked}: {max(rows, 1) * each} devices, but there are {there} ({devices[0].platform}); on a CPU "
            "JAX_NUM_CPU_DEVICES says how many it is divided into"
        )
    rows = rows or max(n for n in range(1, there // each + 1) if size % n == 0)
    if rows * each == 1:
        return None
    used = np.array(devices[: rows * each])
    if each == 1:
        return Mesh(used, (AXIS,))
    return Mesh(used.reshape(rows, each), (AXIS, of_batch.AXIS))


def rows_of(mesh: Mesh | None) -> int:
    """Devices that members are spread over."""
    return mesh.shape[AXIS] if mesh else 1
