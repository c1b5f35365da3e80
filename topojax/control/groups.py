"""Contracts that one law moves, as one vector: a hundred rows of a mechanism cost what one costs."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.control import penalty
from topojax.control.base import Controller, Gain, typed
from topojax.control.constraints import Constraint, Proxy
from topojax.control.governor_state import in_a_row
from topojax.control.members import Member, columns_of, member, signs
from topojax.control.optimizer import Optax
from topojax.control.packed import Packed, pack
from topojax.control.primal_dual import dual_ascent
from topojax.types import Array


class GroupState(NamedTuple):
    """State of a group of n multipliers: every number of its contracts, and what moves; leaves of shape (n,)."""

    law: tuple  # the controller's own numbers, its gains and bounds; `Group.law` puts them in their places
    dual: Any  # the controller's state; `weight` is λ
    grows: penalty.Penalty  # how the penalty's coefficient grows; 0 where there is none
    coefficient: Array  # float32, c
    former: Array  # float32: λ by which the last measurement was held
    former_coefficient: Array  # float32: c, likewise
    bound: Array  # float32, in the measurement's unit
    scale: Array  # float32
    tolerance: Array  # float32, in scaled errors
    patience: Array  # int32, updates
    every: Array  # int32, measurements
    error: Array  # float32: mean error of the last update; NaN before the first
    violation: Array  # float32: of the last update; ∞ before the first
    total: Array  # float32: errors since the last update
    seen: Array  # int32: how many
    frozen: Array  # int32: measurements that were not finite
    violated: Array  # int32: updates in a row violated
    saturated: Array  # int32: updates in a row at the bound and violated


NUMBERS = ("law", "grows", "bound", "scale", "tolerance", "patience", "every")
"""Fields of `GroupState` that no update changes."""


class GroupDuals(NamedTuple):
    """A `GroupState` as it is carried from step to step: what updates leave alone, and what they change."""

    numbers: Packed
    moving: Packed

    @property
    def state(self) -> GroupState:
        """With every field under its name."""
        return GroupState(**self.numbers.tree, **self.moving.tree)

    def moved(self, state: GroupState) -> "GroupDuals":
        """The group in a later state of its own."""
        return GroupDuals(self.numbers, pack(_moving(state), state.bound.shape[0]))


def carried(state: GroupState, label: tuple) -> GroupDuals:
    """A state, to be carried, labelled by whose it is."""
    size = state.bound.shape[0]
    numbers = pack({name: getattr(state, name) for name in NUMBERS}, size, label)
    return GroupDuals(numbers, pack(_moving(state), size))


def _moving(state: GroupState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if name not in NUMBERS}


class Heard(NamedTuple):
    """A measurement of the whole group."""

    error: Array  # shape=(m,), float32: m = n entries, or the B examples of a batch
    places: Array | None  # shape=(B,), int32: their examples; n where there is no such example
    active: Array  # shape=(m,), bool: measured at all


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Contracts of one law; the static half of `GroupState`.

    Attributes:
      members: name and place of each.
      sign: shape=(n,): +1 where the multiplier holds the measurement down.
      equality: shape=(n,), bool.
      penalised: whether any of them has a penalty.
      examples: n where the entries are examples, else 0.
      structure: of the law. It stays here: a transform of optax is made of functions, which no pickle holds and which
        are never equal to those of another problem.
      kind: name of the law's class.
    """

    members: tuple[Member, ...]
    sign: Gain
    equality: Gain
    penalised: bool
    examples: int
    structure: Any
    kind: str

    @property
    def label(self) -> tuple[tuple[str, str, str], ...]:
        """Names and relations of its contracts in their order, and what moves them."""
        return tuple((one.name, one.constraint.relation, self.kind) for one in self.members)

    def law(self, state: GroupState) -> Controller:
        """What moves the multipliers, with the state's numbers."""
        return jax.tree.unflatten(self.structure, state.law)

    def multipliers(self, state: GroupState) -> Array:
        """λ, gradient stopped; shape=(n,)."""
        return self.law(state).effective(state.dual)

    def hear(self, state: GroupState, measured: Mapping[str, Any], index: Array | None, strict: bool) -> Heard:
        """Scaled errors of a measurement: e = ± (m − b) / s, NaN where there is none.

        Args:
          state: of the group.
          measured: name → measurement, `Proxy` or None.
          index: shape=(B,), int: of the batch's examples.
          strict: take a proxy's strict value, else the differentiable one.
        """
        parts, active = [], []
        for one in self.members:
            value = measured[one.name]
            if isinstance(value, Proxy):
                value = value.strict if strict else value.value
            size = one.where.stop - one.where.start
            if value is None:
                size = size if index is None else index.shape[0]
                parts.append(jnp.full((size,), jnp.nan, jnp.float32))
            else:
                parts.append(one.entries(value))
                if index is not None and parts[-1].shape != index.shape:
                    shapes = f"{parts[-1].shape}, its index {index.shape}"
                    raise ValueError(f"measured[{one.name!r}] has shape {shapes}")
            active.append(np.full(parts[-1].shape, value is not None))
        entries = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
        if index is None:
            sign, bound, scale = jnp.asarray(self.sign), state.bound, state.scale
        else:
            sign, bound, scale = self.sign[0], at(state.bound, index), at(state.scale, index, 1.0)
        return Heard(sign * (entries - bound) / scale, index, jnp.asarray(np.concatenate(active)))

    def term(self, state: GroupState, heard: Heard) -> Array:
        """Σ ψ(e, λ, c) over what is finite, the mean over a batch of examples; shape=()."""
        return self._value(heard, self.multipliers(state), state.coefficient)

    def work(self, state: GroupState, heard: Heard) -> Array:
        """What the last moves of the multipliers have added to the Lagrangian, as a new measurement has it; shape=().

        The measurement that moved them would have its own noise in both factors. Of a batch of examples each has moved
        once since it was last in one, and is one of n; one that a batch holds twice is charged twice.
        """
        now, before = self.term(state, heard), self._value(heard, state.former, state.former_coefficient)
        return (now - before) * (1.0 if heard.places is None else heard.error.shape[0] / self.examples)

    def _value(self, heard: Heard, multiplier: Array, coefficient: Array) -> Array:
        equality = jnp.asarray(self.equality)
        if heard.places is not None:
            multiplier, coefficient = at(multiplier, heard.places), at(coefficient, heard.places)
            equality = self.equality[0]
        usable = heard.active & jnp.isfinite(heard.error)
        error = jnp.where(usable, heard.error, 0.0)
        value = penalty.value(error, multiplier, coefficient, equality) if self.penalised else multiplier * error
        total = jnp.sum(jnp.where(usable, value, 0.0))
        return total if heard.places is None else total / heard.error.shape[0]

    def update(self, state: GroupState, heard: Heard, dt: Array, active: Array) -> GroupState:
        """The group after a measurement: multipliers whose `every` is complete move, the others wait."""
        finite = jnp.isfinite(heard.error)
        here = heard.active & active
        total, count = self._gathered(heard, jnp.where(here & finite, heard.error, 0.0), here & finite)
        _, lost = self._gathered(heard, jnp.zeros_like(heard.error), here & ~finite)
        total, count = state.total + total, state.seen + count
        told = count > state.seen
        due = (count >= state.every) & told
        mean = total / jnp.maximum(count, 1)
        waited = jnp.where(state.every > 1, count, 1).astype(jnp.float32)  # examples seen twice in a batch move once
        dual, info = self.law(state).update(state.dual, self._driving(state, mean), dt=dt * waited, active=due)
        coefficient, violation = state.coefficient, state.violation
        if self.penalised:
            now = penalty.violation(mean, state.dual.weight, coefficient, jnp.asarray(self.equality))
            grown = state.grows.grown(coefficient, jnp.where(now > state.tolerance, now, 0.0), violation)
            coefficient, violation = jnp.where(due, grown, coefficient), jnp.where(due, now, violation)
        at_bound = info.at_max | (info.at_min & self.equality)
        violated = jnp.where(self.equality, jnp.abs(mean), mean) > state.tolerance
        return state._replace(
            dual=dual,
            coefficient=coefficient,
            former=jnp.where(told, self.multipliers(state), state.former),
            former_coefficient=jnp.where(told, state.coefficient, state.former_coefficient),
            violation=violation,
            error=jnp.where(due, mean, state.error),
            total=jnp.where(due, 0.0, total),
            seen=jnp.where(due, 0, count),
            frozen=state.frozen + lost,
            violated=jnp.where(due, in_a_row(state.violated, violated), state.violated),
            saturated=jnp.where(due, in_a_row(state.saturated, violated & at_bound), state.saturated),
        )

    def _driving(self, state: GroupState, error: Array) -> Array:
        """What moves λ: ∂ψ/∂λ = max(e, −λ/c) where there is a penalty, in step with its growth; e elsewhere."""
        if not self.penalised:
            return error
        has = state.coefficient > 0
        steep, first = jnp.where(has, state.coefficient, 1.0), jnp.where(has, state.grows.coefficient, 1.0)
        slack = jnp.where(jnp.asarray(self.equality), error, jnp.maximum(error, -state.dual.weight / steep))
        return jnp.where(has, slack * (steep / first), error)

    def _gathered(self, heard: Heard, values: Array, counted: Array) -> tuple[Array, Array]:
        """Sums and counts by entry: of a batch each example's own."""
        if heard.places is None:
            return values, counted.astype(jnp.int32)
        sums = jnp.zeros(self.examples, jnp.float32).at[heard.places].add(values, mode="drop")
        return sums, jnp.zeros(self.examples, jnp.int32).at[heard.places].add(counted, mode="drop")


def at(values: Array, index: Array, missing: float = 0.0) -> Array:
    """Entries of a batch; `missing` where the index points nowhere."""
    return values.at[index].get(mode="fill", fill_value=missing)


def _law(constraint: Constraint, columns: Mapping[str, Gain]) -> Controller:
    limits = {name: columns[name] for name in ("minimum", "maximum", "initial")}
    return dual_ascent(0.0, **limits) if constraint.rule is None else constraint.rule(**limits)


def grouped(constraints: Mapping[str, Constraint]) -> tuple[tuple[Group, ...], tuple[GroupDuals, ...]]:
    """Contracts by the law that moves them, with their states before the first measurement.

    Laws of one kind and form are one vector. Examples, and laws of optax (which may mix what they are given), have a
    group to themselves.

    Raises:
      ValueError: gains or bounds that make no sense; the message names the contract.
    """
    shelves: dict[Any, list[tuple[str, Constraint, Any, dict[str, Gain]]]] = {}
    for name, constraint in constraints.items():
        size = member(name, constraint, 0).where.stop
        try:
            columns = columns_of(constraint, size)
            law = _law(constraint, columns)
        except (ValueError, TypeError) as error:
            raise type(error)(f"contract {name!r}: {error}") from error
        alone = constraint.per_example or isinstance(law, Optax)
        key = (name,) if alone else (type(law), jax.tree.structure(law))
        shelves.setdefault(key, []).append((name, constraint, law, columns))
    made = [_group(shelf) for shelf in shelves.values()]
    return tuple(group for group, _ in made), tuple(carried(state, group.label) for group, state in made)


def _group(shelf: list[tuple[str, Constraint, Any, dict[str, Gain]]]) -> tuple[Group, GroupState]:
    members, start = [], 0
    for name, constraint, _, _ in shelf:
        members.append(member(name, constraint, start))
        start = members[-1].where.stop
    sizes = [one.where.stop - one.where.start for one in members]
    equality = np.concatenate([np.full(n, row[1].relation == "equal") for n, row in zip(sizes, shelf, strict=True)])
    sign = np.concatenate([signs(row[1], n) for n, row in zip(sizes, shelf, strict=True)])
    laws = [row[2] for row in shelf]
    law = jax.tree.map(lambda *parts: _joined(parts), *laws) if len(laws) > 1 else jax.tree.map(typed, laws[0])
    columns = {name: _joined([row[3][name] for row in shelf]) for name in shelf[0][3]}
    examples = shelf[0][1].per_example
    penalised = any(row[1].penalty is not None for row in shelf)
    gains, structure = jax.tree.flatten(law)
    group = Group(tuple(members), sign, equality, penalised, examples, structure, type(law).__name__)
    grows = penalty.Penalty(columns["coefficient"], columns["growth"], columns["decrease"], columns["most"])
    zeros, counts = jnp.zeros(start, jnp.float32), jnp.zeros(start, jnp.int32)
    dual = law.init()
    return group, GroupState(
        law=tuple(gains),
        dual=dual,
        grows=grows,
        coefficient=grows.init(),
        former=law.effective(dual),
        former_coefficient=grows.init(),
        bound=columns["bound"],
        scale=columns["scale"],
        tolerance=columns["tolerance"],
        patience=columns["patience"].astype(jnp.int32),
        every=columns["every"].astype(jnp.int32),
        error=jnp.full(start, jnp.nan, jnp.float32),
        violation=jnp.full(start, jnp.inf, jnp.float32),
        total=zeros,
        seen=counts,
        frozen=counts,
        violated=counts,
        saturated=counts,
    )


def _joined(parts: Any) -> Array:
    """Vectors end to end, as one new array."""
    parts = [typed(part) for part in parts]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
