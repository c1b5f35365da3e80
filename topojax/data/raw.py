"""What a reader brings: examples as they lie there, before anything is found out about them."""

from typing import Any, NamedTuple

import numpy as np

from topojax.data.rows import Given
from topojax.data.source import Source

Inputs = np.ndarray | dict[str, np.ndarray]
"""[n, …] of numbers, or name → [n] of a table's columns: numbers, or texts as objects, None where a cell is empty.
What is streamed, a `Source` or `Given` of one, stands for an array."""


class Split(NamedTuple):
    """Examples of one split."""

    inputs: Inputs
    label: np.ndarray | None  # shape=(n,) of any kind, or one-hot (n, C); None without labels
    file: str = ""  # of the inputs, where they lie in a folder of several


class Raw(NamedTuple):
    """A data set as it was read.

    Attributes:
      train: what is drawn and held out from.
      test: the official test split, None where there is none.
      source: what it was read from, in words that do not depend on where it lies.
      pictures: whether inputs are known to be images, as those of a folder are.
      names: of the classes, where labels are their numbers; None: labels name themselves.
      notes: what the reader found worth saying.
    """

    train: Split
    test: Split | None
    source: str
    pictures: bool = False
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


class Options(NamedTuple):
    """What `config.data` says of reading; None where it says nothing.

    Attributes:
      label: the key or column of the labels; "none" for none.
      columns: the others to read, None for all.
      resize: (height, width) that images are brought to.
      stream: whether inputs may stay where they lie, as a `Source`.
    """

    label: str | None = None
    columns: tuple[str, ...] | None = None
    resize: tuple[int, int] | None = None
    stream: bool = False


LABELS = ("label", "labels", "y", "target", "class", "classes")
"""What a label is called where nobody says, in any case of letters; the first found."""
NO_LABEL = "none"


def length(inputs: Inputs) -> int:
    """Examples in them."""
    return len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)


def streamed(inputs: Any) -> bool:
    """Whether they are in files, and read as they are asked for."""
    return isinstance(inputs, Source | Given)


def taken(split: Split, index: np.ndarray, *, on_host: bool = False) -> Split:
    """Those of its examples; bytes and streams that stay on the host are not copied (`Given`)."""
    inputs = split.inputs
    label = None if split.label is None else split.label[index]
    if on_host and not isinstance(inputs, dict) and (inputs.dtype == np.uint8 or streamed(inputs)):
        given: Any = Given(inputs, index)
        return split._replace(inputs=given, label=label)
    if len(index) == length(inputs) and (np.diff(index) == 1).all() and not streamed(inputs):
        return split  # all of them: no copy
    chosen = {k: v[index] for k, v in inputs.items()} if isinstance(inputs, dict) else Given(inputs)[index]
    return split._replace(inputs=chosen, label=label)
