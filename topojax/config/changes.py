"""What of a configuration may change when a run goes on: settings of training, not what the state is made of."""

import fnmatch
from collections.abc import Mapping
from typing import Any, NamedTuple

from topojax.config.defaults import RESUMABLE
from topojax.config.io import flat

CHANGEABLE = (
    # Rates and their bounds; not what keeps a state of its own (rate, average), nor the length of a step.
    *("optim.learning_rate", "optim.learning_rate_max", "optim.learning_rate_min", "optim.schedule"),
    *("optim.warmup_epochs", "optim.update_ratio", "optim.latent_speed", "optim.group_rates.*", "optim.grad_clip"),
    *("optim.b1", "optim.b2", "optim.eps", "optim.plateau_factor", "optim.plateau_patience"),
    *("governor.*", "ending.*", "baselines.learning_rate", "baselines.commitment"),
    # Weights, targets and schedules of contracts, whether they take part, and who moves them.
    *("contracts.*.*", "targets.*", "gates.*", "losses.*", "hierarchy.*", "revival.*", "geometry.*"),
    *("window.ground", "window.capacity_fraction", "window.capacity_floor", "window.estimate"),
    *("supervised.temperature", "monitor.*", "probe.every_steps"),
    # What is done to inputs, which is no part of the data.
    *("augment.*", "view.*"),
)
"""Fields that --allow_change takes from then on; `*` stands for any part of a name."""


class Change(NamedTuple):
    """A field that is not what it was."""

    field: str
    old: Any
    new: Any


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Fields that differ, but for those that may differ at any time (`RESUMABLE`); in the order of declaration."""
    a, b = dict(flat(old)), dict(flat(new))
    names = [*b, *(name for name in a if name not in b)]
    return [
        Change(name, a.get(name), b.get(name))
        for name in names
        if a.get(name) != b.get(name) and not _at_any_time(name, (a.get(name), b.get(name)))
    ]


def _at_any_time(name: str, values: tuple[Any, Any]) -> bool:
    if name == "data.mode" and "stream" in values:  # which has an order of its own
        return False
    return any(name == f or name.startswith(f"{f}.") for f in RESUMABLE)


def may_change(field: str) -> bool:
    """Whether --allow_change takes another value of it."""
    return any(fnmatch.fnmatchcase(field, pattern) for pattern in CHANGEABLE)
