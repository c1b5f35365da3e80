"""From rows to controllers: rows of one mechanism and form are one controller with vector gains."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from topojax.control.base import Controller, Gain, require_choice
from topojax.control.columns import repeated
from topojax.control.pid import pid
from topojax.control.primal_dual import dual_ascent
from topojax.control.rows import Contract
from topojax.control.tracking import tracking


def column(rows: Sequence[Contract], field: str) -> Gain:
    """A field of every weight: that of its row, repeated over the row's weights."""
    return repeated([getattr(row, field) for row in rows], rows)


def controller(rows: Sequence[Contract]) -> Controller:
    """One controller for rows of one mechanism and form, with a weight for each of theirs.

    Raises:
      ValueError: an unknown mechanism or form, or gains and bounds that make no sense.
    """
    require_choice("mechanism", rows[0].mechanism, tuple(_MAKERS))
    return _MAKERS[rows[0].mechanism](rows)


def _bounds(rows: Sequence[Contract]) -> dict[str, Any]:
    return {name: column(rows, name) for name in ("minimum", "maximum", "initial")}


def _pid(rows: Sequence[Contract]) -> Controller:
    gains = {name: column(rows, name) for name in ("kp", "ki", "kd", "error_clip", "derivative_filter")}
    return pid(form=rows[0].form or "incremental", **gains, **_bounds(rows))


def _dual(rows: Sequence[Contract]) -> Controller:
    gains = {name: column(rows, name) for name in ("rate", "damping", "error_clip")}
    return dual_ascent(form=rows[0].form or "additive", **gains, **_bounds(rows))


def _track(rows: Sequence[Contract]) -> Controller:
    return tracking(column(rows, "factor"), lag=column(rows, "lag"), **_bounds(rows))


def _constant(rows: Sequence[Contract]) -> Controller:
    """A multiplier of rate 0."""
    return dual_ascent(np.zeros(sum(row.size for row in rows)), **_bounds(rows))


_MAKERS: dict[str, Callable[[Sequence[Contract]], Controller]] = {
    "pid": _pid,
    "dual": _dual,
    "track": _track,
    "constant": _constant,
}
