"""What a run tells its callbacks after every epoch; one of them may end it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Epoch(NamedTuple):
    """A run after an epoch.

    Attributes:
      epoch: the one that has ended, from 1.
      epochs: those that the run is to have.
      state: the training state, valid during the call: its memory is the next epoch's.
      metrics: name → number of the epoch, None where it was not finite; as in metrics.jsonl, without the test split.
      test: () → what the model says of the test split, name → array of n rows (`step.predict.make_evaluate`).
      label: [n] of the test split, −1 where there is none.
    """

    epoch: int
    epochs: int
    state: Any
    metrics: Mapping[str, float | int | bool | None]
    test: Callable[[], dict[str, np.ndarray]]
    label: np.ndarray


Callback = Callable[[Epoch], bool | None]
"""Called after an epoch; True ends the training, which is saved and evaluated as it stands."""
