"""The units of a person's data: from their examples to rows in [0, 1], and back.

x' = (x − low) / width,   one affine map for images, one a column for tables, fitted on the training split alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.errors import UserError
from topojax.types import Array

BEYOND = 1.0
"""How far outside [0, 1] one number of an image may lie: a view may leave the range, another scale does by more."""
BEYOND_COLUMN = 1e6
"""The same of a column: what was not seen in training may lie far away, but not where float32 no longer counts."""
_UNSCALED = 50.0


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: its header.
      levels: the texts that it holds, each one number (one-hot); empty where it is a number itself.
    """

    name: str
    levels: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Numbers that it takes up in a row."""
        return len(self.levels) or 1


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """How examples are given, and the affine map that makes rows of them. X numbers a row.

    Attributes:
      shape: of one example as it was given, as (28, 28) or (3, 32, 32); (X,) of rows and tables.
      image_shape: (H, W, C) of its pixels; None where it is no image.
      channels_first: whether `shape` is (C, H, W).
      low: [1] or [X], what becomes 0.
      width: [1] or [X], what becomes 1, above `low`; 0 where a column is constant: it is 0, whatever is given.
      integers: what an integer is divided by, where floats have other units than integers; None: no difference.
      columns: of a table; empty where examples have no named columns.
      dtype: of the examples as given.
      classes: names of the classes, in the order of their numbers.
    """

    shape: tuple[int, ...]
    image_shape: tuple[int, int, int] | None
    low: np.ndarray
    width: np.ndarray
    channels_first: bool = False
    integers: float | None = None
    columns: tuple[Column, ...] = ()
    dtype: str = "float32"
    classes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """X."""
        return sum(column.size for column in self.columns) or int(np.prod(self.shape))

    @property
    def identity(self) -> bool:
        """Whether floats are taken as they are."""
        return bool((self.low == 0).all() and (self.width == 1).all())

    @property
    def text(self) -> bool:
        """Whether some column is text: examples are then given by column."""
        return any(column.levels for column in self.columns)

    def rows(self, x: Any) -> tuple[np.ndarray, bool]:
        """Examples as rows.

        Args:
          x: [n, …] or one example, in any shape that `shapes` lists; a data frame or a mapping of columns.

        Returns:
          [n, X] float32, and whether `x` was one example.

        Raises:
          UserError: another shape or scale, or values that are not finite; naming the first example.
        """
        if self.columns and (hasattr(x, "columns") or isinstance(x, Mapping)):
            return self._checked(self._from_columns(x)), False
        array = np.asarray(x)
        if array.dtype == object or array.dtype.kind in "US":
            array = _numbers(array)
        if array.dtype.kind not in "biuf":
            raise UserError(f"inputs are {array.dtype}: give numbers")
        array, single = self._stacked(array)
        return self._checked(self.scaled(array)), single

    def _stacked(self, x: Any) -> tuple[Any, bool]:
        """[n, X], channel last, and whether it was one example; of a NumPy or a traced array."""
        known = self.shapes()
        for single in (False, True):
            shape = tuple(x.shape) if single else tuple(x.shape[1:])
            if shape not in known or (not single and x.ndim < 2):
                continue
            many = x[None] if single else x
            if self.channels_first and self.image_shape is not None and shape != self.image_shape:
                height, width, channels = self.image_shape
                many = many.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
            return many.reshape(many.shape[0], self.size), single
        listed = " or ".join(f"[{', '.join(['n', *map(str, shape)])}]" for shape in known)
        raise UserError(f"inputs have shape {list(x.shape)}, this model takes {listed}, or one of them without n")

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes in which one example may be given."""
        known = [(self.size,), self.shape]
        if self.image_shape is not None:
            known += [self.image_shape, *([self.image_shape[:2]] if self.image_shape[2] == 1 else [])]
        return list(dict.fromkeys(known))

    def prepared(self, x: np.ndarray) -> np.ndarray:
        """`rows` of a whole split in the shape of its data, without a look at its values."""
        return self.scaled(self._stacked(x)[0])

    def prepared_bytes(self, x: np.ndarray) -> np.ndarray:
        """[n, X], channel last, of a split in the shape of its data, its values as they are."""
        return self._stacked(x)[0]

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """[n, X] in the units given → [0, 1], float32."""
        if x.dtype.kind in "iub" and self.integers is not None:
            out = x.astype(np.float32)
            out /= np.float32(self.integers)
            return out
        if self.low.size == 1:
            out = x.astype(np.float32) if abs(self.low[0]) + self.width[0] < 1e30 else x.astype(np.float64)
            if self.low[0]:
                out -= out.dtype.type(self.low[0])
            if self.width[0] not in (0, 1):
                out /= out.dtype.type(self.width[0])
            return (out * 0 if self.width[0] == 0 else out).astype(np.float32, copy=False)
        gone = self.width == 0
        with np.errstate(over="ignore"):
            return np.where(gone, 0.0, (x.astype(np.float64) - self.low) / np.where(gone, 1.0, self.width)).astype(
                np.float32
            )

    def traced(self, x: Array) -> tuple[Array, bool]:
        """`rows` within a traced function: shapes are checked, values cannot be."""
        divisor = self.integers if jnp.issubdtype(x.dtype, jnp.integer) else None
        many, single = self._stacked(x)
        many = many.astype(jnp.float32)
        if divisor is not None:
            return many / divisor, single
        if self.identity:
            return many, single
        low, width = (jnp.asarray(v, jnp.float32)[None] for v in (self.low, self.width))
        return jnp.where(width == 0, 0.0, (many - low) / jnp.where(width == 0, 1.0, width)), single

    def back(self, rows: Any) -> Any:
        """[n, X] in [0, 1] → the units given, [n, *shape] floats; of a table with texts, a dict of its columns."""
        traced = isinstance(rows, jax.Array)
        out = rows
        if not self.identity:
            precision = np.float32 if traced else np.float64
            out = rows * self.width.astype(precision)[None] + self.low.astype(precision)[None]
        if self.text and not traced:
            return self._columns(np.asarray(out))
        if self.channels_first and self.image_shape is not None:
            out = out.reshape(-1, *self.image_shape).transpose(0, 3, 1, 2)
        if not traced:
            out = out if np.abs(out).max(initial=0) > np.finfo(np.float32).max else out.astype(np.float32)
        return out.reshape(-1, *self.shape) if not self.columns else out

    def images(self, rows: np.ndarray) -> np.ndarray:
        """[n, X] in [0, 1] → [n, H, W, C] uint8, as a file of pictures has them."""
        if self.image_shape is None:
            raise UserError("these examples are no images")
        return np.round(255 * np.clip(rows, 0.0, 1.0)).astype(np.uint8).reshape(-1, *self.image_shape)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        out = dataclasses.asdict(self)
        return out | {"low": self.low.tolist(), "width": self.width.tolist()}

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        bad = ~np.isfinite(rows)
        if bad.any():
            raise UserError(f"inputs have values that are not finite, the first in row {bad.any(axis=1).argmax()}")
        beyond = BEYOND if self.low.size == 1 and self.image_shape is not None else BEYOND_COLUMN
        far = (rows < -beyond) | (rows > 1 + beyond)
        low, width = float(self.low[0]), float(self.width[0])
        if far.any():
            row, column = np.argwhere(far)[0]
            back = rows[row, column] * self.width[column % self.width.size] + self.low[column % self.low.size]
            where = f"[{low:g}, {low + width:g}]" if beyond == BEYOND else "what its column was in training"
            raise UserError(f"row {row} of the inputs holds {back:g}, far from {where}: give them as in training")
        # A picture in [0, 1] for a model of 0 … 255 would be taken for a black one.
        if self.image_shape is not None and width > _UNSCALED and rows.size and low == 0:
            top = float(rows.max()) * width
            if 0 < top <= 1 + 1e-5 and (np.abs(rows * width - np.round(rows * width)) > 1e-5).any():
                raise UserError(f"inputs lie in [0, {top:g}], this model was trained on 0 to {width:g}: scale them")
        return rows

    def _from_columns(self, frame: Any) -> np.ndarray:
        parts = []
        for column in self.columns:
            try:
                values = np.asarray(frame[column.name])
            except (KeyError, IndexError) as error:
                raise UserError(f"the column {column.name!r} is missing: this model was trained with it") from error
            if column.levels:
                text = np.array([str(value) for value in values.reshape(-1)])
                hot = text[:, None] == np.array(column.levels)[None]
                if not hot.any(axis=1).all():
                    row = int(hot.any(axis=1).argmin())
                    raise UserError(
                        f"column {column.name!r} holds {text[row]!r} in row {row}, training knew "
                        f"{', '.join(column.levels)}"
                    )
                parts.append(hot.astype(np.float64))
            else:
                parts.append(_numbers(values).astype(np.float64).reshape(-1, 1))
        return self.scaled(np.concatenate(parts, axis=1))

    def _columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        out, at = {}, 0
        for column in self.columns:
            part = rows[:, at : at + column.size]
            out[column.name] = np.array(column.levels)[part.argmax(axis=1)] if column.levels else part[:, 0]
            at += column.size
        return out


def unit_interval(
    size: int, image_shape: Sequence[int] | None, *, integers: float | None = None, classes: Sequence[str] = ()
) -> Units:
    """Units of rows that are in [0, 1] as they come: those of the built-in sets, and of every run's own rows.

    Args:
      size: X.
      image_shape: (H, W, C), None for points.
      integers: what an integer pixel is divided by.
      classes: their names.
    """
    shape = None if image_shape is None else (image_shape[0], image_shape[1], image_shape[2])
    return Units((size,), shape, np.zeros(1), np.ones(1), integers=integers, classes=tuple(classes))


def from_json(fields: Mapping[str, Any]) -> Units:
    """What `Units.to_json` wrote."""
    given = dict(fields)
    image = given["image_shape"]
    return Units(
        **given
        | {
            "shape": tuple(given["shape"]),
            "image_shape": None if image is None else (image[0], image[1], image[2]),
            "low": np.asarray(given["low"], np.float64),
            "width": np.asarray(given["width"], np.float64),
            "columns": tuple(Column(c["name"], tuple(c["levels"])) for c in given["columns"]),
            "classes": tuple(given["classes"]),
        }
    )


def _numbers(x: np.ndarray) -> np.ndarray:
    try:
        return x.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"inputs must be numbers: {error}") from error
