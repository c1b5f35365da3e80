"""A person's own data made ready: labels counted, empty cells settled, split, scaled, and said what was found.

What is learned of the data, their units and their levels of texts, is learned of the training split alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from topojax.data import classes, fit
from topojax.data.raw import Inputs, Raw, Split, length, streamed, taken
from topojax.data.rows import Given, Rows, blocks, on_host
from topojax.data.units import Column, Units
from topojax.errors import UserError

LEAST = 8
"""Examples below which there is nothing to train on and to test."""
LEVELS = 20
"""Distinct texts up to which a column is spread out; one with more is left out."""
IMBALANCE = 10.0
"""Ratio of the largest to the smallest class that is worth a line."""
MISSING = ("refuse", "drop", "mean")
_NAMED = 5


class Ready(NamedTuple):
    """Own data, split and scaled.

    Attributes:
      train, test: rows [n, X] float32, those to train on as `Rows` where they were `Given`; and labels [n] int32, −1
        where missing.
      units: of the examples.
      num_classes: C ≥ 1.
      notes: what was found out, a line each.
    """

    train: tuple[np.ndarray | Rows, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    units: Units
    num_classes: int
    notes: tuple[str, ...]


def settle(raw: Raw, missing: str, where: str) -> tuple[Raw, list[str]]:
    """Refuse infinities, and settle empty cells as `config.data.missing` says; `mean` is left for after the split.

    Raises:
      UserError: infinities; empty cells, where these are refused; inputs that are no numbers.
    """
    if missing not in MISSING:
        raise UserError(f"config.data.missing = {missing!r}: choose one of {', '.join(MISSING)}")
    notes, splits = list(raw.notes), list[Split | None]()
    for name, split in (("", raw.train), (" test", raw.test)):
        if split is None:
            splits.append(None)
            continue
        at = f"{where}/{split.file}" if split.file else f"{where}{name}"
        _shaped(split.inputs, at)
        if length(split.inputs) < (LEAST if not name else 1):
            raise UserError(f"{at}: {length(split.inputs)} examples; at least {LEAST} are needed to train")
        empty = _empty(split.inputs, at, missing)
        if empty.any():
            if missing == "mean" and streamed(split.inputs):
                raise UserError(
                    f"{where}: {int(empty.sum())}{name} examples have empty cells, and config.data.missing=mean needs "
                    "them in memory: config.data.mode=host, or missing=drop"
                )
            if missing == "drop":
                notes.append(f"{int(empty.sum())}{name} examples with empty cells are left out")
                split = taken(split, np.flatnonzero(~empty), on_host=streamed(split.inputs))
            else:
                notes.append(f"empty cells of {int(empty.sum())}{name} examples hold their column's mean")
        splits.append(split)
    train, test = splits
    assert train is not None
    if length(train.inputs) < LEAST:
        raise UserError(f"{where}: {length(train.inputs)} examples are left, at least {LEAST} are needed to train")
    return raw._replace(train=train, test=test, notes=tuple(notes)), notes


def count(split: Split) -> int:
    """Examples in it."""
    return length(split.inputs)


def ready(
    raw: Raw, train: Split, test: Split, *, shape: str | None, scale: str, counted: classes.Classes, where: str
) -> Ready:
    """Scale both splits by what the training split says.

    Args:
      raw: of `settle`.
      train: to train on, its labels numbers.
      test: held out, its labels numbers.
      shape: of `config.data.shape`.
      scale: of `config.data.scale`.
      counted: names of the classes.
      where: what messages call the data.

    Raises:
      UserError: a shape that does not fit, or nothing that varies.
    """
    notes = list(raw.notes)
    if isinstance(train.inputs, dict):
        assert isinstance(test.inputs, dict)
        columns, means, found = _columns(train.inputs)
        notes += found
        if not columns:
            raise UserError(f"{where}: no column of numbers or of few texts")
        matrices = [_matrix(inputs, columns, means) for inputs in (train.inputs, test.inputs)]
    else:
        assert not isinstance(test.inputs, dict)
        columns = tuple(Column(name) for name in getattr(train.inputs, "names", ()))
        if train.inputs.shape[1:] != test.inputs.shape[1:]:
            a, b = (list(inputs.shape[1:]) for inputs in (train.inputs, test.inputs))
            raise UserError(f"{where}: examples to train on have shape {a}, those to test {b}")
        if getattr(test.inputs, "names", columns) != columns:
            raise UserError(f"{where}: the columns to test on are not those to train on")
        held = test.inputs[:] if streamed(test.inputs) else test.inputs
        matrices = [train.inputs, held] if streamed(train.inputs) else _filled(train.inputs, held)
    at = f"{where}/{train.file}" if train.file else where
    units = fit.units(matrices[0], pictures=raw.pictures, shape=shape, scale=scale, where=at)
    units = dataclasses.replace(units, columns=columns, classes=counted.names)
    rows = [on_host(m, units) if isinstance(m, Given) else units.prepared(m) for m in matrices]
    label = [np.asarray(split.label) for split in (train, test)]
    notes = [*_about(units, counted, label), *notes, *_warnings(units, counted, label, rows)]
    if len(counted.names) == 1:  # it tells nothing apart
        label = [np.full_like(each, classes.MISSING) for each in label]
    return Ready((rows[0], label[0]), (rows[1], label[1]), units, max(len(counted.names), 1), tuple(notes))


def _shaped(inputs: Inputs, where: str) -> None:
    """Refuse what is no row of numbers an example."""
    if isinstance(inputs, dict):
        if not inputs:
            raise UserError(f"{where}: no columns in it, there is nothing to learn from")
        return
    shape = list(inputs.shape)
    if len(shape) < 2:
        how = ", and reshape(-1, 1) makes such rows of single numbers" if shape else ""
        raise UserError(f"{where}: examples have shape {shape}: one row an example is wanted, [n, …]{how}")
    if 0 in shape[1:]:
        raise UserError(f"{where}: examples have shape {shape}: there is nothing in them to learn from")


def _empty(inputs: Inputs, where: str, missing: str) -> np.ndarray:
    """Which examples have an empty cell, [n] bool."""
    if isinstance(inputs, dict):
        by_column = {name: _blank(values, f"{where}: column {name!r}") for name, values in inputs.items()}
        counts = {name: int(blank.sum()) for name, blank in by_column.items() if blank.any()}
        if counts and missing == "refuse":
            named = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:_NAMED])
            more = f" and {len(counts) - _NAMED} more columns" if len(counts) > _NAMED else ""
            raise UserError(f"{where}: empty cells in {named}{more}: {_WAYS}")
        return np.asarray(np.stack(list(by_column.values())).any(axis=0))
    if inputs.dtype.kind in "biu":
        return np.zeros(len(inputs), bool)
    empty, start = list[np.ndarray](), 0
    for block in blocks(inputs):
        empty.append(_blank(block, where, start).reshape(len(block), -1).sum(axis=1))
        start += len(block)
    each = np.concatenate(empty)
    if each.any() and missing == "refuse":
        raise UserError(f"{where}: {each.sum()} values are NaN, the first in example {(each > 0).argmax()}: {_WAYS}")
    return each > 0


_WAYS = "config.data.missing=drop leaves such examples out, mean fills them"


def _blank(values: np.ndarray, where: str, start: int = 0) -> np.ndarray:
    if values.dtype.kind == "O":
        return np.array([cell is None for cell in values], bool)
    if values.dtype.kind not in "biuf":
        raise UserError(f"{where}: inputs are {values.dtype}: numbers are wanted")
    if values.dtype.kind != "f":
        return np.zeros(len(values), bool)
    infinite = np.isinf(values)
    if infinite.any():
        first = start + int(infinite.reshape(len(values), -1).any(axis=1).argmax())
        raise UserError(f"{where}: {int(infinite.sum())} values are infinite, the first in example {first}")
    return np.isnan(values)


def _columns(inputs: dict[str, np.ndarray]) -> tuple[tuple[Column, ...], dict[str, Any], list[str]]:
    """What becomes of each column, and what fills it: its mean, or its most frequent text."""
    columns, means, notes = list[Column](), dict[str, Any](), list[str]()
    for name, values in inputs.items():
        if values.dtype.kind != "O":
            columns.append(Column(name))
            known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
            means[name] = float(known.mean(dtype=np.float64)) if known.size else 0.0
            continue
        texts, counts = np.unique([cell for cell in values if cell is not None], return_counts=True)
        if 0 < len(texts) <= min(LEVELS, max(2, len(values) // 2)):
            columns.append(Column(name, tuple(str(text) for text in texts)))
            means[name] = str(texts[counts.argmax()])
            notes.append(f"column {name!r} is text, one number for each of {classes.listed(list(texts))}")
        else:
            notes.append(f"column {name!r} is left out: {len(texts)} different texts")
    return tuple(columns), means, notes


def _matrix(inputs: dict[str, np.ndarray], columns: tuple[Column, ...], means: dict[str, Any]) -> np.ndarray:
    parts = []
    for column in columns:
        values = inputs[column.name]
        if column.levels:
            text = np.array([means[column.name] if cell is None else cell for cell in values], object)
            parts.append((text[:, None] == np.array(column.levels, object)[None]).astype(np.float64))
        else:
            numbers = values.astype(np.float64) if values.dtype.kind != "O" else _as_numbers(values, column.name)
            parts.append(np.where(np.isnan(numbers), means[column.name], numbers)[:, None])
    return np.concatenate(parts, axis=1)


def _as_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """A column of texts where training had numbers."""
    try:
        return np.array([np.nan if cell is None else float(cell) for cell in values], np.float64)
    except ValueError as error:
        raise UserError(f"column {name!r} holds numbers to train on, and texts to test: {error}") from error


def _filled(train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """NaN → the mean of its place over the training split."""
    if (train.dtype.kind != "f" and test.dtype.kind != "f") or not (np.isnan(train).any() or np.isnan(test).any()):
        return [train, test]
    known = ~np.isnan(train)
    mean = np.where(known, train, 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)
    return [np.where(np.isnan(x), mean.astype(train.dtype)[None], x) for x in (train, test)]


def _about(units: Units, counted: classes.Classes, label: list[np.ndarray]) -> list[str]:
    what = f"{units.size} numbers"
    if units.image_shape is not None:
        what = f"images of {'×'.join(map(str, units.image_shape))}"
    elif units.columns:
        what = f"{len(units.columns)} columns"
    scale = "one scale a column"
    if units.identity:
        scale = f"{units.dtype}, taken as they are"
    elif units.low.size == 1:
        scale = f"{units.dtype}, {units.low[0]:g} to {units.low[0] + units.width[0]:g} scaled to 0 to 1"
    sizes = f"{len(label[0])} examples to train on, {len(label[1])} to test"
    lines = [f"{sizes}; {what}, {scale}"]
    known = int((label[0] >= 0).sum())
    if not known:
        return [*lines, "no labels: charts come from pairs of near examples, and nothing is compared with classes"]
    lines.append(f"{len(counted.names)} classes: {classes.listed(counted.names)}")
    if known < len(label[0]):
        lines.append(f"{len(label[0]) - known} of {len(label[0])} training examples have no label, and train without")
    return lines


def _warnings(
    units: Units, counted: classes.Classes, label: list[np.ndarray], rows: Sequence[np.ndarray | Rows]
) -> list[str]:
    lines = []
    counts = np.bincount(label[0][label[0] >= 0], minlength=len(counted.names))
    if len(counts) == 1 and counts[0]:
        lines.append(f"one class, {counted.names[0]!r}: there is nothing to tell apart, training goes without labels")
    elif len(counts) > 1 and counts.max() > IMBALANCE * max(counts.min(), 1):
        least, most = counted.names[counts.argmin()], counted.names[counts.argmax()]
        lines.append(f"classes are unequal: {counts.min()} of {least!r}, {counts.max()} of {most!r}")
    if units.columns:
        ends = [(block.min(axis=0), block.max(axis=0)) for block in blocks(rows[0])]
        constant = np.min([low for low, _ in ends], axis=0) == np.max([high for _, high in ends], axis=0)
        names = [column.name for column in units.columns for _ in range(column.size)]
        if constant.any():
            lines.append(f"constant: {classes.listed([names[i] for i in np.flatnonzero(constant)])}")
    of_train, of_test = (
        np.fromiter((hash(row.tobytes()) for block in blocks(each) for row in block), np.int64, len(each))
        for each in rows
    )
    twice, shared = len(of_train) - len(np.unique(of_train)), int(np.isin(of_test, of_train).sum())
    if twice or shared:
        lines.append(
            f"duplicates: {twice} training examples repeat another, {shared} test examples are in training too"
        )
    return lines
