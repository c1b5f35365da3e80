"""Contracts as stretches of one vector: how a measurement in a contract's structure becomes the vector's entries."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.control.base import Gain, is_known
from topojax.control.constraints import Constraint
from topojax.types import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A contract and its place in its group's vector.

    Attributes:
      name, constraint: of the contract.
      where: its slice of the vector; `between` has the entries of its lower bound first, then those of its upper.
      structure, shapes: of its measurement.
    """

    name: str
    constraint: Constraint
    where: slice
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    def entries(self, measured: Any, what: str = "measured") -> Array:
        """A measurement as entries, in the order of the vector; of a batch of examples as it is.

        Raises:
          ValueError: another structure or shape; the message names the contract.
        """
        structure = jax.tree.structure(measured)
        if structure != self.structure:
            raise ValueError(f"{what}[{self.name!r}] has the structure {structure}, the contract {self.structure}")
        leaves = [jnp.asarray(leaf, jnp.float32) for leaf in jax.tree.leaves(measured)]
        if self.constraint.per_example:
            if leaves[0].ndim != 1:
                raise ValueError(f"{what}[{self.name!r}] has shape {leaves[0].shape}, one number an example is (B,)")
            return leaves[0]
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            if leaf.shape != shape:
                raise ValueError(f"{what}[{self.name!r}] has shape {leaf.shape}, the contract {shape}")
        flat = leaves[0].reshape(-1) if len(leaves) == 1 else jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
        return jnp.concatenate([flat, flat]) if self.constraint.upper is not None else flat

    def tree(self, vector: Array) -> Any:
        """Entries of the group's vector in the contract's structure; of `between` a pair, lower and upper."""
        sides = jnp.split(vector[self.where], 2 if self.constraint.upper is not None else 1)
        trees = tuple(self._unraveled(side) for side in sides)
        return trees if len(trees) > 1 else trees[0]

    def _unraveled(self, flat: Array) -> Any:
        ends = np.cumsum(np.asarray([math.prod(shape) for shape in self.shapes]))
        leaves = [part.reshape(shape) for part, shape in zip(jnp.split(flat, ends[:-1]), self.shapes, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)


def member(name: str, constraint: Constraint, start: int) -> Member:
    """A contract that begins at `start` of its group's vector."""
    leaves, structure = jax.tree.flatten(constraint.bound)
    shapes = tuple(leaf.shape for leaf in leaves)
    size = sum(math.prod(shape) for shape in shapes) * (1 if constraint.upper is None else 2)
    return Member(name, constraint, slice(start, start + size), structure, shapes)


def signs(constraint: Constraint, size: int) -> np.ndarray:
    """+1 for an entry that must stay below, −1 above; shape=(size,), float32."""
    if constraint.upper is not None:
        return np.repeat(np.asarray([-1.0, 1.0], np.float32), size // 2)
    return np.full(size, -1.0 if constraint.relation == "at_least" else 1.0, np.float32)


def columns_of(constraint: Constraint, size: int) -> dict[str, Gain]:
    """The numbers of a contract, each of shape (size,): bound, scale, bounds of λ, …, and those of its penalty."""
    sides = [constraint.bound] if constraint.upper is None else [constraint.bound, constraint.upper]
    numbers = constraint.numbers
    spread = {name: numbers[name] for name in ("initial", "minimum", "maximum", "every", "patience")}
    penalty = constraint.penalty
    if penalty is None:
        grows = {"coefficient": 0.0, "growth": 1.0, "decrease": 1.0, "most": 0.0}
    else:
        grows = {name: getattr(penalty, name) for name in ("coefficient", "growth", "decrease")}
        grows["most"] = penalty.maximum
    columns = {name: _spread(value, size) for name, value in (spread | grows).items()}
    scale = numbers["scale"]
    if not jax.tree_util.all_leaves([scale]):
        scale = _flat([scale] * len(sides))
    columns["scale"] = _spread(scale, size)
    columns["bound"] = _flat(sides)
    if constraint.relation == "equal":
        columns["minimum"] = -columns["maximum"]
    if numbers["tolerance"] is None:
        library: Any = np if is_known(columns["bound"]) and is_known(columns["scale"]) else jnp
        size_of = library.where(columns["bound"] == 0, 1.0, library.abs(columns["bound"]) / columns["scale"])
        columns["tolerance"] = 0.01 * size_of
    else:
        columns["tolerance"] = _spread(numbers["tolerance"], size)
    return columns


def _flat(trees: list[Any]) -> Gain:
    leaves = [leaf for tree in trees for leaf in jax.tree.leaves(tree)]
    traced = not all(is_known(leaf) for leaf in leaves)
    library: Any = jnp if traced else np
    return library.concatenate([library.asarray(leaf, dtype=np.float32).reshape(-1) for leaf in leaves])


def _spread(value: Any, size: int) -> Gain:
    library: Any = np if is_known(value) else jnp
    array = library.asarray(value, dtype=np.float32)
    if array.ndim > 1:
        array = array.reshape(-1)
    return library.broadcast_to(array, (size,))
