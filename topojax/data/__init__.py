"""Data sets as arrays in memory, their order, their neighbours, and views of them."""

from topojax.data.sets import (
    NAMES,
    Dataset,
    batch_indices,
    check,
    load,
    permutation,
    shuffled,
    stratified,
    with_neighbours,
)

__all__ = [
    "NAMES",
    "Dataset",
    "batch_indices",
    "check",
    "load",
    "permutation",
    "shuffled",
    "stratified",
    "with_neighbours",
]
