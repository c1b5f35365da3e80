"""A loss under contracts: the Lagrangian to differentiate, and the multipliers' next state.

  L(θ) = task(θ) + Σ ψ(e(θ), λ, c) + Σ w v(θ)

Sign, scale, clipping, projection, what to do where a number is not finite, and where the gradient stops are settled
here; a training step says what it measured.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import is_known
from topojax.control.constraints import Constraint
from topojax.control.groups import Group, GroupDuals, GroupState, grouped
from topojax.control.likelihoods import Weighing, WeighingState
from topojax.control.verdict import Report, of_constraint, of_weighing
from topojax.types import Array

Index = Mapping[str, ArrayLike] | None
"""Name of a contract per example → shape=(B,), int: the examples that were measured."""


class Duals(NamedTuple):
    """State of a problem: all that its contracts remember, and every number of theirs."""

    groups: tuple[GroupDuals, ...]
    weights: dict[str, WeighingState]
    work: Array  # shape=(), float32: what all moves but the last have added to the Lagrangian
    rounding: Array  # shape=(), float32: what float32 lost of it (Kahan's sum: it is subtracted from its like)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Contracts of a loss, made by `contracts`; pure functions of `Duals`.

    Attributes:
      groups: constraints by the law that moves them.
      weighings: name → weighed term.
      start: the state before the first measurement.
    """

    groups: tuple[Group, ...]
    weighings: Mapping[str, Weighing]
    start: tuple[GroupDuals, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the contracts and weighed terms: what `measured` has to hold."""
        return (*(member.name for group in self.groups for member in group.members), *self.weighings)

    def init(self) -> Duals:
        """Multipliers at their start, nothing measured; new buffers, which may be donated."""
        groups = jax.tree.map(jnp.copy, self.start)
        return Duals(groups, {name: one.init() for name, one in self.weighings.items()}, *jnp.zeros((2,), jnp.float32))

    def lagrangian(self, duals: Duals, loss: ArrayLike, measured: Mapping[str, Any], *, index: Index = None) -> Array:
        """The loss to differentiate: the task's and what the contracts add.

        Args:
          duals: of the last update; no gradient reaches it.
          loss: shape (), the task's.
          measured: name of each contract → measurement in its structure, `Proxy`, or None where there is none this
            time. A weighed term has `Balanced` or its loss.
          index: name of each contract per example → shape=(B,), int: which examples were measured.

        Returns:
          shape (). A measurement that is not finite adds nothing.

        Raises:
          ValueError: a name that is unknown or missing, a structure, shape or index that does not match; the message
            names the contract. With values that are known (outside of `jit`) an index out of range too.
        """
        self._check(duals, measured, index)
        duals = jax.lax.stop_gradient(duals)
        total = jnp.asarray(loss)
        if total.shape != ():
            raise ValueError(f"the loss has shape {total.shape}, it must be a number: take its mean")
        for group, state in self._states(duals):
            total = total + group.term(state, group.hear(state, measured, _places(group, index), strict=False))
        for name, one in self.weighings.items():
            if measured[name] is not None:
                value, _ = one.read(name, measured[name])
                total = total + one.term(duals.weights[name], value)
        return total

    def merit(self, duals: Duals, loss: ArrayLike, measured: Mapping[str, Any], *, index: Index = None) -> Array:
        """The Lagrangian less what the multipliers' own moves added to it: only descent moves it.

        What a governor of the rate may judge. The task's loss alone will not do: it rises whenever a contract that
        costs something is enforced, and the Lagrangian itself rises with each multiplier.

          merit_t = L_t − Σ_{s ≤ t} [ψ(e_s, λ_s) − ψ(e_s, λ_{s−1})]

        A move is charged by the measurement after it: the one that caused it has its noise in the move as well, and the
        merit would fall by K var(e) an update while nothing but the batch changes.
        """
        self._check(duals, measured, index)
        duals, measured = jax.lax.stop_gradient((duals, dict(measured)))
        lagrangian = jax.lax.stop_gradient(self.lagrangian(duals, loss, measured, index=index))
        return lagrangian - duals.work - self._work(duals, measured, index)

    def _work(self, duals: Duals, measured: Mapping[str, Any], index: Index) -> Array:
        """What the last moves of multipliers and weights have added, as this measurement has it."""
        added = jnp.zeros((), jnp.float32)
        for group, state in self._states(duals):
            added = added + group.work(state, group.hear(state, measured, _places(group, index), strict=False))
        for name, one in self.weighings.items():
            if measured[name] is not None:
                added = added + one.work(duals.weights[name], one.read(name, measured[name])[0])
        return added

    def update(
        self,
        duals: Duals,
        measured: Mapping[str, Any],
        *,
        index: Index = None,
        dt: ArrayLike = 1.0,
        active: ArrayLike = True,
    ) -> Duals:
        """The multipliers after a measurement.

        Args:
          duals: of the last update.
          measured: as in `lagrangian`. What is not measured leaves its multiplier alone, bit for bit; so does what is
            not finite, and it is counted.
          index: as in `lagrangian`.
          dt: shape (), time since the last update in the unit of the gains; 1: gains are per update.
          active: bool, shape (): False leaves everything as it is, as for a step that was not taken.
        """
        self._check(duals, measured, index)
        measured, active = jax.lax.stop_gradient(dict(measured)), jnp.asarray(active, bool)
        time = jnp.asarray(dt, jnp.float32)
        for what, value in (("dt", time), ("active", active)):
            if value.shape != ():
                raise ValueError(f"{what} has shape {value.shape}, it is one number for all contracts")
        work = jnp.where(active, self._work(duals, measured, index), 0.0) - duals.rounding
        groups = []
        for (group, state), carried in zip(self._states(duals), duals.groups, strict=True):
            heard = group.hear(state, measured, _places(group, index), strict=True)
            groups.append(carried.moved(group.update(state, heard, time, active)))
        weights = dict(duals.weights)
        for name, one in self.weighings.items():
            if measured[name] is not None:
                value, follows = one.read(name, measured[name])
                weights[name] = one.update(weights[name], value, follows, time, active)
        total = duals.work + work
        return Duals(tuple(groups), weights, total, (total - duals.work) - work)

    def multipliers(self, duals: Duals) -> dict[str, Any]:
        """Name → multipliers in the contract's structure (`between`: a pair, lower and upper), or the term's weight."""
        self._check_duals(duals)
        named = {
            member.name: member.tree(group.multipliers(state))
            for group, state in self._states(duals)
            for member in group.members
        }
        return named | {name: state.law.effective(state.weight) for name, state in duals.weights.items()}

    def report(self, duals: Duals) -> Report:
        """What each contract says now: its value, target, multiplier and verdict; prints as a table.

        For the host: it reads the state's values.

        Raises:
          TypeError: inside of `jit`, where there are none.
        """
        self._check_duals(duals)
        if not all(is_known(leaf) for leaf in jax.tree.leaves(duals)):
            raise TypeError("report reads values: call it outside of jit, on the duals that come out")
        lines = [
            of_constraint(member, state, np.asarray(group.multipliers(state)))
            for group, state in self._states(jax.device_get(duals))
            for member in group.members
        ]
        lines += [of_weighing(name, one.kind, duals.weights[name]) for name, one in self.weighings.items()]
        return Report(tuple(lines))

    def __repr__(self) -> str:
        """The contracts, as they read."""
        named = [f"{m.name}={m.constraint!r}" for group in self.groups for m in group.members]
        return f"contracts({', '.join([*named, *(f'{name}={one.kind}' for name, one in self.weighings.items())])})"

    def _states(self, duals: Duals) -> list[tuple[Group, GroupState]]:
        return [(group, carried.state) for group, carried in zip(self.groups, duals.groups, strict=True)]

    def _check_duals(self, duals: Duals) -> None:
        if not isinstance(duals, Duals):
            raise TypeError(f"duals come of problem.init() or problem.update(), got {type(duals).__name__}")
        labels = [group.label for group in self.groups]
        sizes = [len(group.sign) for group in self.groups]
        others = [carried.numbers.label for carried in duals.groups]
        if others != labels or set(duals.weights) != set(self.weighings):
            if _contracts_of(others) == _contracts_of(labels) and set(duals.weights) == set(self.weighings):
                laws = [sorted({one[2] for label in each for one in label}) for each in (others, labels)]
                if laws[0] != laws[1]:
                    raise ValueError(
                        f"these duals are moved by other laws, {', '.join(laws[0])}, than this problem's, "
                        f"{', '.join(laws[1])}: begin with problem.init()"
                    )
            theirs = [name for label in others for name, *_ in label] + list(duals.weights)
            raise ValueError(
                f"these duals are another problem's, of {theirs}, this one's contracts are {list(self.names)}: "
                "begin with problem.init()"
            )
        if any(carried.numbers.tables["float32"].ndim != 2 for carried in duals.groups):
            raise ValueError(
                "these duals are of many problems, one beside the other: jax.vmap over them, as in "
                "jax.vmap(problem.multipliers)(duals), or take one out, jax.tree.map(lambda leaf: leaf[i], duals)"
            )
        if [carried.numbers.tables["float32"].shape[-1] for carried in duals.groups] != sizes:
            raise ValueError("these duals are of contracts of another shape: begin with problem.init()")

    def _check(self, duals: Duals, measured: Mapping[str, Any], index: Index) -> None:
        """Names that are unknown or missing, and indices that point nowhere."""
        self._check_duals(duals)
        for what, told in (("measured", measured), ("index", {} if index is None else index)):
            if not isinstance(told, Mapping):
                raise TypeError(f"{what} must be a dict of contracts, got {type(told).__name__}")
            for name in told:
                if not isinstance(name, str):
                    raise TypeError(f"{what} is a dict of contracts by their names, got the key {name!r}")
        for name, value in measured.items():
            for leaf in jax.tree.leaves(value):
                if not isinstance(leaf, jax.Array) and np.asarray(leaf).dtype.kind not in "biufV":  # V: bfloat16
                    raise TypeError(f"measured[{name!r}] holds {leaf!r}, not a number")
        names, given = set(self.names), set(measured)
        if given - names:
            raise ValueError(f"measured has unknown contracts {sorted(given - names)}; known are {sorted(names)}")
        if names - given:
            missing = sorted(names - given)
            raise ValueError(f"measured lacks {missing}; give None for a contract that is not measured this time")
        indexed = {member.name: group for group in self.groups if group.examples for member in group.members}
        given = set(index or {})
        if given - set(indexed):
            raise ValueError(f"index names {sorted(given - set(indexed))}, which have no multipliers per example")
        for name, group in indexed.items():
            if measured[name] is None:
                continue
            if name not in given:
                raise ValueError(f"index lacks {name!r}: which of its {group.examples} examples were measured?")
            _check_index(name, (index or {})[name], group.examples)


def _contracts_of(labels: list[tuple]) -> list[tuple[str, str]]:
    """Names and relations, whatever moves them."""
    return sorted(one[:2] for label in labels for one in label)


def _places(group: Group, index: Index) -> Array | None:
    """The examples of a batch, with those that are out of range moved to n, where nothing is."""
    if not group.examples:
        return None
    name = group.members[0].name
    if index is None or name not in index:
        return jnp.zeros((0,), jnp.int32)  # not measured
    places = jnp.asarray(index[name])
    return jnp.where((places < 0) | (places >= group.examples), group.examples, places).astype(jnp.int32)


def _check_index(name: str, index: ArrayLike, examples: int) -> None:
    array: Any = np.asarray(index) if is_known(index) else index
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"index[{name!r}] must be integers of shape (B,), got {array.dtype}{list(array.shape)}")
    if is_known(index):
        wrong = array[(array < 0) | (array >= examples)]
        if wrong.size:
            raise ValueError(f"index[{name!r}] holds {wrong[0]}, out of range for {examples} examples")


def contracts(**named: Constraint | Weighing) -> Problem:
    """A problem of named contracts: `at_most`, `at_least`, `equal`, `between`; `likelihood` and `balanced` terms.

    Example:
      >>> problem = contracts(norm=at_most(2.0), band=between(0.1, 0.3))
      >>> duals = problem.init()
      >>> loss = problem.lagrangian(duals, task, {"norm": norm, "band": rate})
      >>> duals = problem.update(duals, {"norm": norm, "band": rate})
      >>> print(problem.report(duals))

    Raises:
      TypeError: not a contract.
      ValueError: gains or bounds that make no sense; the message names the contract.
    """
    for name, one in named.items():
        if not isinstance(one, (Constraint, Weighing)):
            raise TypeError(f"contract {name!r} must be made by at_most, at_least, equal, between, …, got {one!r}")
    constraints = {name: one for name, one in named.items() if isinstance(one, Constraint)}
    groups, start = grouped(constraints)
    return Problem(groups, {name: one for name, one in named.items() if isinstance(one, Weighing)}, start)
