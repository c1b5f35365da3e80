"""`.parquet` (extra `parquet`): a table, or images as {bytes, path}, as Hugging Face and embedding-atlas write them."""

import pathlib
from typing import Any

import numpy as np

from topojax.data.raw import Options, Raw
from topojax.data.readers.image_folder import decode
from topojax.data.readers.tabular import divided, typed
from topojax.data.unfolding import require_unfolded
from topojax.errors import UserError, needing

KIND = "a Parquet file"
_ROWS = 4096
"""That are unpacked before it is asked how much they are."""


def read(path: pathlib.Path, options: Options) -> Raw:
    """All rows of it; a column of images is the inputs, unless others are named."""
    with needing("parquet", "reading .parquet"):
        from pyarrow import parquet
    table = _table(path, parquet)
    pictures = [field.name for field in table.schema if _is_image(field.type)]
    if pictures and options.columns is None:
        options = options._replace(columns=(pictures[0],))
    wanted = set(table.column_names)
    if options.columns:
        wanted &= {*options.columns, *([options.label] if options.label else table.column_names)}
    skipped = {name for name in pictures if options.columns and name not in options.columns}
    columns = {
        name: _column(table.column(name), f"{path}: {name!r}", options)
        for name in table.column_names
        if name in wanted - skipped
    }
    found = divided(columns, options, str(path), "a Parquet file")
    return found._replace(pictures=bool(pictures) and options.columns == (pictures[0],))


def _table(path: pathlib.Path, parquet: Any) -> Any:
    """All rows, some at a time: a column of one long text has few bytes on disk, and all of them in memory."""
    import pyarrow

    held, took, batches = path.stat().st_size, 0, []
    with parquet.ParquetFile(path) as file:
        about = file.metadata
        require_unfolded(path, held, about.num_rows * about.num_columns)  # a byte a cell at least
        for batch in file.iter_batches(batch_size=_ROWS):
            took += batch.nbytes
            require_unfolded(path, held, took)
            batches.append(batch)
        return pyarrow.Table.from_batches(batches, schema=file.schema_arrow)


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields))


def _column(column: Any, where: str, options: Options) -> np.ndarray:
    from pyarrow import types

    if _is_image(column.type):
        return stacked([decode(cell["bytes"], where, options.resize) for cell in column.to_pylist()], where)
    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type):
        return np.asarray(column.to_numpy() if not column.null_count else typed(column.to_pylist()))
    cells = column.to_pylist()
    if any(isinstance(cell, list | tuple) for cell in cells):
        try:
            return np.array(cells, np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where} holds lists that are no numbers of one shape") from error
    return typed(cells)


def stacked(images: list[np.ndarray], where: str) -> np.ndarray:
    """Images of one size as [n, H, W, C].

    Raises:
      UserError: they differ in size, naming the first two.
    """
    colour = any(image.ndim == 3 for image in images)
    for i, image in enumerate(images):
        if image.shape[:2] != images[0].shape[:2]:
            (h, w), (a, b) = images[0].shape[:2], image.shape[:2]
            raise UserError(
                f"{where}: images differ in size: the first is {h}×{w}, that of row {i} is {a}×{b}; "
                f"--config.data.resize={h}x{w} brings all to one"
            )
    return np.stack([i if i.ndim == 3 else np.repeat(i[..., None], 3 if colour else 1, axis=-1) for i in images])
