"""The gate: when it opens, how it ramps, and what does not close it again."""

import pytest

from topojax.control.gate import gate


def run_gate(hold, ramp, conditions):
    g = gate(hold, ramp)
    state, out = g.init(), []
    for condition in conditions:
        state = g.update(state, *condition) if isinstance(condition, tuple) else g.update(state, condition)
        out.append((int(state.held), bool(state.opened), float(state.ramp)))
    return out


def test_gate_by_hand():
    # Broken off once, opens at the second epoch in a row, loses its condition halfway, and ends at 1.
    assert run_gate(2, 4, [True, False, True, True, True, False, False, True, True, True]) == [
        (1, False, 0.0),
        (0, False, 0.0),
        (1, False, 0.0),
        (2, True, 0.25),
        (3, True, 0.5),
        (0, True, 0.5),
        (0, True, 0.5),
        (1, True, 0.75),
        (2, True, 1.0),
        (3, True, 1.0),
    ]


def test_gate_that_is_not_stable_counts_anew_but_ramps_on_once_open():
    steps = [(True, True), (True, False), (True, True), (True, True), (True, False), (False, True)]
    assert run_gate(2, 4, steps) == [
        (1, False, 0.0),
        (0, False, 0.0),
        (1, False, 0.0),
        (2, True, 0.25),
        (0, True, 0.5),
        (0, True, 0.5),
    ]


def test_gate_without_hold_opens_at_once_and_ramps_only_while_the_condition_holds():
    assert run_gate(0, 1, [False, True, False]) == [(0, True, 0.0), (1, True, 1.0), (0, True, 1.0)]


def test_gate_refuses():
    with pytest.raises(ValueError, match="hold_epochs must be >= 0, got -1"):
        gate(-1, 5)
    with pytest.raises(ValueError, match="ramp_epochs must be >= 1, got 0"):
        gate(5, 0)
