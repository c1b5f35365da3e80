"""Examples that would train to nonsense are refused."""

import numpy as np

from topojax.data.rows import Rows, blocks
from topojax.errors import UserError
from topojax.types import Batch


def check(batch: Batch, num_classes: int, where: str) -> None:
    """Refuse examples that would train to nonsense.

    Args:
      batch: image [n, X] in [0, 1], label [n] integer in [0, num_classes).
      num_classes: C.
      where: what the message calls the batch.

    Raises:
      UserError: with the first offending example, for an empty batch, lengths that differ, images that are
        not finite or leave [0, 1], labels that are not integers in range.
    """
    image = batch.image if isinstance(batch.image, Rows) else np.asarray(batch.image)
    label = np.asarray(batch.label)
    if image.ndim != 2 or label.shape != image.shape[:1]:
        raise UserError(f"{where}: images {image.shape} and labels {label.shape} should be [n, X] and [n]")
    if 0 in image.shape:
        raise UserError(f"{where}: empty, images have shape {image.shape}")
    in_unit_interval(image, where)
    if not np.issubdtype(label.dtype, np.integer):
        raise UserError(f"{where}: labels are {label.dtype}, not integers")
    wrong = (label < 0) | (label >= num_classes)
    if wrong.any():
        row = wrong.argmax()
        raise UserError(f"{where}: example {row} has label {label[row]}, outside [0, {num_classes})")


def in_unit_interval(image: np.ndarray | Rows, where: str) -> None:
    """Refuse numbers that are not finite or leave [0, 1], with the first offending example.

    Bytes that are in [0, 1] whatever they are need not be read.
    """
    if isinstance(image, Rows) and image.given.dtype == np.uint8 and 0 <= image.table.min() <= image.table.max() <= 1:
        return
    start = 0
    for block in map(np.asarray, blocks(image)):
        low, high = block.min(), block.max()  # NaN if there is one
        if not np.isfinite([low, high]).all():
            bad = ~np.isfinite(block)
            first = start + bad.any(axis=1).argmax()
            raise UserError(f"{where}: {bad.sum()} values are not finite, the first in example {first}")
        if low < 0 or high > 1:
            row, column = np.argwhere((block < 0) | (block > 1))[0]
            number = block[row, column]
            raise UserError(f"{where}: example {start + row} holds {number}, outside [0, 1]: rescale them")
        start += len(block)
