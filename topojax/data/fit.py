"""Found out of a training split: whether its examples are pictures, their scale, what is constant; as `Units`.

Images have one affine map, columns one each; 0 and 1 are the least and the largest of the training split. A range that
people use by habit, [0, 1], [−1, 1] or 0 … 255, is taken whole where the data fill half of it.
"""

import re
from typing import NamedTuple

import numpy as np

from topojax.data.rows import Given
from topojax.data.units import Units
from topojax.errors import UserError

HABITS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
SCALES = ("found", "none")
"""Whether examples are brought to [0, 1], or taken as they are."""
CHANNELS = (1, 3)
"""Of what is shown, turned and shifted as an image."""
SMOOTH = 0.25
"""Median correlation of neighbours, both ways, from which rows of a square number of numbers are taken for images."""
_SIDE = 8
_SEEN = 2000
"""Examples that a correlation is taken of."""


class Layout(NamedTuple):
    """How an example lies in memory.

    Attributes:
      image_shape: (H, W, C); None where it is no image.
      channels_first: whether it is given as (C, H, W).
      one_map: whether all its numbers have one unit.
    """

    image_shape: tuple[int, int, int] | None
    channels_first: bool
    one_map: bool


def units(
    train: np.ndarray | Given, *, pictures: bool, shape: str | None, scale: str = "found", where: str = "data"
) -> Units:
    """The units of a training split.

    Args:
      train: [n, …] finite numbers; what is not in memory is read through once.
      pictures: whether they are known to be images.
      shape: of `config.data.shape`: "28x28", "3x32x32", "none"; None: found out.
      scale: of `SCALES`.
      where: what messages call the data.

    Raises:
      UserError: a shape that does not fit, or nothing that varies.
    """
    layout = _told(shape, train.shape[1:]) if shape is not None else _layout(train, pictures)
    given = tuple(int(side) for side in train.shape[1:])
    if scale == "none":
        one = np.ones(1)
        return Units(given, layout.image_shape, 0 * one, one, layout.channels_first, dtype=str(train.dtype))
    low, high = _range(train, layout.one_map)
    if not (high > low).any():
        raise UserError(f"{where}: all training examples are equal: there is nothing to learn")
    return Units(given, layout.image_shape, low, high - low, layout.channels_first, dtype=str(train.dtype))


def _range(train: np.ndarray | Given, one_map: bool) -> tuple[np.ndarray, np.ndarray]:
    if not one_map:
        ends = (np.ravel(each).astype(np.float64) for each in (train.min(axis=0), train.max(axis=0)))
        return next(ends), next(ends)
    low, high = float(train.min()), float(train.max())
    if train.dtype == np.uint8 and high > 127:
        low, high = 0.0, 255.0
    for a, b in HABITS if train.dtype.kind == "f" else ():
        if a <= low and high <= b and 2 * (high - low) >= b - a:
            low, high = a, b
            break
    return np.array([low]), np.array([high])


def _layout(train: np.ndarray | Given, pictures: bool) -> Layout:
    shape = train.shape[1:]
    if len(shape) == 3:
        if shape[2] in CHANNELS:
            return Layout((shape[0], shape[1], shape[2]), False, True)
        if shape[0] in CHANNELS:
            return Layout((shape[1], shape[2], shape[0]), True, True)
        return Layout(None, False, True)
    if len(shape) == 2:
        return Layout((shape[0], shape[1], 1), False, True)
    if len(shape) != 1:
        return Layout(None, False, True)
    if pictures or train.dtype == np.uint8 or _one_unit(train):
        return Layout(_square(train), False, True)
    return Layout(None, False, False)


def _one_unit(train: np.ndarray | Given) -> bool:
    """Whether all that varies starts at one least value, as the pixels of dark images do."""
    low, high = train.min(axis=0), train.max(axis=0)
    varies = low < high
    if train.shape[1] < _SIDE**2 or not varies.any():
        return False
    least, top = low.min(), high.max()
    return bool((low[varies] == least).mean() > 0.9 and np.median(high[varies]) > least + 0.5 * (top - least))


def _square(train: np.ndarray | Given) -> tuple[int, int, int] | None:
    """(H, H, 1) where rows are the pixels of smooth square images."""
    side = round(train.shape[1] ** 0.5)
    if side < _SIDE or side * side != train.shape[1]:
        return None
    images = train[:_SEEN].reshape(-1, side, side).astype(np.float64)
    images -= images.mean(axis=0)
    norm = np.sqrt((images**2).sum(axis=0))

    def correlation(a: np.ndarray, b: np.ndarray, na: np.ndarray, nb: np.ndarray) -> float:
        live = (na > 0) & (nb > 0)
        return float(np.median((a * b).sum(axis=0)[live] / (na * nb)[live])) if live.any() else 0.0

    across = correlation(images[:, :, 1:], images[:, :, :-1], norm[:, 1:], norm[:, :-1])
    down = correlation(images[:, 1:], images[:, :-1], norm[1:], norm[:-1])
    return (side, side, 1) if min(across, down) >= SMOOTH else None


def _told(shape: str, given: tuple[int, ...]) -> Layout:
    if shape == "none":
        return Layout(None, False, False)
    sides = tuple(int(side) for side in re.findall(r"\d+", shape)) if re.fullmatch(r"\d+(x\d+){1,2}", shape) else ()
    if not sides or np.prod(sides) != np.prod(given):
        raise UserError(
            f"config.data.shape = {shape!r} does not fit examples of {'×'.join(map(str, given))}: "
            "height x width, with channels before or after, or none"
        )
    if len(sides) == 2:
        return Layout((sides[0], sides[1], 1), False, True)
    if sides[2] in CHANNELS or sides[0] not in CHANNELS:
        return Layout((sides[0], sides[1], sides[2]), False, True)
    return Layout((sides[1], sides[2], sides[0]), True, True)
