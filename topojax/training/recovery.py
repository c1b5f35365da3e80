"""What a run does about steps that are not finite, and what it says where another run would have come out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import optim
from topojax.errors import UserError
from topojax.step.state import TrainState


class NotFinite(Exception):
    """Too many steps in a row were not finite, or the state itself is not.

    Args:
      epoch: in which that was seen.
      failures: steps in a row that were skipped.
    """

    def __init__(self, epoch: int, failures: int):
        super().__init__(epoch, failures)
        self.epoch, self.failures = epoch, failures


def failed(row: Mapping[str, Any], max_failures: int) -> int | None:
    """Steps in a row that were skipped, where a run must go back: too many, or a state that is not finite; else None.

    Args:
      row: an epoch's metrics.
      max_failures: `config.monitor.max_failures`.
    """
    failures = int(row["guard/failures"] or 0)
    return failures if failures >= max_failures or row.get("guard/unsound") else None


def lowered(state: TrainState, factor: float, minimum: float) -> TrainState:
    """The state at another rate, η ← max(minimum, factor η); nothing else of it changes."""
    governor = state.control.governor
    rate = jnp.maximum(governor.rate * np.float32(factor), np.float32(minimum))
    return dataclasses.replace(state, control=state.control._replace(governor=governor._replace(rate=rate)))


def stretched(config: Any, saved: Mapping[str, Any], *, step: int, steps_per_epoch: int) -> dict[str, Any] | None:
    """The event of a run whose falling schedule has become longer, or shorter: its cap is another from here on.

    Args:
      config: that it goes on with.
      saved: the configuration of its checkpoint.
      step: steps made.
      steps_per_epoch: steps.
    """
    before, now = saved["train"]["epochs"], config.train.epochs
    if config.optim.schedule == "none" or before == now:
        return None
    if config.optim.schedule == "ending":
        return {"event": "schedule_changed", "epochs_before": before, "epochs": now}
    caps = (
        float(jax.device_get(optim.schedule(config.optim, steps_per_epoch=steps_per_epoch, epochs=n)(step)))
        for n in (before, now)
    )
    names = ("epochs_before", "epochs", "cap_before", "cap")
    return {"event": "schedule_changed", **dict(zip(names, (before, now, *caps), strict=True))}


def diverged(workdir: Any, saved: int, failure: NotFinite, culprit: object, rollbacks: int) -> UserError:
    """What ends a run that was rolled back as often as it may be."""
    after = f" after {rollbacks} roll-backs" if rollbacks else ""
    return UserError(
        f"diverged in epoch {failure.epoch}{after}: {failure.failures} steps in a row not finite, first of all "
        f"{culprit or 'nothing that lasts'}; {workdir} is as it was after epoch {saved}. Look at the data, or lower "
        "config.optim.learning_rate_max and start in a new --workdir; --config.debug=true finds the operation"
    )
