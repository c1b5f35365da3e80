"""Many runs as one program: a run's, mapped over its numbers, its state and, where seeds draw it, its data.

The step counter is not mapped: all members are at the same step, so that the conditionals of a step (its epoch's end,
its probe, its singular values) stay conditionals. A plain `vmap` would take both branches everywhere.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from topojax.config.numbers import Numbers
from topojax.control.ending import SETTLED
from topojax.step.device_grid import AXIS, rows_of
from topojax.step.numbered import Numbered
from topojax.step.state import TrainState
from topojax.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class Layout:
    """How members are laid out.

    Attributes:
      size: members.
      chunk: members that a device computes at a time.
      own_data: each member has its own data, with the member's axis in front; else they share them.
      mesh: of the devices that members and, along its second axis, batches are spread over (`grid`), None: one device.
    """

    size: int
    chunk: int
    own_data: bool
    mesh: Mesh | None = None

    @property
    def devices(self) -> int:
        """How many devices."""
        return self.mesh.size if self.mesh else 1

    @property
    def local(self) -> int:
        """Members that a device holds."""
        return self.size // rows_of(self.mesh)


def lay_out(size: int, *, chunk: int, own_data: bool, mesh: Mesh | None) -> Layout:
    """Say how many members are computed at a time.

    Args:
      size: members.
      chunk: at a time on a device; 0: all that are there.
      own_data: as in `Layout`.
      mesh: as in `Layout`.

    Raises:
      ValueError: the chunk does not divide the members of a device.
    """
    local = size // rows_of(mesh)
    chunk = min(chunk, local) or local
    if local % chunk:
        raise ValueError(f"must divide the {local} members of a device")
    return Layout(size, chunk, own_data, mesh)


def axes(mapped: Any, unmapped: Any) -> TrainState:
    """A training state's prefix: `unmapped` for its step, `mapped` for all else."""
    fields = {field.name: mapped for field in dataclasses.fields(TrainState)}
    return TrainState(**fields | {"step": unmapped})


def make_population(numbered: Numbered, layout: Layout) -> Numbered:
    """The program of all members: its functions take and give what `Numbered`'s do, with the member's axis in front."""
    own = 0 if layout.own_data else None
    state_axes = axes(0, None)

    def of_one(numbers: Numbers, state: TrainState, data: Batch) -> tuple[TrainState, Array]:
        new, metrics = numbered.epoch(numbers, state, data)
        return _unless_over(state, new), metrics

    epoch = jax.vmap(of_one, in_axes=(0, state_axes, own), out_axes=(state_axes, 0))
    init = jax.vmap(numbered.init, out_axes=state_axes)
    if layout.chunk < layout.local:
        epoch = _in_chunks(epoch, layout)
    if layout.mesh:
        members, all_of_it = PartitionSpec(AXIS), PartitionSpec()
        specs = axes(members, all_of_it)
        data = members if layout.own_data else all_of_it
        # Members exchange nothing; along a second axis it is the compiler that spreads a batch (`data.mesh.split`).
        settings: dict[str, Any] = {"mesh": layout.mesh, "axis_names": {AXIS}, "check_vma": False}
        numbers, states, _ = shardings(layout)
        epoch = _left_at(
            (states, numbers),
            jax.shard_map(epoch, in_specs=(members, specs, data), out_specs=(specs, members), **settings),
        )
        init = _left_at(states, jax.shard_map(init, in_specs=members, out_specs=specs, **settings))
    return Numbered(init, epoch, numbered.metric_names)


def _left_at(where: Any, function: Callable) -> Callable:
    """A function whose results lie where they are said to: the compiler would divide what it likes of them further."""

    def placed(*given: Any) -> Any:
        out = function(*given)
        return jax.lax.with_sharding_constraint(out, jax.tree.broadcast(where, out))

    return placed


def _unless_over(before: TrainState, after: TrainState) -> TrainState:
    """A member's state after an epoch; one whose run is over stays as it was, but for the common count of steps."""
    ending = before.control.ending
    over = (ending.cause == SETTLED) & (ending.epoch >= ending.last)

    def kept(old: Array, new: Array) -> Array:
        if jax.numpy.issubdtype(new.dtype, jax.dtypes.prng_key):
            return new
        return jax.numpy.where(over, old, new)

    return dataclasses.replace(jax.tree.map(kept, before, after), step=after.step)


def shardings(layout: Layout) -> tuple[Any, TrainState, Any]:
    """Where numbers, state and data live, as prefixes of their trees."""
    if layout.mesh is None:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return here, axes(here, here), here
    members, everywhere = (NamedSharding(layout.mesh, spec) for spec in (PartitionSpec(AXIS), PartitionSpec()))
    return members, axes(members, everywhere), members if layout.own_data else everywhere


def _without_step(state: TrainState) -> Any:
    """What is mapped."""
    nothing: Any = None
    return dataclasses.replace(state, step=nothing)


def member(state: TrainState, index: Any) -> TrainState:
    """One member's state: an ordinary run's.

    Args:
      state: of all.
      index: of the member, may be traced.
    """
    own = jax.tree.map(lambda x: x[index], _without_step(state))
    return dataclasses.replace(own, step=state.step)


def stacked(states: list[TrainState]) -> TrainState:
    """The states of members at the same step as one."""
    parts = [_without_step(state) for state in states]
    together = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *parts)
    return dataclasses.replace(together, step=states[0].step)


def copied(state: TrainState, source: Array) -> TrainState:
    """The state in which member i has become its source[i]; each keeps its own stream of randomness.

    Args:
      state: of all.
      source: shape=(members,), int32.
    """
    moved = jax.tree.map(lambda x: x[source], _without_step(state))
    return dataclasses.replace(moved, step=state.step, key=state.key)


def _in_chunks(epoch: Callable[..., tuple[TrainState, Array]], layout: Layout) -> Callable[..., Any]:
    """An epoch of some members at a time, one after the other, on each device."""

    def split(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, layout.chunk, *x.shape[1:]), tree)

    def whole(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def run(numbers: Numbers, state: TrainState, data: Batch) -> tuple[TrainState, Array]:
        step, mapped = state.step, _without_step(state)

        def some(given: tuple[Numbers, TrainState, Any]) -> tuple[TrainState, Array, Array]:
            numbers, part, own = given
            part, metrics = epoch(numbers, dataclasses.replace(part, step=step), own if layout.own_data else data)
            return _without_step(part), metrics, part.step

        given = (split(numbers), split(mapped), split(data) if layout.own_data else ())
        mapped, metrics, steps = jax.lax.map(some, given)
        return dataclasses.replace(whole(mapped), step=steps[0]), whole(metrics)

    return run
