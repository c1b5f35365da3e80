"""A training state under other settings: what they set is set, and everything that was learned or measured stays.

  weight     that of a contract's row stays, within its new bounds; `initial`, changed, sets it
  target     of a row whose target, unit or rule is another: the new one; a warm-up's ratio, of the average it took
  rate       within its new bounds; `optim.learning_rate`, changed, sets it
  ε          of the window, where its target is another

A row that is new to a run, or moved by another mechanism than before, begins with its own state.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np

from topojax.atlas.controllers import make_control, start_rate
from topojax.atlas.system import Control, ControlState
from topojax.control.bank import Bank, BankState
from topojax.step.state import TrainState

_TARGETS = ("target", "unit", "target_rule")


def changed(state: TrainState, old: Any, new: Any, fields: Collection[str], *, num_classes: int) -> TrainState:
    """The state, for the program of another configuration.

    Args:
      state: of the old one, on the host or a device.
      old: configuration that it was made with.
      new: the one it goes on with.
      fields: names that differ (`config.changes`).
      num_classes: C.
    """
    before, _ = make_control(old, num_classes=num_classes)
    after, _ = make_control(new, num_classes=num_classes)
    control = state.control
    rate = control.governor.rate
    if "optim.learning_rate" in fields:
        rate = jnp.float32(start_rate(new))
    if new.optim.rate == "governor":
        rate = jnp.clip(rate, new.optim.learning_rate_min, new.optim.learning_rate_max).astype(jnp.float32)
    coupling = control.coupling
    if "window.ground" in fields or any(f"contracts.window.{f}" in fields for f in _TARGETS):
        coupling = coupling._replace(epsilon=after.init().coupling.epsilon)
    bank = _bank(before.bank, control.bank, after.bank, new, fields)
    bank = _with_epsilon(after, bank, coupling.epsilon)
    # What an epoch sums up is at 0 between epochs: it may be another selection of signals.
    sums = {name: jnp.zeros((), jnp.float32) for name in after.init().sums}
    control = ControlState(
        bank,
        control.governor._replace(rate=rate),
        coupling,
        control.window,
        control.hierarchy,
        control.ending,
        sums,
        control.steps,
    )
    return dataclasses.replace(state, control=control)


def _with_epsilon(system: Control, bank: BankState, epsilon: Any) -> BankState:
    return system.bank.retarget(bank, "window", epsilon) if "window" in system.bank.slices else bank


def _bank(old: Bank, state: BankState, new: Bank, config: Any, fields: Collection[str]) -> BankState:
    """The state of one bank in another's vectors, row by row."""
    begun = new.init()
    kept = {row.name for row in old.rows if row.name in new.slices and row.size == _row(new, row.name).size}
    vectors = {}
    for name in ("error", "signal", "seen", "frozen", "saturated", "baseline", "warmed", "target"):
        vector = np.array(getattr(begun, name))
        for row in kept:
            vector[new.slices[row]] = np.asarray(getattr(state, name))[old.slices[row]]
        vectors[name] = vector
    _retarget(vectors, begun, new, config, fields, kept, int(state.epoch))
    weight = _weights(old, state, new, fields, kept)
    groups = []
    for group, fresh in zip(new.groups, begun.groups, strict=True):
        parts = {name: np.array(leaf) for name, leaf in fresh._asdict().items()}
        places = list(group.where)
        for row in kept:
            its = [places.index(at) for at in range(*new.slices[row].indices(len(weight))) if at in places]
            before = _group_of(old, state, row)
            if its and before is not None and _same_mover(_row(old, row), _row(new, row)):
                for name, values in before.items():
                    parts[name][its] = values
        parts["weight"] = weight[group.where].astype(np.float32)
        groups.append(type(fresh)(**{name: jnp.asarray(value) for name, value in parts.items()}))
    arrays = {name: jnp.asarray(vector) for name, vector in vectors.items()}
    return BankState(groups=tuple(groups), epoch=state.epoch, **arrays)


def _row(bank: Bank, name: str) -> Any:
    return next(row for row in bank.rows if row.name == name)


def _same_mover(old: Any, new: Any) -> bool:
    return (old.mechanism, old.form) == (new.mechanism, new.form)


def _group_of(bank: Bank, state: BankState, row: str) -> dict[str, np.ndarray] | None:
    """What the controller of a row remembers of it: field → the row's entries."""
    place = bank.slices[row]
    for group, held in zip(bank.groups, state.groups, strict=True):
        places = list(group.where)
        if place.start in places:
            start = places.index(place.start)
            size = place.stop - place.start
            return {name: np.asarray(leaf)[start : start + size] for name, leaf in held._asdict().items()}
    return None


def _weights(old: Bank, state: BankState, new: Bank, fields: Collection[str], kept: Collection[str]) -> np.ndarray:
    weight = np.zeros(len(new.columns.target), np.float32)
    for row in new.rows:
        place = new.slices[row.name]
        before = _group_of(old, state, row.name) if row.name in kept else None
        weight[place] = row.initial
        if before is not None and f"contracts.{row.name}.initial" not in fields:
            weight[place] = before["weight"]
        if row.mechanism != "constant":
            weight[place] = np.clip(weight[place], row.minimum, row.maximum)
    return weight


def _retarget(
    vectors: dict[str, np.ndarray],
    begun: BankState,
    new: Bank,
    config: Any,
    fields: Collection[str],
    kept: Collection[str],
    epoch: int,
) -> None:
    over = epoch >= config.targets.warmup_epochs
    for row in new.rows:
        place, name = new.slices[row.name], f"contracts.{row.name}"
        warmed = row.target_rule == "warmup" and row.name in kept and over and (vectors["warmed"][place] > 0).all()
        asked = {f"{name}.ratio", f"{name}.target_rule", "targets.warmup_minimum"} & set(fields)
        if warmed and asked:
            target = np.maximum(row.ratio * vectors["baseline"][place], config.targets.warmup_minimum)
            vectors["target"][place] = target
        elif row.target_rule == "absolute" and any(f"{name}.{f}" in fields for f in _TARGETS):
            vectors["target"][place] = np.asarray(begun.target)[place]
