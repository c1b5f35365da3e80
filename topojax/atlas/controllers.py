"""From a configuration to the controllers of a run."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from topojax.atlas.coupling import Coupling
from topojax.atlas.hierarchy import Hierarchy
from topojax.atlas.system import Control
from topojax.atlas.table import Contract, by_name, select, unit_values
from topojax.control.bank import bank
from topojax.control.base import is_known
from topojax.control.ending import NEVER, Ending
from topojax.control.gate import gate
from topojax.control.governor import governor

Rows = tuple[Contract, ...]


def select_rows(config: Any) -> Rows:
    """The contracts of a run: enabled, labels there where wanted, no weight on what a precision weighs or on a texture
    where there is none.

    Each has the shape of its weight, and starts within its bounds.

    Raises:
      ValueError: from the table (`select`).
    """
    rows = select(config.contracts.to_dict(), labels=config.supervised.enabled)
    rows = tuple(row for row in rows if not (config.precision.enabled and row.name == "route"))
    rows = tuple(row for row in rows if not (config.model.discs and row.name == "prior_tex"))
    each = (config.model.num_charts,)
    return tuple(dataclasses.replace(row, initial=_start(row), shape=each if row.per_chart else ()) for row in rows)


def clipped(config: Any) -> list[dict[str, Any]]:
    """Guesses beyond the bounds of what controls them: these start at the bound instead.

    Returns:
      For each the field, its value, and the start in its place. Of the rate, only where the governor sets it; of
      weights, only of those that a controller moves.
    """
    moved = []
    if start_rate(config) != config.optim.learning_rate:
        moved.append({"field": "optim.learning_rate", "value": config.optim.learning_rate, "start": start_rate(config)})
    configured = by_name(config.contracts.to_dict())
    for row in select_rows(config):
        if row.initial != configured[row.name].initial:
            field = {"field": f"contracts.{row.name}.initial", "value": configured[row.name].initial}
            moved.append({**field, "start": row.initial})
    return moved


def _start(row: Contract) -> float:
    if row.mechanism == "constant":
        return row.initial
    return _within(row.initial, row.minimum, row.maximum)


def _within(value: Any, low: Any, high: Any) -> Any:
    """A value clipped, traced or not; bounds the wrong way round are left for the controller to refuse."""
    if not all(map(is_known, (value, low, high))):
        return jnp.clip(value, low, high)
    return min(max(value, low), high) if low <= high else value


def start_rate(config: Any) -> float:
    """The governor's first rate: `optim.learning_rate` within its bounds; a rule's rate as it is."""
    optim = config.optim
    if optim.rate != "governor":
        return optim.learning_rate
    return _within(optim.learning_rate, optim.learning_rate_min, optim.learning_rate_max)


def make_control(config: Any, *, num_classes: int) -> tuple[Control, Rows]:
    """The controllers of a run and its contracts.

    Raises:
      ValueError: gains, bounds or targets that make no sense; the message names them.
    """
    rows = select_rows(config)
    model, monitor, gates = config.model, config.monitor, config.gates
    units = unit_values(charts=model.num_charts, codes=model.codes_per_chart, classes=num_classes)
    rules = config.governor.to_dict()
    rate_signal = rules.pop("signal")
    if config.optim.rate != "governor":
        rules |= {"grow": 1.0, "shrink": 1.0, "recover": 1.0}
    system = Control(
        bank(
            rows,
            units,
            patience=monitor.saturation_patience,
            warmup_epochs=config.targets.warmup_epochs,
            warmup_decay=config.targets.warmup_decay,
            warmup_minimum=config.targets.warmup_minimum,
        ),
        governor(
            initial=start_rate(config),
            minimum=config.optim.learning_rate_min,
            maximum=config.optim.learning_rate_max,
            **rules,
        ),
        _window(config, units),
        gate(gates.hold_epochs, gates.ramp_epochs),
        Hierarchy(**config.hierarchy.to_dict()),
        _ending(config),
        estimate=config.window.estimate,
        rate_signal=rate_signal,
        stability=gates.stability,
        warmup_epochs=gates.warmup_epochs,
        hold_rate_on_saturation=monitor.on_saturation == "freeze",
    )
    return system, rows


def _ending(config: Any) -> Ending:
    """When the run is over: `train.epochs` is a limit, or the length, of which the rate's fall is the last part.

    Where the rate does not fall by it nothing depends on the length: a longer run is then the same run.
    """
    falls = config.optim.schedule == "ending"
    made = Ending(
        limit=config.train.epochs if falls else NEVER,
        least_gain=config.ending.least_gain,
        share=config.ending.share,
        floor=config.ending.floor,
        settles=config.train.until == "settled" and falls,
    )
    try:
        made.check()
    except ValueError as error:
        raise ValueError(f"ending.{error}") from error
    return made


def _window(config: Any, units: dict[str, float]) -> Coupling:
    """The coupling window: ε is its contract's target even where the contract takes no part."""
    row, monitor = by_name(config.contracts.to_dict())["window"], config.monitor
    if row.unit not in units:
        raise ValueError(f"contracts.window.unit must be one of {', '.join(units)}, got {row.unit!r}")
    if row.enabled and row.target_rule != "absolute":
        raise ValueError("contracts.window.target_rule must be 'absolute': config.window.ground='capacity' measures it")
    try:
        return Coupling(
            mode=config.window.ground,
            target=row.target * units[row.unit],
            log_charts=units["log_charts"],
            over_mixing=(monitor.over_mixing_high, monitor.over_mixing_low),
            capacity_fraction=config.window.capacity_fraction,
            floor_fraction=config.window.capacity_floor,
            horizon=config.window.capacity_horizon,
        )
    except ValueError as error:
        raise ValueError(f"contracts.window.{error}") from error
