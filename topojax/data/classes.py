"""Labels of any kind as 0 … C − 1, −1 where one is missing; and the names of the classes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from topojax.errors import UserError

MISSING = -1
"""What an example without a label has in its place."""
_MISSING_TEXTS = ("", "nan", "none", "null", "na", "n/a", "<na>", "?")
_NAMED = 5


class Classes(NamedTuple):
    """Labels, counted.

    Attributes:
      label: [n] int32, −1 where there is none.
      names: of the classes, in the order of their numbers.
    """

    label: np.ndarray
    names: tuple[str, ...]


def encode(label: np.ndarray | None, n: int, where: str, names: Sequence[str] | None = None) -> Classes:
    """Labels as numbers.

    Texts, booleans, integers with gaps and whole floats are classes by their values, in order; rows of one-hot are by
    their column. −1, NaN, None and empty texts are missing.

    Args:
      label: [n] or one-hot [n, C]; None: all are missing.
      n: examples.
      where: what messages call the data.
      names: of the classes where labels are their numbers.

    Raises:
      UserError: another shape, numbers that are no classes, or as many classes as examples.
    """
    found = _encode(label, n, where, names)
    count = len(found.names)
    known = int((found.label >= 0).sum())
    if count > 2 and names is None and 2 * known > n and len(np.unique(found.label[found.label >= 0])) == known:
        raise UserError(
            f"{where}: {known} labelled examples in {count} classes, no two of one class: no labels, it seems; "
            "config.data.label names another column, or none"
        )
    return found


def same(label: np.ndarray | None, n: int, where: str, of: Classes, names: Sequence[str] | None = None) -> np.ndarray:
    """The labels of another split as the numbers of the first.

    Raises:
      UserError: a class that the first does not have.
    """
    found = _encode(label, n, where, names)
    number = {name: i for i, name in enumerate(of.names)}
    unknown = [name for i, name in enumerate(found.names) if name not in number and (found.label == i).any()]
    if unknown and of.names:
        raise UserError(f"{where}: class {unknown[0]!r} is not among those to train on ({listed(of.names)})")
    to = np.array([*(number.get(name, MISSING) for name in found.names), MISSING], np.int32)
    return to[found.label]  # −1 reads the last, which is −1


def _encode(label: np.ndarray | None, n: int, where: str, names: Sequence[str] | None) -> Classes:
    if label is None:
        return Classes(np.full(n, MISSING, np.int32), ())
    label = np.asarray(label)
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim not in (1, 2) or len(label) != n or 0 in label.shape[1:]:
        raise UserError(f"{where}: {n} examples, but labels have shape {list(label.shape)}")
    return _one_hot(label, where) if label.ndim == 2 else _values(label, where, names)


def listed(names: Sequence[Any]) -> str:
    """The first names of many."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more


def _one_hot(label: np.ndarray, where: str) -> Classes:
    try:
        hot = label.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: labels have shape {list(label.shape)} and are no one-hot rows") from error
    blank = np.isnan(hot).any(axis=1) | (hot == 0).all(axis=1)
    wrong = ~blank & ~(((hot == 0) | (hot == 1)).all(axis=1) & (hot.sum(axis=1) == 1))
    if wrong.any():
        raise UserError(
            f"{where}: labels have shape {list(label.shape)}, row {wrong.argmax()} is not one-hot: one class an example"
        )
    if hot.shape[1] > len(hot):
        raise UserError(f"{where}: {hot.shape[1]} classes for {len(hot)} examples: more classes than examples")
    number = np.where(blank, MISSING, hot.argmax(axis=1)).astype(np.int32)
    return Classes(number, tuple(str(i) for i in range(hot.shape[1])))


def _values(label: np.ndarray, where: str, names: Sequence[str] | None) -> Classes:
    if label.dtype.kind == "b":
        return Classes(label.astype(np.int32), ("False", "True"))
    if label.dtype.kind in "OUS":
        cells = [_text(cell) for cell in label.tolist()]
        numbers = _as_numbers(cells)
        if numbers is None:
            texts = sorted({cell for cell in cells if cell is not None})
            number = {name: i for i, name in enumerate(texts)}
            coded = np.array([MISSING if cell is None else number[cell] for cell in cells], np.int32)
            return Classes(coded, tuple(texts))
        label = numbers
    if label.dtype.kind not in "iuf":
        raise UserError(f"{where}: labels are {label.dtype}: integers or texts are wanted")
    values = label.astype(np.float64)
    missing = np.isnan(values) | (values == MISSING)
    known = values[~missing]
    odd = known[~np.isfinite(known) | (known != np.round(known))]
    if odd.size:
        raise UserError(
            f"{where}: labels hold {odd[0]:g}, which names no class: integers or texts are wanted; "
            "config.data.label names another column, or none"
        )
    kinds = np.unique(known)
    if names is not None:
        if kinds.size and (kinds[0] < 0 or kinds[-1] >= len(names)):
            raise UserError(
                f"{where}: labels run from {kinds[0]:g} to {kinds[-1]:g}, but {len(names)} classes are named"
            )
        return Classes(np.where(missing, MISSING, values).astype(np.int32), tuple(map(str, names)))
    coded = np.where(missing, MISSING, np.searchsorted(kinds, np.where(missing, kinds[0] if kinds.size else 0, values)))
    return Classes(coded.astype(np.int32), tuple(str(int(kind)) for kind in kinds))


def _text(cell: Any) -> str | None:
    if cell is None or (isinstance(cell, float) and cell != cell):
        return None
    text = (cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)).strip()
    return None if text.lower() in _MISSING_TEXTS else text


def _as_numbers(cells: list[str | None]) -> np.ndarray | None:
    """Whole numbers where all cells are, so that 10 comes after 9."""
    try:
        return np.array([np.nan if cell is None else int(cell) for cell in cells], np.float64)
    except (ValueError, OverflowError):
        return None
