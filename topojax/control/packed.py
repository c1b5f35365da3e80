"""A pytree whose leaves of one shape and type are rows of one array.

A compiled step that is called from Python pays a microsecond or two for every array that it is handed and hands back;
thirty vectors of numbers cost more than what is computed from them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from topojax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """Made by `pack`; `tree` has the leaves under their names.

    Attributes:
      tables: type → shape=(rows, n), the vectors of that type.
      others: leaves of another shape, as they are.
      structure: of the tree.
      types: of each leaf, in the tree's order; empty for one of the others.
      label: whose it is; hashable.
    """

    tables: dict[str, Array]
    others: tuple[Array, ...]
    structure: Any = dataclasses.field(metadata={"static": True})
    types: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    label: tuple = dataclasses.field(default=(), metadata={"static": True})

    @property
    def tree(self) -> Any:
        """The tree that was packed."""
        vectors = {name: iter(range(self.types.count(name))) for name in self.tables}
        others = iter(self.others)
        leaves = [self.tables[name][..., next(vectors[name]), :] if name else next(others) for name in self.types]
        return jax.tree.unflatten(self.structure, leaves)


def pack(tree: Any, size: int, label: tuple = ()) -> Packed:
    """A tree with its vectors of a size stacked.

    Args:
      tree: of arrays.
      size: n; leaves of shape (n,) become rows.
      label: whose it is.
    """
    leaves, structure = jax.tree.flatten(tree)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    types = tuple(leaf.dtype.name if leaf.shape == (size,) else "" for leaf in leaves)
    tables = {
        name: jnp.stack([leaf for leaf, kind in zip(leaves, types, strict=True) if kind == name])
        for name in sorted(set(types) - {""})
    }
    others = tuple(leaf for leaf, kind in zip(leaves, types, strict=True) if not kind)
    return Packed(tables, others, structure, types, label)
