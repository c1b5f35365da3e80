"""All contracts of a run as one controller: rows of one mechanism share vectors, so twenty weights cost a few ops."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import Controller, Info, require_choice
from topojax.control.columns import Columns, columns, join
from topojax.control.mechanisms import controller
from topojax.control.rows import Contract
from topojax.types import Array

EQUAL_TOLERANCE = 0.05
"""Relative deviation up to which a signal counts as equal to its target."""
SPARE = 0.5
"""Slack, as a share of the bound, that a weight which regulates may have without being released."""


class BankState(NamedTuple):
    """State of a bank of n weights (a contract of shape (k,) has k of them)."""

    groups: tuple[Any, ...]  # one controller state per (mechanism, form), leaves of shape (n_group,)
    target: Array  # shape=(n,), float32: targets in the signals' units
    error: Array  # shape=(n,), float32: sum of this epoch's dimensionless errors
    signal: Array  # shape=(n,), float32: sum of this epoch's signals
    seen: Array  # shape=(n,), int32: finite signals of this epoch
    frozen: Array  # shape=(n,), int32: updates skipped because the signal was not finite
    saturated: Array  # shape=(n,), int32: epochs in a row at the maximum and violated
    baseline: Array  # shape=(n,), float32: average of the signals over the warm-up
    warmed: Array  # shape=(n,), int32: epochs of the warm-up that measured it
    epoch: Array  # shape=(), int32: epochs closed


class EpochInfo(NamedTuple):
    """What an epoch says of each weight; shape=(n,)."""

    error: Array  # float32: mean error, positive = violated (or off target); NaN if nothing finite was measured
    signal: Array  # float32: mean signal, likewise
    unsatisfiable: Array  # bool: at the maximum and violated for `patience` epochs
    working: Array  # bool: violated, and its weight may still move and rise


class Group(NamedTuple):
    """Weights that one controller moves."""

    mechanism: str
    controller: Controller
    where: np.ndarray  # shape=(n_group,), int: their places in the bank's vectors


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
    """Pure functions over the weights of all contracts; made by `bank`.

    Attributes:
      columns: the rows as vectors.
      groups: who moves what, as `BankState.groups`.
      order: shape=(n,), int: of the groups' weights, end to end, that of the vectors.
      patience, warmup_epochs, warmup_decay, warmup_minimum: as in `bank`.
    """

    columns: Columns
    groups: tuple[Group, ...]
    order: np.ndarray
    patience: int
    warmup_epochs: int
    warmup_decay: float
    warmup_minimum: float

    @property
    def rows(self) -> tuple[Contract, ...]:
        """The contracts, in the order of the vectors."""
        return self.columns.rows

    @property
    def slices(self) -> dict[str, slice]:
        """Name → slice of the vectors."""
        return self.columns.slices

    def init(self) -> BankState:
        """Initial weights and targets, nothing measured."""
        size = len(self.columns.target)
        zeros, counts = jnp.zeros(size, jnp.float32), jnp.zeros(size, jnp.int32)
        states = tuple(group.controller.init() for group in self.groups)
        # Distinct buffers: the whole state is donated to the step.
        return BankState(
            groups=states,
            target=jnp.array(self.columns.target),
            error=zeros,
            signal=zeros + 0,
            seen=counts,
            frozen=counts + 0,
            saturated=counts + 0,
            baseline=zeros + 0,
            warmed=counts + 0,
            epoch=jnp.zeros((), jnp.int32),
        )

    def weights(self, state: BankState, openings: Mapping[str, Array]) -> dict[str, Array]:
        """What multiplies each loss, gradient stopped.

        Args:
          state: of the bank.
          openings: gate → factor in [0, 1] on the weights of the rows behind it.

        Returns:
          name → weight, in its row's shape.
        """
        effective = [group.controller.effective(moved) for group, moved in zip(self.groups, state.groups, strict=True)]
        flat = self._gather(effective)
        flat = flat * self.columns.by_gate(openings, jnp.float32)
        flat = jax.lax.stop_gradient(flat)
        places = self.slices
        return {
            row.name: flat[places[row.name]].reshape(row.shape) if row.shape else flat[places[row.name].start]
            for row in self.rows
        }

    def errors(self, state: BankState, signals: Mapping[str, Array]) -> Array:
        """shape=(n,): dimensionless errors, positive = violated; NaN where a signal is missing."""
        scale = jnp.where(self.columns.by_target, jnp.abs(state.target), self.columns.unit)
        return jnp.asarray(self.columns.sign) * (self.columns.read(signals, "signal") - state.target) / scale

    def violation(self, state: BankState, signals: Mapping[str, Array]) -> Array:
        """shape=(): Σ ½ max(0, C_k)² over what was measured, C_k the errors; |C_k| where the relation is equality."""
        error = self.errors(state, signals)
        violated = jnp.where(self.columns.equal, jnp.abs(error), jnp.maximum(error, 0.0))
        return 0.5 * jnp.sum(jnp.where(jnp.isfinite(violated), violated**2, 0.0))

    def update(
        self,
        state: BankState,
        signals: Mapping[str, Array],
        *,
        dt: float,
        moving: Mapping[str, Array],
        counted: ArrayLike = True,
    ) -> tuple[BankState, Info]:
        """The weights a step later; what is said of it has shape=(n,).

        Args:
          state: of the bank.
          signals: name → array; one that is missing is not measured: its row stands still.
          dt: time since the last update, epochs.
          moving: gate → bool: the rows behind it adapt.
          counted: bool: the step enters the epoch's averages.
        """
        measured = self.columns.read(signals, "signal")
        error = self.errors(state, signals)
        tracks = any(group.mechanism == "track" for group in self.groups)
        inputs = {"track": self.columns.read(signals, "follows") if tracks else error}
        active = self._adapts(state, moving)
        updated = [
            group.controller.update(
                before, inputs.get(group.mechanism, error)[group.where], dt=dt, active=active[group.where]
            )
            for group, before in zip(self.groups, state.groups, strict=True)
        ]
        info = Info(*(self._gather([getattr(info, field) for _, info in updated]) for field in Info._fields))
        finite, counted = jnp.isfinite(error), jnp.asarray(counted, bool)
        return state._replace(
            groups=tuple(after for after, _ in updated),
            error=state.error + jnp.where(finite & counted, error, 0.0),
            signal=state.signal + jnp.where(finite & counted, measured, 0.0),
            seen=state.seen + (finite & counted),
            frozen=state.frozen + (info.frozen.astype(bool) & active & counted),
        ), info

    def end_epoch(self, state: BankState, *, moving: Mapping[str, Array]) -> tuple[BankState, EpochInfo]:
        """The epoch's averages, who is stuck, and the targets that a warm-up sets; once an epoch.

        A row that waits, behind its gate or for the target that its warm-up sets, is not stuck.

        Args:
          state: after the epoch's last step.
          moving: as in `update`.
        """
        count = jnp.where(state.seen > 0, state.seen, jnp.nan)
        error, signal = state.error / count, state.signal / count
        weight = self._gather([controlled.weight for controlled in state.groups])
        released = self._released(state, weight, signal, self._adapts(state, moving))
        violated = jnp.where(self.columns.equal, jnp.abs(error) > EQUAL_TOLERANCE, error > 0)
        stuck = self._adapts(state, moving) & (weight >= self.columns.maximum * (1 - 1e-6)) & violated
        working = self._adapts(state, moving) & (weight < self.columns.maximum * (1 - 1e-6)) & violated
        saturated = jnp.where(stuck, state.saturated + 1, 0)
        baseline, warmed, target = self._warmed_up(state, signal)
        return state._replace(
            groups=tuple(
                moved._replace(weight=released[group.where])
                for group, moved in zip(self.groups, state.groups, strict=True)
            ),
            error=jnp.zeros_like(state.error),
            signal=jnp.zeros_like(state.error),
            seen=jnp.zeros_like(state.seen),
            saturated=saturated,
            baseline=baseline,
            warmed=warmed,
            target=target,
            epoch=state.epoch + 1,
        ), EpochInfo(error, signal, saturated >= self.patience, working)

    def retarget(self, state: BankState, name: str, target: Array) -> BankState:
        """Another target for a row, in its signal's unit."""
        return state._replace(target=state.target.at[self.slices[name]].set(target))

    def targets(self, state: BankState) -> dict[str, Array]:
        """Name → target, shape=(), in the signal's unit; of a row with many weights the first one's."""
        return {row.name: state.target[self.slices[row.name].start] for row in self.rows}

    def _released(self, state: BankState, weight: Array, signal: Array, moves: Array) -> Array:
        """λ exp(−ρ max(0, s − ½)), s = ±(target − m) / |target| the epoch's slack as a share of the bound.

        Steps of K_i Δt e suit a weight of 1; from 100 they would take thousands of epochs. The half is what a weight
        that regulates may have, so that noise about the bound releases nothing. A PID in `position` form computes its
        weight anew from its integral, and is not released. Our addition: the report has no rule for starts far off.
        """
        share = self.columns.sign * (state.target - signal) / jnp.maximum(jnp.abs(state.target), 1e-12)
        slack = jnp.where(jnp.isfinite(share), jnp.maximum(0.0, share - SPARE), 0.0)
        less = jnp.maximum(weight * jnp.exp(-self.columns.release * slack), self.columns.minimum)
        return jnp.where(moves, less, weight)

    def _warmed_up(self, state: BankState, signal: Array) -> tuple[Array, Array, Array]:
        """Averages of the warm-up with this epoch's signals, epochs that measured them, and the targets from now on."""
        decay, warming = self.warmup_decay, self.columns.warming
        average = jnp.where(state.warmed == 0, signal, decay * state.baseline + (1 - decay) * signal)
        measured = jnp.isfinite(average) & (state.epoch < self.warmup_epochs)
        baseline = jnp.where(measured, average, state.baseline)
        warmed = state.warmed + measured
        # What was never measured keeps the target it had.
        warm = warming & (state.epoch + 1 == self.warmup_epochs) & (warmed > 0)
        target = jnp.where(warm, jnp.maximum(self.columns.ratio * baseline, self.warmup_minimum), state.target)
        return baseline, warmed, target

    def _adapts(self, state: BankState, moving: Mapping[str, Array]) -> Array:
        """Whether each weight may move now: its mechanism does, its gate lets it, and it has its target."""
        waits = self.columns.warming & (state.epoch < self.warmup_epochs)
        return jnp.asarray(self.columns.adaptive) & self.columns.by_gate(moving, bool) & ~waits

    def _gather(self, parts: Sequence[Array]) -> Array:
        """From the groups' order to that of the vectors."""
        return join(parts)[self.order]


def bank(
    rows: Sequence[Contract],
    units: Mapping[str, float],
    *,
    patience: int = 10,
    warmup_epochs: int = 10,
    warmup_decay: float = 0.9,
    warmup_minimum: float = 1e-3,
) -> Bank:
    """Build the controller of a whole table.

    Args:
      rows: contracts, of different names.
      units: unit → its size in what the signals are measured in: {"1": 1.0} where nothing has another.
      patience: epochs that a weight may sit on its upper bound with a violated contract before it is reported.
      warmup_epochs: over which rows of rule `warmup` measure, and do not move; ≥ 1.
      warmup_decay: per epoch, of the average that they take.
      warmup_minimum: least target that a warm-up may set, in the signal's unit.

    Raises:
      ValueError: an unknown unit or mechanism, gains and bounds that make no sense, or a name twice; the message names
        the contract.
    """
    members: dict[tuple[str, str], list[Contract]] = {}
    names = [row.name for row in rows]
    for row in rows:
        try:
            require_choice("unit", row.unit, tuple(units))
            controller([row])
            if names.count(row.name) > 1:
                raise ValueError("there is another of that name")
        except ValueError as error:
            raise ValueError(f"contracts.{row.name}: {error}") from error
        members.setdefault((row.mechanism, row.form), []).append(row)
    vectors = columns(rows, units)
    places = np.arange(len(vectors.target))
    groups = tuple(
        Group(mechanism, controller(chosen), np.concatenate([places[vectors.slices[row.name]] for row in chosen]))
        for (mechanism, _), chosen in members.items()
    )
    order = np.argsort(np.concatenate([group.where for group in groups])) if groups else np.zeros(0, int)
    return Bank(vectors, groups, order, patience, warmup_epochs, warmup_decay, warmup_minimum)
