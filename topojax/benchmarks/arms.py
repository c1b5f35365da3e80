"""The arms of the comparison of control with hand-set constants: name → overrides of a configuration.

Control has two sides, and every arm takes each of them either as configured or hand-set:

                     weights as configured   weights constant
  rate as configured control                 governor_only
  rate by hand       contracts_only          constants, carried, frozen
  another rule                               reduce_on_plateau, greedy_lr, prodigy, schedule_free

`constants` is tuned on the data at hand, `carried` is what was best on the digits, `frozen` stays where control begins.
All train as many epochs. What a hand sets are `Setting`s: the rate, one factor on all initial weights, and whether the
gates stay.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

RATE_BY_HAND = {
    "optim.rate": "constant",
    "optim.schedule": "cosine",
    "optim.learning_rate": 0.004,
    "optim.update_ratio": 0.0,
    "optim.latent_speed": 0.0,
    "hierarchy.action": "warn",
}
"""A constant rate under a warm-up and cosine, nothing capped, no group of parameters slowed."""
RATE_BY_RULE = RATE_BY_HAND | {"optim.schedule": "none"}
"""The rule of optax alone: it brings its own schedule."""
WEIGHTS_BY_HAND = {"contracts.*.mechanism": "constant"}
"""Every weight stays where it begins, or, behind a gate, where the gate lets it."""
NO_REVIVAL = {"revival.dead_code": 0.0, "revival.dead_chart": 0.0}
"""For rules that keep no moments of Adam to reset."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is set by hand; None leaves a field as configured.

    Attributes:
      rate: initial learning rate. Where the rate is constant it is the schedule's maximum too; the governor's bounds
        stay what they were, and clip it.
      scale: factor on the initial weight of every contract; where a controller moves it, and in all of control, its
        bounds stay and clip the product. Not on sup_temperature, whose `weight` is the log of a temperature.
      gates: False opens every gate from the start, so that weights are constant to the letter.
      clipped: weights are kept within the bounds that control has, for a fair sweep of wrong guesses.
    """

    rate: float | None = None
    scale: float | None = None
    gates: bool | None = None
    clipped: bool | None = None


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to set rate and weights.

    Attributes:
      overrides: dotted field → value; `*` stands for every block, as in contracts.*.mechanism.
      inherits: fields of `Setting` that it takes from the tuned arm `constants`.
      tunes: stages of tuning; in each, all combinations of these fields of `Setting` are tried, the others held.
    """

    overrides: Mapping[str, Any]
    inherits: tuple[str, ...] = ()
    tunes: tuple[tuple[str, ...], ...] = ()


ARMS: dict[str, Arm] = {
    "control": Arm({}),
    "frozen": Arm(RATE_BY_HAND | WEIGHTS_BY_HAND | {"optim.learning_rate": 1e-3}),
    "constants": Arm(RATE_BY_HAND | WEIGHTS_BY_HAND, tunes=(("rate", "scale"), ("gates",))),
    "contracts_only": Arm(RATE_BY_HAND, inherits=("rate",)),
    "governor_only": Arm(WEIGHTS_BY_HAND, inherits=("scale", "gates")),
    "reduce_on_plateau": Arm(
        RATE_BY_RULE | WEIGHTS_BY_HAND | {"optim.rate": "reduce_on_plateau"},
        inherits=("rate", "scale", "gates"),
        tunes=(("rate",),),
    ),
    "schedule_free": Arm(
        RATE_BY_RULE | WEIGHTS_BY_HAND | NO_REVIVAL | {"optim.rate": "schedule_free"},
        inherits=("rate", "scale", "gates"),
        tunes=(("rate",),),
    ),
    "carried": Arm(RATE_BY_HAND | WEIGHTS_BY_HAND),
    "greedy_lr": Arm(RATE_BY_RULE | WEIGHTS_BY_HAND | {"optim.rate": "greedy_lr"}, inherits=("rate", "scale", "gates")),
    # Prodigy finds the rate: its learning_rate is a factor, 1 by its authors' advice.
    "prodigy": Arm(
        RATE_BY_RULE
        | WEIGHTS_BY_HAND
        | NO_REVIVAL
        | {"optim.rate": "prodigy", "optim.learning_rate_max": 1.0, "optim.learning_rate": 1.0},
        inherits=("scale", "gates"),
    ),
}
"""Every arm, in the order of the table; `constants` before all that inherit from it."""

GRID: dict[str, tuple[Any, ...]] = {
    "rate": (1e-3, 4e-3, 1.6e-2),
    "scale": (0.3, 1.0, 3.0),
    "gates": (False, True),
}
"""What tuning tries. Rate and scale are tuned with the gates open from the start, then the gates."""
SWEEP: dict[str, tuple[float, ...]] = {
    "rate": (1e-6, 1e-4, 1e-2, 1.0),
    "scale": (0.001, 0.1, 10.0, 1000.0),
    "both": (0.001, 1000.0),
}
"""Wrong guesses, one field at a time, the other as configured; `both`: the rate and all weights times the same."""

QUICK_ARMS = ("control", "constants", "contracts_only")
QUICK_SEEDS = 2
QUICK_GRID: dict[str, tuple[Any, ...]] = {"rate": (4e-3,), "scale": (1.0,), "gates": (False,)}
"""Nothing to tune: programs take long to compile."""
_QUICK_EPOCHS, _QUICK_EXAMPLES, _QUICK_BATCH = 10, 600, 64


def configure(config: Any, arm: Arm, setting: Setting = Setting(), *, seed: int | None = None) -> Any:
    """A configuration as an arm and a setting would have it.

    Args:
      config: a whole configuration; not changed.
      arm: the overrides; with none and no setting, the configuration is returned as it was.
      setting: by hand.
      seed: of the run; None leaves it.

    Returns:
      An unlocked copy.
    """
    c = copy.deepcopy(config)
    c.unlock()
    for field, value in arm.overrides.items():
        _set(c, field.split("."), value)
    if setting.rate is not None:
        c.optim.learning_rate = setting.rate
        if c.optim.rate != "governor":
            c.optim.learning_rate_min = min(c.optim.learning_rate_min, setting.rate)
    if (
        c.optim.rate not in ("governor", "greedy_lr") and arm.overrides
    ):  # the schedule's maximum is the rate set by hand
        c.optim.learning_rate_max = c.optim.learning_rate
    if setting.scale is not None:
        for name, row in c.contracts.items():
            if name != "sup_temperature":
                row.initial = setting.scale * row.initial
                if row.mechanism == "constant":
                    if setting.clipped or not arm.overrides:
                        row.initial = min(max(row.initial, row.minimum), row.maximum)
                    row.minimum, row.maximum = min(row.minimum, row.initial), max(row.maximum, row.initial)
    if setting.gates is False:
        for row in c.contracts.values():
            row.gate = "none"
    if seed is not None:
        c.seed = seed
    return c


def quick(config: Any) -> Any:
    """An unlocked copy with few epochs of few examples."""
    c = copy.deepcopy(config)
    c.unlock()
    c.train.epochs = min(_QUICK_EPOCHS, c.train.epochs)
    c.train.batch_size = min(_QUICK_BATCH, c.train.batch_size)
    c.data.num_examples = min(_QUICK_EXAMPLES, c.data.num_examples or _QUICK_EXAMPLES)
    c.data.test_fraction = c.data.test_fraction or 0.2
    return c


def _set(block: Any, path: list[str], value: Any) -> None:
    head, *rest = path
    for name in list(block) if head == "*" else [head]:
        if rest:
            _set(block[name], rest, value)
        else:
            block[name] = value
