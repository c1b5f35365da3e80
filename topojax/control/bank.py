"""All contracts of a run as one controller: rows of one mechanism share vectors, so twenty weights cost a few ops."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.control.base import Controller, Info
from topojax.control.pid import pid
from topojax.control.primal_dual import dual_ascent
from topojax.control.rows import Contract
from topojax.control.tracking import tracking
from topojax.types import Array

NO_LIMIT = float(np.finfo(np.float32).max)
EQUAL_TOLERANCE = 0.05
"""Relative deviation up to which a signal counts as equal to its target."""


class BankState(NamedTuple):
    """State of a bank of n weights (a per-chart contract has one for each chart)."""

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


class Bank(NamedTuple):
    """Pure functions over the weights of all contracts.

    Attributes:
      rows: the contracts, in the order of the vectors.
      slices: name → slice of the vectors.
      equal: shape=(n,), bool: whether a deviation to either side is a violation.
      init: () → BankState.
      weights: (state, openings) → {name: weight}, scalar or (charts,), gradient stopped; `openings` maps a gate's name
        to the factor in [0, 1] on its rows' weights.
      update: (state, signals, *, dt, moving, counted) → (state, Info of shape (n,)); every step. `moving` maps a gate's
        name to whether its rows adapt; `counted` says whether the step enters the epoch's averages. A signal that is
        missing is not measured: its row stands still.
      errors: (state, signals) → dimensionless errors, shape=(n,).
      end_epoch: (state, *, moving) → (state, EpochInfo); once an epoch. A row that waits, behind its gate or for the
        target that its warm-up sets, is not stuck.
      retarget: (state, name, target) → state; the target in the signal's unit.
      targets: state → {name: target}, scalar.
    """

    rows: tuple[Contract, ...]
    slices: dict[str, slice]
    equal: np.ndarray
    init: Any
    weights: Any
    update: Any
    errors: Any
    end_epoch: Any
    retarget: Any
    targets: Any


def build(row_or_rows: Sequence[Contract], sizes: Sequence[int]) -> Controller:
    """One vector controller for rows of one mechanism and form; `sizes` repeats a row for its charts."""
    first = row_or_rows[0]

    def column(field: str) -> np.ndarray:
        return np.repeat([getattr(row, field) for row in row_or_rows], sizes)

    bounds: dict[str, Any] = {name: column(name) for name in ("minimum", "maximum", "initial")}
    if first.mechanism != "constant":
        bounds["max_step"] = np.where(column("max_step") == 0, NO_LIMIT, column("max_step"))
    if first.mechanism == "pid":
        gains = [column(name) for name in ("kp", "ki", "kd")]
        clip, lag = column("error_clip"), column("derivative_filter")
        return pid(*gains, form=first.form or "incremental", error_clip=clip, derivative_filter=lag, **bounds)
    if first.mechanism == "dual":
        clip, damping = column("error_clip"), column("damping")
        return dual_ascent(column("rate"), damping=damping, form=first.form or "additive", error_clip=clip, **bounds)
    if first.mechanism == "track":
        return tracking(column("factor"), lag=column("lag"), **bounds)
    return dual_ascent(np.zeros(sum(sizes)), **bounds)  # constant: a multiplier of rate 0


def bank(
    rows: Sequence[Contract],
    units: Mapping[str, float],
    *,
    charts: int,
    patience: int = 10,
    warmup_epochs: int = 10,
    warmup_decay: float = 0.9,
    warmup_minimum: float = 1e-3,
) -> Bank:
    """Build the controller of a whole table.

    Args:
      rows: contracts of this run (`contracts.select`).
      units: unit → value in nats or 1 (`contracts.unit_values`).
      charts: N, the size of per-chart rows.
      patience: epochs that a weight may sit on its upper bound with a violated contract before it is reported.
      warmup_epochs: over which rows of rule `warmup` measure, and do not move; ≥ 1.
      warmup_decay: per epoch, of the average that they take.
      warmup_minimum: least target that a warm-up may set, in the signal's unit.

    Raises:
      ValueError: from the mechanisms, for gains and bounds that make no sense; the message names the contract.
    """
    rows = tuple(rows)
    sizes = np.array([charts if row.per_chart else 1 for row in rows], int)
    starts = np.cumsum([0, *sizes])
    slices = {row.name: slice(int(a), int(a + size)) for row, a, size in zip(rows, starts, sizes, strict=False)}

    members: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault((row.mechanism, row.form), []).append(index)
    for row in rows:
        try:
            build([row], [1])
        except ValueError as error:
            raise ValueError(f"contracts.{row.name}: {error}") from error
    groups = [build([rows[i] for i in chosen], [sizes[i] for i in chosen]) for chosen in members.values()]
    where = [
        np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in chosen]) for chosen in members.values()
    ]
    order = np.argsort(np.concatenate(where)) if where else np.zeros(0, int)

    def column(value) -> np.ndarray:
        return np.repeat(np.asarray([value(row) for row in rows]), sizes)

    def join(parts: Sequence[Array], dtype: Any = jnp.float32) -> Array:
        return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)  # a run may have no contract at all

    target = column(lambda row: row.target * units[row.unit]).astype(np.float32)
    by_target = column(lambda row: row.mechanism != "pid" or row.unit in ("1", "nat")).astype(bool)
    unit = column(lambda row: units[row.unit]).astype(np.float32)
    sign = column(lambda row: row.sign).astype(np.float32)
    adaptive = column(lambda row: row.adaptive and row.mechanism != "constant").astype(bool)
    maximum = column(lambda row: row.maximum).astype(np.float32)
    warming = column(lambda row: row.target_rule == "warmup").astype(bool)
    equal = column(lambda row: row.relation == "=").astype(bool)
    ratio = column(lambda row: row.ratio).astype(np.float32)
    gate_names = [row.gate for row in rows]
    tracks = any(row.mechanism == "track" for row in rows)

    def gather(parts: Sequence[Array]) -> Array:
        return join(parts)[order]

    def by_gate(values: Mapping[str, Array], dtype: Any) -> Array:
        return join([jnp.full((size,), values[g]) for g, size in zip(gate_names, sizes, strict=True)], dtype)

    def adapts(state: BankState, moving: Mapping[str, Array]) -> Array:
        """Whether each weight may move now: its mechanism does, its gate lets it, and it has its target."""
        return jnp.asarray(adaptive) & by_gate(moving, bool) & ~(warming & (state.epoch < warmup_epochs))

    def init() -> BankState:
        n = int(starts[-1])
        zeros, counts = jnp.zeros(n, jnp.float32), jnp.zeros(n, jnp.int32)
        states = tuple(group.init() for group in groups)
        # Distinct buffers: the whole state is donated to the step.
        closed = jnp.zeros((), jnp.int32)
        return BankState(
            states, jnp.array(target), zeros, zeros + 0, counts, counts + 0, counts + 0, zeros + 0, counts + 0, closed
        )

    def weights(state: BankState, openings: Mapping[str, Array]) -> dict[str, Array]:
        flat = gather([group.effective(s) for group, s in zip(groups, state.groups, strict=True)])
        flat = flat * by_gate(openings, jnp.float32)
        flat = jax.lax.stop_gradient(flat)
        return {row.name: flat[slices[row.name]] if row.per_chart else flat[slices[row.name].start] for row in rows}

    def read(signals: Mapping[str, Array], field: str) -> Array:
        """The signals that rows name in `field`, one number a weight: NaN where there is none."""

        def of(row: Contract, size: int) -> Array:
            value = signals.get(getattr(row, field))
            if value is None:
                return jnp.full((size,), jnp.nan, jnp.float32)
            value = jnp.mean(value) if size == 1 else value.reshape(-1)  # an aggregate row over a per-chart signal
            return jnp.broadcast_to(value.astype(jnp.float32), (size,))

        return jax.lax.stop_gradient(join([of(row, size) for row, size in zip(rows, sizes, strict=True)]))

    def errors(state: BankState, signals: Mapping[str, Array]) -> Array:
        scale = jnp.where(by_target, jnp.abs(state.target), unit)
        return jnp.asarray(sign) * (read(signals, "signal") - state.target) / scale

    def update(
        state: BankState,
        signals: Mapping[str, Array],
        *,
        dt: float,
        moving: Mapping[str, Array],
        counted: ArrayLike = True,
    ) -> tuple[BankState, Info]:
        measured = read(signals, "signal")
        error = errors(state, signals)
        inputs = {"track": read(signals, "follows") if tracks else error}
        active = adapts(state, moving)
        updated = [
            group.update(s, inputs.get(mechanism, error)[i], dt=dt, active=active[i])
            for (mechanism, _), group, s, i in zip(members, groups, state.groups, where, strict=True)
        ]
        info = Info(*(gather([getattr(info, field) for _, info in updated]) for field in Info._fields))
        finite, counted = jnp.isfinite(error), jnp.asarray(counted, bool)
        return state._replace(
            groups=tuple(s for s, _ in updated),
            error=state.error + jnp.where(finite & counted, error, 0.0),
            signal=state.signal + jnp.where(finite & counted, measured, 0.0),
            seen=state.seen + (finite & counted),
            frozen=state.frozen + (info.frozen.astype(bool) & active & counted),
        ), info

    def end_epoch(state: BankState, *, moving: Mapping[str, Array]) -> tuple[BankState, EpochInfo]:
        count = jnp.where(state.seen > 0, state.seen, jnp.nan)
        error, signal = state.error / count, state.signal / count
        weight = gather([s.weight for s in state.groups])
        violated = jnp.where(equal, jnp.abs(error) > EQUAL_TOLERANCE, error > 0)
        stuck = adapts(state, moving) & (weight >= maximum * (1 - 1e-6)) & violated
        saturated = jnp.where(stuck, state.saturated + 1, 0)
        info = EpochInfo(error, signal, saturated >= patience)

        average = jnp.where(state.warmed == 0, signal, warmup_decay * state.baseline + (1 - warmup_decay) * signal)
        measured = jnp.isfinite(average) & (state.epoch < warmup_epochs)
        baseline = jnp.where(measured, average, state.baseline)
        warmed = state.warmed + measured
        # What was never measured keeps the target it had.
        warm = warming & (state.epoch + 1 == warmup_epochs) & (warmed > 0)
        zeros, counts = jnp.zeros_like(state.error), jnp.zeros_like(state.seen)
        return state._replace(
            error=zeros,
            signal=zeros,
            seen=counts,
            saturated=saturated,
            baseline=baseline,
            warmed=warmed,
            target=jnp.where(warm, jnp.maximum(ratio * baseline, warmup_minimum), state.target),
            epoch=state.epoch + 1,
        ), info

    def retarget(state: BankState, name: str, target: Array) -> BankState:
        return state._replace(target=state.target.at[slices[name]].set(target))

    def targets(state: BankState) -> dict[str, Array]:
        return {row.name: state.target[slices[row.name].start] for row in rows}

    return Bank(rows, slices, equal, init, weights, update, errors, end_epoch, retarget, targets)
