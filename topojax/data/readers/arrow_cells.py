"""Cells of a column of Parquet as arrays: numbers, lists of lists of them, images that are decoded."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from topojax.data.raw import Options
from topojax.data.readers.image_folder import decode
from topojax.data.readers.tabular import typed
from topojax.errors import UserError


def is_image(kind: Any) -> bool:
    """Whether a column of that type of pyarrow's holds encoded images, as {bytes, path}."""
    from pyarrow import types

    return types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields))


def is_number(kind: Any) -> bool:
    """Whether it holds a number a cell."""
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def is_list(kind: Any) -> bool:
    """Whether it holds a list a cell."""
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def values(column: Any, where: str, options: Options, rows: Sequence[int] | None = None) -> np.ndarray:
    """A column's cells.

    Args:
      column: of pyarrow, not in parts where `rows` are given.
      where: what messages call it.
      options: `resize` of images.
      rows: numbers that messages give them; they are read in a thread. None: 0, 1, 2, …

    Returns:
      [n, H, W, C] uint8 of images; [n, …] of lists, uint8 or else float64; [n] of numbers, or of texts as objects.

    Raises:
      UserError: cells that are empty or differ in shape.
    """
    if is_image(column.type):
        cells: list[Any] = [(cell or {}).get("bytes") for cell in column.to_pylist()]
        if None in cells:
            raise UserError(f"{where}: row {_numbered(rows, cells.index(None))} holds no image")
        return stacked([decode(cell, where, options.resize, strict=rows is None) for cell in cells], where, rows)
    if is_number(column.type):
        return typed(column.to_pylist()) if column.null_count else np.asarray(column.to_numpy(zero_copy_only=False))
    return _lists(column, where, rows) if is_list(column.type) else typed(column.to_pylist())


def _numbered(rows: Sequence[int] | None, i: int) -> int:
    return i if rows is None else int(rows[i])


def _lists(column: Any, where: str, rows: Sequence[int] | None) -> np.ndarray:
    """Lists of lists of numbers as an array."""
    import pyarrow
    from pyarrow import compute

    cells = pyarrow.concat_arrays(column.chunks) if hasattr(column, "chunks") else column
    shape = [len(cells)]
    while is_list(cells.type):
        if cells.null_count:
            raise UserError(f"{where} holds lists that are no numbers of one shape: one is missing")
        sizes = compute.list_value_length(cells).to_numpy(zero_copy_only=False)
        if len(sizes) and (sizes != sizes[0]).any():
            at = int((sizes != sizes[0]).argmax())
            row = _numbered(rows, at // int(np.prod(shape[1:])))
            raise UserError(
                f"{where} holds lists that are no numbers of one shape: {sizes[at]} in row {row}, {sizes[0]} before"
            )
        cells, shape = cells.flatten(), [*shape, int(sizes[0]) if len(sizes) else 0]
    if not is_number(cells.type):
        raise UserError(f"{where} holds lists that are no numbers of one shape: they are of {cells.type}")
    found = cells.to_numpy(zero_copy_only=False).reshape(shape)
    return found if found.dtype == np.uint8 else found.astype(np.float64)


def stacked(images: list[np.ndarray], where: str, rows: Sequence[int] | None = None) -> np.ndarray:
    """Images of one size as [n, H, W, C].

    Raises:
      UserError: they differ in size, naming the first two.
    """
    colour = any(image.ndim == 3 for image in images)
    for i, image in enumerate(images):
        if image.shape[:2] != images[0].shape[:2]:
            (h, w), (a, b) = images[0].shape[:2], image.shape[:2]
            raise UserError(
                f"{where}: images differ in size: the first is {h}×{w}, that of row {_numbered(rows, i)} is {a}×{b}; "
                f"--config.data.resize={h}x{w} brings all to one"
            )
    return np.stack([i if i.ndim == 3 else np.repeat(i[..., None], 3 if colour else 1, axis=-1) for i in images])
