"""Which fields of a configuration are numbers of a run's program, its arguments, and which select its code.

A program is traced with the numbers in the place of their fields, so that runs which differ in numbers alone share it:
a second run starts warm, and a population is one `vmap`. The rest (sizes, words, switches, what is off at 0, intervals
of what a `cond` takes) shapes the program, and is in its key.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from topojax.atlas.controllers import select_rows
from topojax.atlas.table import Contract
from topojax.config.io import flat
from topojax.types import Array

PLAIN = (
    "seed",
    "model.ball_scale",
    "optim.group_rates.*",
    "ending.*",
    "governor.*",
    "supervised.temperature",
    "losses.recon_weight",
    "losses.hinge_margin",
    "losses.*_margin",
    "losses.prior_std_*",
    "losses.code_temperature",
    "window.capacity_fraction",
    "window.capacity_floor",
    "targets.*",
    "geometry.initial_length",
    "geometry.calibrations",
    "geometry.decay",
    "hierarchy.*",
    "gates.*",
    "monitor.usage_decay",
    "monitor.over_mixing_*",
    "monitor.saturation_patience",
    "baselines.commitment",
    "baselines.learning_rate",
)
"""Numbers always."""
ADAM = ("optim.learning_rate", "optim.learning_rate_*", "optim.b1", "optim.b2", "optim.eps")
"""Numbers where the rate is the governor's or constant: rules of optax compare theirs in Python."""
UNLESS_ZERO = (
    "optim.update_ratio",
    "optim.latent_speed",
    "optim.average",
    "optim.grad_clip",
    "augment.*",
    "view.*",
    "revival.dead_*",
)
"""Numbers unless they are 0, which takes their code out of the program."""
WORDS = ("governor.signal", "hierarchy.action")
"""Of blocks of numbers, what is none."""
LENGTHS = ("train.epochs", "optim.warmup_epochs")
"""Numbers of the schedule; a population trains all its members as long."""
OF_EVERY_ROW = ("target", "initial", "minimum", "maximum")
BY_MECHANISM = {
    "pid": ("kp", "ki", "kd", "derivative_filter", "error_clip", "release"),
    "dual": ("rate", "damping", "error_clip", "release"),
    "track": ("factor", "lag"),
    "constant": (),
}
"""Fields of a contract that are numbers: of each, and of those that a mechanism moves."""
READ_BY_EVALUATION = (
    *("model.ball_scale", "supervised.temperature", "optim.b1", "gates.warmup_epochs"),
    "contracts.sup_temperature.*",
)
"""Numbers that evaluating a trained state may read; it does not read the others."""
HOST = (
    "name",
    "init_from",
    "init_control",
    "debug",
    *(f"data.{field}" for field in ("name", "num_examples", "data_dir", "test_fraction", "noise", "cache", "label")),
    "data.neighbours",
    *(f"data.{field}" for field in ("columns", "missing", "resize", "shape", "scale", "auto", "mode")),
    "train.compilation_cache",
    "monitor.max_failures",
    "monitor.max_rollbacks",
    "checkpoint.*",
    "profile",
    "log.*",
    "mlflow.*",
    "population.*",
)
"""Fields that no program reads: what they make of the data is in the data's shapes."""


class Numbers(NamedTuple):
    """The numbers of a run, in the order of `names_of`; of a population, with the members in front."""

    floats: Array  # shape=(number of floats,), float32
    ints: Array  # shape=(number of integers,), int32


def names_of(config: Any) -> tuple[str, ...]:
    """The fields of a configuration that are arguments of its program, by dotted name, in the order of declaration."""
    active = _active(config)
    return tuple(name for name, value in flat(config) if _is_argument(config, active, name, value))


def why_not(config: Any, name: str) -> str | None:
    """What to tell somebody who wants to vary a field within one program; None where it can be varied.

    Args:
      config: a whole configuration.
      name: dotted, of a field that exists.
    """
    value = dict(flat(config))[name]
    if name in LENGTHS:
        return f"config.{name} is the same for all members: they train in step"
    if _is_argument(config, _active(config), name, value):
        return None
    if _named(name, HOST):
        return f"config.{name} is no number of the program and cannot be swept"
    if isinstance(value, bool | str) or value is None:
        return f"config.{name} = {value!r} is not a number and cannot be swept"
    if _named(name, UNLESS_ZERO) and not value:
        return f"config.{name} = 0 takes its code out of the program: set it to a positive number to sweep it"
    if name.startswith("contracts."):
        row = _active(config).get(name.split(".")[1])
        state = (
            "takes no part in the run"
            if row is None
            else f"has the mechanism {row.mechanism!r}, which does not read it"
        )
        return f"config.{name}: the contract {state}; it cannot be swept"
    return f"config.{name} selects code and cannot be swept"


def when_swept(name: str) -> str:
    """When a field can be swept, in a word or two; empty where it never can.

    Args:
      name: dotted; of a contract, `contracts.*.FIELD`.
    """
    if name.startswith("contracts."):
        field = name.rpartition(".")[2]
        by = [mechanism for mechanism, fields in BY_MECHANISM.items() if field in fields]
        return "yes" if field in OF_EVERY_ROW else "rule warmup" if field == "ratio" else ", ".join(by)
    if _named(name, ADAM):
        return "rate governor or constant"
    if _named(name, UNLESS_ZERO):
        return "if > 0"
    return "yes" if _named(name, PLAIN) and name not in WORDS else ""


def pack(config: Any) -> Numbers:
    """The numbers of a configuration, on the host."""
    values = dict(flat(config))
    kinds: dict[bool, list[Any]] = {True: [], False: []}
    for name in names_of(config):
        kinds[isinstance(values[name], int)].append(values[name])
    return Numbers(np.array(kinds[False], np.float32), np.array(kinds[True], np.int32))  # type: ignore[arg-type]


def stack(configs: Any) -> Numbers:
    """The numbers of several configurations with the same arguments: a row a member."""
    floats, ints = zip(*(pack(config) for config in configs), strict=True)
    return Numbers(np.stack(floats), np.stack(ints))  # type: ignore[arg-type]


def placed(config: Any, numbers: Numbers) -> ml_collections.ConfigDict:
    """A configuration with other numbers in the place of its own, traced ones too; words and sizes stay.

    Args:
      config: a whole configuration.
      numbers: in the order of its own (`pack`).
    """
    return given(config, jnp.asarray(numbers.floats), jnp.asarray(numbers.ints))


def given(config: Any, floats: Iterable[Any], ints: Iterable[Any]) -> ml_collections.ConfigDict:
    """`placed`, of the numbers one by one."""
    values, own = config.to_dict(), dict(flat(config))
    left = [iter(floats), iter(ints)]
    for name in names_of(config):
        *blocks, field = name.split(".")
        place = values
        for block in blocks:
            place = place[block]
        place[field] = next(left[isinstance(own[name], int)])
    return ml_collections.ConfigDict(values, type_safe=False)


def described(config: Any) -> dict[str, Any]:
    """What of a configuration shapes its program: the key under which the program is kept."""
    arguments = set(names_of(config))
    fields = {name: value for name, value in flat(config) if not _named(name, HOST)}
    return {name: "an argument" if name in arguments else value for name, value in fields.items()}


def named(config: Any, patterns: tuple[str, ...]) -> dict[str, Any]:
    """The fields whose dotted name matches a pattern, with their values."""
    return {name: value for name, value in flat(config) if _named(name, patterns)}


def _active(config: Any) -> dict[str, Contract]:
    return {row.name: row for row in select_rows(config)}


def _is_argument(config: Any, active: Mapping[str, Contract], name: str, value: Any) -> bool:
    if isinstance(value, bool | str) or value is None:
        return False
    if name.startswith("contracts."):
        _, row, field = name.split(".")
        return row in active and _moves(active[row], field)
    if _named(name, ADAM):
        return config.optim.rate in ("governor", "constant")
    if _named(name, UNLESS_ZERO):
        return bool(value)
    if name == "optim.warmup_epochs" and config.optim.rate == "schedule_free":
        return False
    return _named(name, PLAIN) or name in LENGTHS


def _moves(row: Contract, field: str) -> bool:
    own = (*OF_EVERY_ROW, *BY_MECHANISM.get(row.mechanism, ()))
    return field in own or (field == "ratio" and row.target_rule == "warmup")


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
