"""`.parquet` (extra `parquet`), a file or a folder of shards: a table, or images as {bytes, path}, as Hugging Face and
embedding-atlas write them.

Shards are one table in the order of their names, but for those called train… and test…, which are a split each.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from topojax.data.raw import Options, Raw, Split
from topojax.data.readers.arrow_cells import is_image, values
from topojax.data.readers.tabular import divided, label_of, require_columns
from topojax.data.source import Joined
from topojax.data.unfolding import require_unfolded
from topojax.errors import UserError, needing

KIND = "a Parquet file"
_ROWS = 4096
"""That are unpacked before it is asked how much they are."""
_TEST = ("test", "validation", "val")


def knows(folder: pathlib.Path) -> bool:
    """Whether there are shards in it."""
    return bool(_files(folder))


def read(path: pathlib.Path, options: Options) -> Raw:
    """All rows of it, in memory or as a source of them; a column of images is the inputs, unless others are named."""
    with needing("parquet", "reading .parquet"):
        import pyarrow.parquet  # noqa: F401
    files, test = _files(path) if path.is_dir() else [path], list[pathlib.Path]()
    train = [file for file in files if file.name.startswith("train")]
    if train:
        named = ([file for file in files if file.name.startswith(name)] for name in _TEST)
        test, files = next(filter(None, named), []), train
    found = _read(files, options, str(path))
    return found._replace(test=_read(test, options, str(path)).train) if test else found


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in folder.glob("*.parquet") if file.is_file() and not file.name.startswith((".", "_")))


def _read(files: Sequence[pathlib.Path], options: Options, where: str) -> Raw:
    schema = _schema(files)
    pictures = [field.name for field in schema if is_image(field.type)]
    if pictures and options.columns is None:
        options = options._replace(columns=(pictures[0],))
    require_columns(options.columns or (), schema.names, where)
    label = label_of(schema.names, options, where)
    wanted = [
        name
        for name in schema.names
        if not options.columns or name in options.columns or (name == label and name not in pictures)
    ]
    if options.stream:
        from topojax.data.readers.parquet_rows import Column

        columns: Any = {name: Column(files, schema, name, options, where) for name in wanted if name != label}
        whole = [name for name in wanted if name == label]
    else:
        columns, whole = {}, wanted
    if whole:
        import pyarrow

        table = pyarrow.concat_tables([unpacked(file, whole) for file in files])
        columns |= {name: values(table.column(name), f"{where}: {name!r}", options) for name in whole}
    found = divided({name: columns[name] for name in wanted}, options, where, "a Parquet file")
    if options.stream and isinstance(found.train.inputs, dict):
        rows: Any = Joined(found.train.inputs)
        found = found._replace(train=Split(rows, found.train.label))
    return found._replace(pictures=bool(pictures) and options.columns == (pictures[0],))


def _schema(files: Sequence[pathlib.Path]) -> Any:
    """That all shards agree on, whatever is noted beside it."""
    first: Any = None
    for file in files:
        with opened(file) as one:
            schema = one.schema_arrow.remove_metadata()
        first = schema if first is None else first
        for field in first:
            if field.name not in schema.names:
                raise UserError(f"{file}: has no column {field.name!r}, which {files[0].name} has")
            if schema.field(field.name).type != field.type:
                raise UserError(
                    f"{file}: column {field.name!r} is {schema.field(field.name).type}, that of {files[0].name} is "
                    f"{field.type}"
                )
    return first


def opened(file: pathlib.Path) -> Any:
    """A `ParquetFile` of pyarrow.

    Raises:
      UserError: there is none, or it is cut off.
    """
    from pyarrow import ArrowException, parquet

    try:
        return parquet.ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: pathlib.Path, error: Exception) -> UserError:
    return UserError(f"{file}: damaged, or not {KIND}: {' '.join(str(error).split())[:160]}")


def unpacked(file: pathlib.Path, columns: Sequence[str], group: int | None = None) -> Any:
    """All rows of a file or of a row group, as pyarrow's table.

    Some at a time: a column of one long text has few bytes on disk, and all of them in memory.
    """
    import pyarrow

    held, took, batches = file.stat().st_size, 0, []
    with opened(file) as one:
        rows = one.metadata.num_rows if group is None else one.metadata.row_group(group).num_rows
        require_unfolded(file, held, rows * len(columns))  # a byte a cell at least
        groups = None if group is None else [group]
        try:
            for batch in one.iter_batches(batch_size=_ROWS, row_groups=groups, columns=list(columns)):
                took += batch.nbytes
                require_unfolded(file, held, took)
                batches.append(batch)
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(file, error) from error
        names = set(columns)
        schema = pyarrow.schema([field for field in one.schema_arrow if field.name in names])
        return pyarrow.Table.from_batches([batch.select(schema.names) for batch in batches], schema=schema)
