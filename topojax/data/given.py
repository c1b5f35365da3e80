"""Data that lie in memory: (x, y), (x_train, y_train, x_test, y_test), x alone, or grain's protocol of examples.

Arrays of NumPy, JAX and torch and the columns of pandas are taken without a copy where their memory can be shared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topojax.data.raw import NO_LABEL, Options, Raw, Split
from topojax.data.readers.tabular import divided, label_of
from topojax.errors import UserError

NAME = "data="
"""What `config.data.name` says of a run whose data were handed over."""
_FORMS = "data is x, (x, y), (x_train, y_train, x_test, y_test), a data frame, or a sequence of examples"


def raw(data: Any, options: Options) -> Raw:
    """What was handed over as `data=`.

    Args:
      data: as the head of this module has it; labels may be None.
      options: `label` and `columns` choose among the columns of a data frame.

    Raises:
      UserError: another form, or lengths that differ.
    """
    if isinstance(data, Raw):
        return data
    if isinstance(data, tuple):
        if len(data) not in (1, 2, 4):
            raise UserError(f"data has {len(data)} parts: {_FORMS}")
        train = Split(_inputs(data[0], "x"), _label(data[1], "y") if len(data) > 1 else None)
        test = Split(_inputs(data[2], "x_test"), _label(data[3], "y_test")) if len(data) == 4 else None
        for split, name in ((train, "x and y"), (test, "x_test and y_test")):
            _agree(split, name)
        return Raw(train, test, "arrays")
    if _is_frame(data):
        return divided(frame(data), options, "data", "arrays")
    if hasattr(data, "shape") or hasattr(data, "dtype") or isinstance(data, list):
        return Raw(Split(_inputs(data, "data"), None), None, "arrays")
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return _examples(data, options)
    raise UserError(f"{type(data).__name__} is no data: {_FORMS}")


def array(x: Any) -> np.ndarray:
    """Anything with an array's protocol as NumPy's, of the same memory where it lies on the host."""
    if hasattr(x, "detach"):  # of torch: its own way out of the graph and off the device
        x = x.detach().cpu()
    if hasattr(x, "toarray"):  # a sparse matrix of scipy
        x = x.toarray()
    return np.asarray(x)


def frame(data: Any) -> dict[str, np.ndarray]:
    """A data frame's columns: numbers as they are, all else as objects, None where a cell is empty."""
    if isinstance(data, Mapping):
        return {str(name): _cells(np.asarray(values)) for name, values in data.items()}
    names = [str(name) for name in data.columns]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise UserError(f"data: two columns are called {double!r}")
    return {name: _cells(_series(data[key])) for name, key in zip(names, data.columns, strict=True)}


def _series(column: Any) -> np.ndarray:
    if str(getattr(column, "dtype", "")) in ("Int64", "Int32", "Float64", "boolean", "Float32", "Int8", "Int16"):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)  # pandas' own, which have a value for nothing
    return np.asarray(column)


def _cells(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "iufb":
        return values
    cells = [None if cell is None or cell != cell else cell for cell in values.tolist()]
    numbers = [isinstance(cell, int | float) for cell in cells if cell is not None]
    if numbers and all(numbers):
        return np.array([np.nan if cell is None else cell for cell in cells], np.float64)
    return np.array([None if cell is None or str(cell) in ("<NA>", "NaT") else str(cell) for cell in cells], object)


def _is_frame(data: Any) -> bool:
    return isinstance(data, Mapping) or (hasattr(data, "columns") and hasattr(data, "dtypes"))


def _inputs(x: Any, name: str) -> Any:
    if x is None:
        raise UserError(f"data: {name} is None")
    if _is_frame(x):
        return frame(x)
    try:
        found = array(x)
    except ValueError as error:
        raise UserError(f"data: {name} has rows of different lengths, or is no array: {error}") from error
    if found.dtype.kind == "O":
        try:
            found = found.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"data: {name} holds objects that are no numbers, or examples of different shapes"
            ) from error
    if found.ndim < 2:
        raise UserError(f"data: {name} has shape {list(found.shape)}: one row an example is wanted, [n, …]")
    return found


def _label(y: Any, name: str) -> np.ndarray | None:
    if y is None:
        return None
    if hasattr(y, "columns") and hasattr(y, "dtypes") and len(y.columns) == 1:
        y = y.iloc[:, 0]
    found = _series(y) if hasattr(y, "iloc") else array(y)
    if not found.ndim:
        raise UserError(f"data: {name} is one value: one label an example is wanted")
    return found


def _agree(split: Split | None, name: str) -> None:
    if split is None or split.label is None:
        return
    n = len(next(iter(split.inputs.values()))) if isinstance(split.inputs, dict) else len(split.inputs)
    if len(split.label) != n:
        raise UserError(f"data: {name} differ in length: {n} and {len(split.label)}")


def _examples(data: Sequence[Any], options: Options) -> Raw:
    """Grain's protocol: `len(data)` examples, each an input, (input, label), or a mapping of names."""
    examples = [data[i] for i in range(len(data))]
    if not examples:
        raise UserError("data: no examples in it")
    if isinstance(examples[0], Mapping):
        key = label_of(examples[0], options, "data")
        names = [name for name in examples[0] if name != key and (not options.columns or name in options.columns)]
        if len(names) == 1:
            inputs: Any = _stack([example[names[0]] for example in examples])
        else:
            inputs = {str(name): _cells(np.asarray([example[name] for example in examples])) for name in names}
        return Raw(Split(inputs, np.asarray([e[key] for e in examples]) if key else None), None, "examples")
    if isinstance(examples[0], tuple) and len(examples[0]) == 2:
        labels = None if options.label == NO_LABEL else np.asarray([example[1] for example in examples])
        return Raw(Split(_stack([example[0] for example in examples]), labels), None, "examples")
    return Raw(Split(_stack(examples), None), None, "examples")


def _stack(examples: list[Any]) -> np.ndarray:
    arrays = [array(example) for example in examples]
    for i, each in enumerate(arrays):
        if each.shape != arrays[0].shape:
            raise UserError(f"data: example 0 has shape {list(arrays[0].shape)}, example {i} {list(each.shape)}")
    return _inputs(np.stack(arrays), "data")
