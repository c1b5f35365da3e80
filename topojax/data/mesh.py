"""Data parallel: the examples of a batch spread over devices, of one process or of several, and nothing else changed.

State and numbers lie on every device whole, the training split in parts (`data.divided`) or on the host (`data.feed`);
a batch is split, and the compiler (GSPMD) puts in the sums that its means need. Losses, usage, the probe and what
controllers read are of the whole batch in either case, so that N devices compute what one does, up to the order of
sums. Between epochs a state is one device's, as in a run without a mesh: checkpoints, evaluation and logs are the same,
and a run may go on with another number of devices. Of several processes each holds the state on its own first device
then.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from topojax.errors import UserError
from topojax.types import Array

AXIS = "data"


def make_mesh(devices: int) -> Mesh | None:
    """The first devices in a row, of each process as many; None for one.

    Raises:
      UserError: more than there are.
    """
    if devices == 1:
        return None
    there, processes = jax.devices(), jax.process_count()
    owned = [[device for device in there if device.process_index == index] for index in range(processes)]
    each = devices // processes
    if each > min(map(len, owned)):
        raise UserError(
            f"config.mesh.data = {devices}, but there are {len(there)} devices ({there[0].platform}); on a CPU "
            "JAX_NUM_CPU_DEVICES says how many it is divided into"
        )
    return Mesh(np.array([device for mine in owned for device in mine[:each]]), (AXIS,))


def split(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays with examples in front, spread over a mesh; inside of `jit`.

    Inside of a population's program the devices are those of the member at hand (`step.device_grid`), whatever the
    mesh.
    """
    if within():
        return jax.lax.with_sharding_constraint(tree, PartitionSpec(AXIS))
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def within() -> bool:
    """Whether a program of a population that spreads batches is being traced (`step.device_grid`)."""
    return AXIS in jax.sharding.get_abstract_mesh().axis_names


def jitted(epoch: Callable, mesh: Mesh, data: Any) -> Any:
    """`jit` of an epoch on a mesh, its state given up.

    Args:
      epoch: (numbers, state, data) → (state, metrics).
      mesh: of the run.
      data: what it is given, arrays or their shapes, with where they lie.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    lying = jax.tree.map(lambda leaf: leaf.sharding, data)
    where: dict[str, Any] = {"in_shardings": (everywhere, everywhere, lying), "out_shardings": everywhere}
    return jax.jit(epoch, donate_argnums=1, **where)


def from_one_device(compiled: Callable, mesh: Mesh) -> Callable[[Any, Any, Any], tuple[Any, Array]]:
    """An epoch compiled on a mesh as one whose state and metrics are of one device.

    The data lie where they are computed; the state is spread at every call: a copy of it to each device an epoch.
    Processes copy to their own devices alone: they hold the same state.
    """
    everywhere, first = NamedSharding(mesh, PartitionSpec()), SingleDeviceSharding(mesh.local_devices[0])
    several = mesh.is_multi_process

    def spread(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: of_all(leaf, mesh), tree) if several else jax.device_put(tree, everywhere)

    def run(numbers: Any, state: Any, data: Any) -> tuple[Any, Array]:
        after = compiled(*spread((numbers, state)), data)
        if several:
            state, metrics = jax.tree.map(lambda leaf: leaf.addressable_data(0), after)
        else:
            state, metrics = jax.device_put(after, first)
        return state, metrics

    return run


def of_all(leaf: Any, mesh: Mesh) -> Any:
    """An array that every process holds, as one array that lies whole on every device of a mesh; nothing is sent."""
    copies = [jax.device_put(leaf, device) for device in mesh.local_devices]
    return jax.make_array_from_single_device_arrays(leaf.shape, NamedSharding(mesh, PartitionSpec()), copies)
