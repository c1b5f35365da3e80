"""`.csv`, `.tsv` and `.jsonl`: a table, column by column; the standard library reads it."""

import csv
import json
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from topojax.data.raw import LABELS, NO_LABEL, Inputs, Options, Raw, Split
from topojax.errors import UserError

KIND = "a table"
EMPTY = ("", "na", "n/a", "nan", "null", "none", "?")
"""What an empty cell holds, in any case of letters."""
_DELIMITERS = ",;\t|"
_MOST_KINDS = 20


def read(path: pathlib.Path, options: Options) -> Raw:
    """All rows of it."""
    columns = _objects(path) if path.suffix.lower() == ".jsonl" else _separated(path)
    return divided(columns, options, str(path), "a table")


def divided(columns: dict[str, np.ndarray], options: Options, where: str, source: str) -> Raw:
    """A table's columns as inputs and labels.

    Args:
      columns: name → [n] numbers or objects, or [n, …] numbers.
      options: which column is which.
      where: what messages call the table.
      source: of the `Raw`.

    Raises:
      UserError: no rows, a column that is not there, or nothing left to learn from.
    """
    single = next((column for column, values in columns.items() if not values.shape), None)
    if single is not None:
        raise UserError(f"{where}: the column {single!r} is one value: one cell an example is wanted")
    if not columns or not len(next(iter(columns.values()))):
        raise UserError(f"{where}: no rows in it")
    name, notes = label_of(columns, options, where), []
    if name is not None and options.label is None:
        notes.append(f"labels are the column {name!r}; config.data.label names another, or none")
    kinds = [column for column, values in columns.items() if values.ndim == 1 and 1 < _kinds(values) <= _MOST_KINDS]
    if name is None and options.label is None and options.columns is None and kinds:
        notes.append(f"no column is taken for labels; config.data.label={kinds[0]} would be one that is text")
    wanted = options.columns or tuple(column for column in columns if column != name)
    require_columns(wanted, columns, where)
    inputs = {column: columns[column] for column in wanted if column != name}
    for column, values in list(inputs.items()):
        if options.columns is None and _counts(column, values):
            notes.append(f"column {column!r} numbers the rows and is left out")
            del inputs[column]
    if not inputs:
        raise UserError(f"{where}: no column is left beside the label's")
    label = None if name is None else columns[name]
    return Raw(Split(_whole(inputs, where), label), None, source, notes=tuple(notes))


def _kinds(values: np.ndarray) -> int:
    """How many texts there are in a column; 0 where it holds numbers."""
    return len({value for value in values if isinstance(value, str)}) if values.dtype == object else 0


def require_columns(wanted: Iterable[str], columns: Iterable[str], where: str) -> None:
    """Refuse a column of `config.data.columns` that is not there."""
    for column in wanted:
        if column not in columns:
            raise UserError(f"{where}: config.data.columns names {column!r}, there are {_few(columns)}")


def label_of(columns: Any, options: Options, where: str) -> str | None:
    """The column of the labels: the one that is named, else one that is called so, else none.

    Raises:
      UserError: it is named and not there.
    """
    if options.label == NO_LABEL:
        return None
    if options.label is not None:
        if options.label not in columns:
            raise UserError(f"{where}: config.data.label = {options.label!r} is no column of it: {_few(columns)}")
        return options.label
    by_name = {str(column).lower(): column for column in columns}
    return next((by_name[name] for name in LABELS if name in by_name), None)


def typed(cells: list[Any]) -> np.ndarray:
    """Numbers where all cells that are not empty are (NaN where one is), else texts, None where one is empty."""
    values: list[Any] = [None if _empty(cell) else cell for cell in cells]
    try:
        return np.array([math.nan if value is None else float(value) for value in values], np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array([None if value is None else str(value).strip() for value in values], object)


def _separated(path: pathlib.Path) -> dict[str, np.ndarray]:
    text = _text(path)
    lines = text.splitlines()
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=lines[0].count if lines else "".count)
    rows = [row for row in csv.reader(lines, delimiter=delimiter, strict=True) if row]
    if not rows:
        raise UserError(f"{path}: no rows in it")
    headed = not any(_number(cell) for cell in rows[0])
    names = [cell.strip() for cell in rows[0]] if headed else [f"column_{i + 1}" for i in range(len(rows[0]))]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UserError(f"{path}: two columns are called {double!r}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise UserError(f"{path}: row {number} has {len(row)} cells, the first has {len(names)}")
    body = rows[1:] if headed else rows
    return {name: typed([row[i] for row in body]) for i, name in enumerate(names)}


def _objects(path: pathlib.Path) -> dict[str, np.ndarray]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is no JSON object")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: _cells([row.get(name) for row in rows], f"{path}: {name!r}") for name in names}


def _cells(cells: list[Any], where: str) -> np.ndarray:
    if not any(isinstance(cell, list | dict) for cell in cells):
        return typed(cells)
    try:
        return np.array(cells, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} holds lists that are no numbers of one shape") from error


def _whole(inputs: dict[str, np.ndarray], where: str) -> Inputs:
    """One array where a single column holds arrays; else columns of single cells, arrays spread out."""
    if len(inputs) == 1 and next(iter(inputs.values())).ndim > 1:
        return next(iter(inputs.values()))
    out: dict[str, np.ndarray] = {}
    for name, values in inputs.items():
        if values.ndim > 2:
            raise UserError(f"{where}: the column {name!r} holds arrays: name it alone in config.data.columns")
        out |= {name: values} if values.ndim == 1 else {f"{name}[{i}]": values[:, i] for i in range(values.shape[1])}
    return out


def _text(path: pathlib.Path) -> str:
    data = path.read_bytes()
    if b"\0" in data:
        raise UserError(f"{path}: not text: it holds a zero byte")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in EMPTY)


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _counts(name: str, values: np.ndarray) -> bool:
    """Whether it numbers the rows: 0, 1, 2, … or 1, 2, 3, …, under the name that such a column has."""
    if (
        name.lower() not in ("", "id", "index", "unnamed: 0", "row", "__index_level_0__")
        or values.dtype.kind not in "iuf"
    ):
        return False
    return len(values) > 1 and values[0] in (0, 1) and bool((np.diff(values) == 1).all())


def _few(columns: Any) -> str:
    names = list(map(str, columns))
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
