"""The bank of contracts against numbers worked out by hand: every mechanism, every rule of a row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.control.bank import bank
from topojax.control.rows import Contract

UNITS = {"1": 1.0, "nat": 1.0, "log_n": 2.0, "log_k": 4.0}  # round numbers, not logs
GATES = ("none", "warmup", "hold", "window")
OPEN = {name: jnp.float32(1.0) for name in GATES}
ALL_MOVE = {name: jnp.bool_(True) for name in GATES}
EACH = (3,)

# Mechanisms and sizes interleaved, so that gathering by group has something to undo.
SHARP = Contract("sharp", "pid", "h", "<=", 0.2, "log_n", initial=0.3, kp=0.1, ki=0.2)
GROUND = Contract("ground", "dual", "info", ">=", 0.4, "log_n", initial=0.5, rate=0.4, damping=0.2)
PARTS = Contract("parts", "pid", "h_part", ">=", 0.5, "log_k", initial=0.1, kp=0.1, ki=0.2, shape=EACH)
FIXED = Contract("fixed", "constant", "h", "<=", 0.2, initial=0.7)
ROWS = (SHARP, GROUND, PARTS, FIXED)


def measured(h, info, h_part):
    return {"h": jnp.float32(h), "info": jnp.float32(info), "h_part": jnp.array(h_part, jnp.float32)}


FIRST, SECOND = measured(1.4, 0.4, [1.0, 2.0, 4.0]), measured(0.8, 1.2, [2.0, 2.0, 2.0])


def assert_weights(controller, state, expected, openings=OPEN):
    weights = controller.weights(state, openings)
    assert list(weights) == [row.name for row in controller.rows]
    for name, value in expected.items():
        assert weights[name].shape == np.shape(value), name
        np.testing.assert_allclose(weights[name], value, rtol=1e-6, err_msg=name)


def run(rows, epochs, *, moving=ALL_MOVE, **rules):
    """One step of one epoch at each dict of signals: the last state, weights and reports after each epoch."""
    rows = [rows] if isinstance(rows, Contract) else rows
    controller = bank(rows, UNITS, **rules)
    state, weights, reports = controller.init(), [], []
    for signals in epochs:
        signals = {name: jnp.asarray(value, jnp.float32) for name, value in signals.items()}
        state, _ = controller.update(state, signals, dt=1.0, moving=moving)
        state, report = controller.end_epoch(state, moving=moving)
        weights.append(controller.weights(state, OPEN))
        reports.append(report)
    return state, weights, reports


def path(row, epochs, **rules):
    """Weights of a bank of one scalar row after each epoch."""
    return [float(weights[row.name]) for weights in run(row, epochs, **rules)[1]]


def test_two_updates_by_hand():
    controller = bank(ROWS, UNITS)
    assert controller.slices == {
        "sharp": slice(0, 1),
        "ground": slice(1, 2),
        "parts": slice(2, 5),
        "fixed": slice(5, 6),
    }
    state = controller.init()
    np.testing.assert_allclose(state.target, [0.4, 0.8, 2.0, 2.0, 2.0, 0.2])
    assert_weights(controller, state, {"sharp": 0.3, "ground": 0.5, "parts": [0.1] * 3, "fixed": 0.7})

    # sharp   e = (1.4 − 0.4)/2 = 0.5, no Δe yet            0.3 + 0.2·½·0.5                 = 0.35
    # ground  e = −(0.4 − 0.8)/0.8 = 0.5                    0.5 + 0.4·½·0.5 + 0.2·0.5       = 0.6 + 0.1
    # parts   e = −([1, 2, 4] − 2)/4 = [0.25, 0, −0.5]      0.1 + 0.2·½·e                   = [0.125, 0.1, 0.05]
    state, info = controller.update(state, FIRST, dt=0.5, moving=ALL_MOVE)
    assert_weights(controller, state, {"sharp": 0.35, "ground": 0.7, "parts": [0.125, 0.1, 0.05], "fixed": 0.7})
    np.testing.assert_allclose(info.p, np.zeros(6))
    np.testing.assert_allclose(info.i, [0.05, 0.1, 0.025, 0.0, -0.05, 0.0], atol=1e-8)

    # sharp   e = (0.8 − 0.4)/2 = 0.2      0.35 + 0.1·(0.2 − 0.5) + 0.2·½·0.2               = 0.34
    # ground  e = −(1.2 − 0.8)/0.8 = −0.5  0.6 − 0.4·½·0.5 − 0.2·0.5                        = 0.5 − 0.1
    # parts   e = 0                        [0.125, 0.1, 0.05] − 0.1·[0.25, 0, −0.5]         = 0.1
    state, info = controller.update(state, SECOND, dt=0.5, moving=ALL_MOVE)
    assert_weights(controller, state, {"sharp": 0.34, "ground": 0.4, "parts": [0.1] * 3, "fixed": 0.7})
    np.testing.assert_allclose(info.p, [-0.03, 0.0, -0.025, 0.0, 0.05, 0.0], atol=1e-8)
    np.testing.assert_allclose(info.i, [0.02, -0.1, 0.0, 0.0, 0.0, 0.0], atol=1e-8)


def test_epoch_means_by_hand():
    controller = bank(ROWS, UNITS)
    state = controller.init()
    for values in (FIRST, SECOND):
        state, _ = controller.update(state, values, dt=0.5, moving=ALL_MOVE)
    state, epoch = controller.end_epoch(state, moving=ALL_MOVE)
    # fixed: mean of (1.4 − 0.2)/0.2 = 6 and (0.8 − 0.2)/0.2 = 3; errors are not clipped in reports
    np.testing.assert_allclose(epoch.error, [0.35, 0.0, 0.125, 0.0, -0.25, 4.5], atol=1e-6)
    np.testing.assert_allclose(epoch.signal, [1.1, 0.8, 1.5, 2.0, 3.0, 1.1], rtol=1e-6)
    for sums in (state.error, state.signal, state.seen):
        np.testing.assert_array_equal(sums, np.zeros(6))


def test_weights_are_per_row_whatever_the_order_of_the_table():
    forwards, backwards = (bank(rows, UNITS) for rows in (ROWS, ROWS[::-1]))
    weights = []
    for controller in (forwards, backwards):
        state, _ = controller.update(controller.init(), FIRST, dt=0.5, moving=ALL_MOVE)
        weights.append(controller.weights(state, OPEN))
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name], name)


def test_scale_is_the_unit_for_set_points_in_logs_and_the_target_otherwise():
    errors = {}
    for mechanism in ("pid", "dual"):
        for unit in ("log_n", "nat"):
            row = Contract("c", mechanism, "m", "<=", 0.25, unit)
            controller = bank([row], UNITS)
            state, _ = controller.update(controller.init(), {"m": jnp.float32(1.0)}, dt=1.0, moving=ALL_MOVE)
            errors[mechanism, unit] = float(controller.end_epoch(state, moving=ALL_MOVE)[1].error[0])
    assert errors["pid", "log_n"] == 0.25  # (1 − 0.5) / 2
    assert errors["dual", "log_n"] == 1.0  # (1 − 0.5) / 0.5
    assert errors["pid", "nat"] == errors["dual", "nat"] == 3.0  # (1 − 0.25) / 0.25


def test_gates_scale_weights_and_hold_them_still():
    rows = [Contract(name, "dual", "m", "<=", 0.5, initial=0.2, rate=0.1, gate=name) for name in OPEN]
    controller = bank(rows, UNITS)
    openings = {**OPEN, "warmup": jnp.float32(0.0), "window": jnp.float32(0.25)}
    moving = {name: jnp.bool_(name == "none") for name in GATES}
    state, info = controller.update(controller.init(), {"m": jnp.float32(1.0)}, dt=1.0, moving=moving)
    assert_weights(controller, state, {"none": 0.3, "warmup": 0.0, "hold": 0.2, "window": 0.05}, openings)
    assert not info.frozen.any()  # waiting is not failing
    moving["hold"] = jnp.bool_(True)
    state, _ = controller.update(state, {"m": jnp.float32(1.0)}, dt=1.0, moving=moving)
    assert_weights(controller, state, {"none": 0.4, "warmup": 0.0, "hold": 0.3, "window": 0.05}, openings)
    assert_weights(controller, state, {"none": 0.4, "warmup": 0.2, "hold": 0.3, "window": 0.2})


@pytest.mark.parametrize("mechanism", ["pid", "dual", "track", "constant"])
def test_a_row_that_does_not_adapt_never_moves(mechanism):
    fields = {"initial": 0.2, "minimum": 0.1, "follows": "ratio", "adaptive": mechanism == "constant"}
    row = Contract("c", mechanism, "m", "<=", 0.5, **fields)
    assert path(row, [{"m": 100.0, "ratio": 5.0}, {"m": 0.0, "ratio": 0.1}] * 3) == [np.float32(0.2)] * 6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_finite_freezes_its_row_alone(value):
    controller = bank(ROWS, UNITS)
    state, _ = controller.update(controller.init(), FIRST, dt=0.5, moving=ALL_MOVE)
    broken = measured(0.8, value, [2.0, value, 2.0])
    after, info = controller.update(state, broken, dt=0.5, moving=ALL_MOVE)
    np.testing.assert_array_equal(info.frozen, [False, True, False, True, False, False])
    np.testing.assert_array_equal(after.frozen, [0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(after.seen, [2, 1, 2, 1, 2, 2])
    assert_weights(controller, after, {"sharp": 0.34, "ground": 0.7, "parts": [0.1, 0.1, 0.1]})
    # The next finite signal picks up where the row stopped: no kick, the error before is that of the first update.
    again, _ = controller.update(after, SECOND, dt=0.5, moving=ALL_MOVE)
    whole, _ = controller.update(state, SECOND, dt=0.5, moving=ALL_MOVE)
    for name in ("ground", "parts"):
        a, b = (controller.weights(s, OPEN)[name].reshape(-1) for s in (again, whole))
        pick = 1 if name == "parts" else 0
        np.testing.assert_array_equal(a[pick], b[pick])
    epoch = controller.end_epoch(after, moving=ALL_MOVE)[1]
    np.testing.assert_allclose(epoch.signal, [1.1, 0.4, 1.5, 2.0, 3.0, 1.1], rtol=1e-6)


# Saturation.

FULL = Contract("c", "dual", "m", "<=", 0.5, initial=0.2, maximum=0.2, rate=0.1, gate="hold")


@pytest.mark.parametrize("patience", [1, 3])
def test_unsatisfiable_after_patience_and_reset(patience):
    violated, kept = {"m": 1.0}, {"m": 0.25}  # e = 1 and e = −0.5
    state, weights, reports = run(FULL, [violated] * (patience + 1) + [kept, violated], patience=patience)
    expected = [False] * (patience - 1) + [True] * 2 + [False, patience == 1]
    assert [bool(report.unsatisfiable[0]) for report in reports] == expected
    # at its bound, 0.2 − 0.1 · 0.5, and back; counting starts anew
    assert [float(w["c"]) for w in weights[-3:]] == pytest.approx([0.2, 0.15, 0.2])
    assert state.saturated[0] == 1


def test_patience_is_ten_epochs_unless_told():
    reports = run(FULL, [{"m": 1.0}] * 10)[2]
    assert [bool(report.unsatisfiable[0]) for report in reports] == [False] * 9 + [True]


def test_a_row_behind_a_closed_gate_is_never_stuck():
    closed = {**ALL_MOVE, "hold": jnp.bool_(False)}
    state, _, reports = run(FULL, [{"m": 1.0}] * 3, moving=closed, patience=1)
    assert not any(report.unsatisfiable[0] for report in reports)
    assert float(reports[-1].error[0]) == 1.0  # it is violated, and says so
    assert state.saturated[0] == 0


def test_a_row_that_waits_for_its_target_is_not_stuck():
    warming = dataclasses.replace(FULL, target_rule="warmup")
    # The warm-up sets the target to 2 · 0.9 + 2 · 0.1 = 2; from then on 3 is too much: e = 0.5.
    reports = run(warming, [{"m": 2.0}] * 2 + [{"m": 3.0}], patience=1, warmup_epochs=2)[2]
    assert [bool(report.unsatisfiable[0]) for report in reports] == [False, False, True]


def test_a_row_that_does_not_move_is_no_saturation():
    for change in ({"mechanism": "constant"}, {"adaptive": False}):
        reports = run(dataclasses.replace(FULL, **change), [{"m": 9.0}] * 2, patience=1)[2]
        assert not any(report.unsatisfiable[0] for report in reports)


@pytest.mark.parametrize("value, stuck", [(0.9, True), (0.96, False), (1.04, False), (1.1, True)])
def test_equality_is_missed_on_both_sides(value, stuck):
    # The ratio holds the weight at its maximum; errors of −10 %, −4 %, 4 % and 10 %: more than 5 % is a miss.
    row = Contract("c", "track", "m", "=", 1.0, initial=2.0, minimum=0.1, maximum=2.0, follows="ratio")
    report = run(row, [{"m": value, "ratio": 9.0}], patience=1)[2][0]
    assert float(report.error[0]) == pytest.approx(value - 1, abs=1e-6)
    assert bool(report.unsatisfiable[0]) is stuck
    report = run(dataclasses.replace(row, relation="<="), [{"m": value, "ratio": 9.0}], patience=1)[2][0]
    assert bool(report.unsatisfiable[0]) is (value > 1)


# Tracking, and what is not measured.

# A lag of 1/log 2 epochs: half of the way to the aim in an epoch, in logarithms.
LIMITS = {"initial": 0.25, "minimum": 0.05, "maximum": 2.0}
FOLLOW = Contract("f", "track", "balance", "=", 1.0, follows="ratio", factor=2.0, lag=1 / np.log(2), **LIMITS)


def test_a_tracking_weight_follows_factor_times_its_measurement():
    # aim 2 · 0.5 = 1: √(0.25 · 1) = 0.5, √(0.5 · 1) = 0.7071; aim 2 · 4 = 8, clipped to 2: √(0.7071 · 2) = 1.1892
    epochs = [{"ratio": ratio, "balance": 1.5} for ratio in (0.5, 0.5, 4.0)]
    assert path(FOLLOW, epochs) == pytest.approx([0.5, 0.70711, 1.18921], rel=1e-5)
    # What it holds has no say in it, but is reported: (1.5 − 1)/1, then (0.25 − 1)/1.
    epochs[1]["balance"] = 0.25
    _, weights, reports = run(FOLLOW, epochs)
    assert [float(w["f"]) for w in weights] == pytest.approx([0.5, 0.70711, 1.18921], rel=1e-5)
    assert [float(report.error[0]) for report in reports] == [0.5, -0.75, 0.5]


@pytest.mark.parametrize("ratio", [None, np.nan, np.inf, 0.0, -1.0])
def test_a_tracking_weight_stands_still_without_a_measurement(ratio):
    gone = {"balance": 1.5} | ({} if ratio is None else {"ratio": ratio})
    state, weights, reports = run(FOLLOW, [{"ratio": 0.5, "balance": 1.5}, gone, gone])
    assert [float(w["f"]) for w in weights] == pytest.approx([0.5] * 3)
    assert state.frozen[0] == 2
    assert float(reports[-1].error[0]) == 0.5  # the contract itself was measured


@pytest.mark.parametrize("row", [FOLLOW, FIXED, SHARP, GROUND, PARTS], ids=lambda row: row.mechanism + row.name)
def test_a_signal_that_is_missing_is_reported_as_not_measured(row):
    controller = bank([row], UNITS)
    before = controller.weights(controller.init(), OPEN)
    state, weights, reports = run(row, [{"unrelated": 1.0}] * 2, patience=1)
    np.testing.assert_array_equal(weights[-1][row.name], before[row.name])
    for report in reports:
        assert np.isnan(report.error).all()
        assert np.isnan(report.signal).all()
        assert not report.unsatisfiable.any()
    assert np.all(state.frozen == (0 if row is FIXED else 2))  # a constant has nothing to freeze


def test_a_tracking_row_among_others_minds_only_its_own_measurement():
    rows = [SHARP, FOLLOW, GROUND]
    signals = {"h": 1.4, "info": 0.4, "ratio": 0.5}  # no `balance`
    _, weights, reports = run(rows, [signals])
    assert {name: float(w) for name, w in weights[0].items()} == pytest.approx(
        {"sharp": 0.4, "f": 0.5, "ground": 0.8}  # 0.3 + 0.2 · 0.5;  0.5 + 0.4 · 0.5 + 0.2 · 0.5
    )
    np.testing.assert_allclose(reports[0].error, [0.5, np.nan, 0.5])


def test_an_aggregate_row_holds_the_mean_of_a_signal_of_many_entries():
    row = dataclasses.replace(PARTS, shape=())
    # mean of (2, 1, 0) is 1; e = −(1 − 2)/4 = 0.25; 0.1 + 0.2 · 0.25
    _, weights, reports = run(row, [{"h_part": [2.0, 1.0, 0.0]}])
    assert weights[0]["parts"].shape == ()
    assert float(weights[0]["parts"]) == pytest.approx(0.15)
    assert float(reports[0].signal[0]) == 1.0


@pytest.mark.parametrize("mechanism", ["pid", "dual"])
def test_errors_are_clipped_for_control_and_whole_in_reports(mechanism):
    row = Contract("c", mechanism, "m", "<=", 0.5, initial=0.2, rate=0.1, kp=0.0, ki=0.1, error_clip=0.5)
    _, weights, reports = run(row, [{"m": 10.0}])  # e = 19
    assert float(weights[0]["c"]) == pytest.approx(0.25)  # 0.2 + 0.1 · 0.5
    assert float(reports[0].error[0]) == 19.0


# Targets.

WARM = Contract("c", "dual", "m", "<=", 0.5, initial=0.2, rate=0.1, target_rule="warmup", ratio=0.5)


def test_a_warm_up_sets_the_target_and_holds_the_row_still():
    absolute = dataclasses.replace(WARM, name="a", target_rule="absolute")
    # average 1, then 0.75 · 1 + 0.25 · 2 = 1.25: target 0.5 · 1.25 = 0.625, and e = (1.25 − 0.625)/0.625 = 1
    epochs = [{"m": m} for m in (1.0, 2.0, 1.25, 1.25)]
    state, weights, reports = run([WARM, absolute], epochs, warmup_epochs=2, warmup_decay=0.75)
    assert [float(w["c"]) for w in weights] == pytest.approx([0.2, 0.2, 0.3, 0.4])
    # its twin moves from the start: e = 1, 3 clipped to 2, 1.5, 1.5
    assert [float(w["a"]) for w in weights] == pytest.approx([0.3, 0.5, 0.65, 0.8])
    assert [float(report.error[0]) for report in reports] == pytest.approx([1.0, 3.0, 1.0, 1.0])
    np.testing.assert_allclose(state.target, [0.625, 0.5])


def test_a_warm_up_averages_steps_and_sets_no_target_below_its_minimum():
    controller = bank([WARM], UNITS, warmup_epochs=1, warmup_minimum=0.01)
    for values, target in (((0.8, 1.6), 0.6), ((0.0, 0.004), 0.01)):  # 0.5 · 1.2;  0.5 · 0.002 is less than 0.01
        state = controller.init()
        for value in values:
            state, _ = controller.update(state, {"m": jnp.float32(value)}, dt=0.5, moving=ALL_MOVE)
        state, _ = controller.end_epoch(state, moving=ALL_MOVE)
        assert float(controller.targets(state)["c"]) == pytest.approx(target)


def test_a_weight_has_the_shape_that_its_row_asks_for():
    rows = [dataclasses.replace(PARTS, name=str(shape), shape=shape) for shape in ((), (1,), (3,))]
    _, weights, _ = run(rows, [{"h_part": [2.0, 1.0, 0.0]}])
    # One weight is over the mean of the entries, e = −(1 − 2)/4; of three, each has its own: e = 0, 0.25, 0.5.
    for shape, expected in (((), 0.15), ((1,), [0.15]), ((3,), [0.1, 0.15, 0.2])):
        assert weights[0][str(shape)].shape == shape
        np.testing.assert_allclose(weights[0][str(shape)], expected, rtol=1e-6)


def test_a_row_of_many_weights_warms_up_entry_by_entry():
    row = dataclasses.replace(PARTS, target_rule="warmup", ratio=2.0)
    state, _, _ = run(row, [{"h_part": [1.0, 2.0, 0.0]}], warmup_epochs=1, warmup_minimum=0.5)
    np.testing.assert_allclose(state.target, [2.0, 4.0, 0.5])


def test_targets_can_be_read_and_moved():
    controller = bank(ROWS, UNITS)
    state = controller.init()
    signals = FIRST
    np.testing.assert_allclose(controller.errors(state, signals), [0.5, 0.5, 0.25, 0.0, -0.5, 6.0], rtol=1e-6)
    assert {name: float(t) for name, t in controller.targets(state).items()} == pytest.approx(
        {"sharp": 0.4, "ground": 0.8, "parts": 2.0, "fixed": 0.2}
    )
    state = controller.retarget(state, "ground", jnp.float32(1.6))
    state = controller.retarget(state, "parts", jnp.float32(1.0))
    np.testing.assert_allclose(state.target, [0.4, 1.6, 1.0, 1.0, 1.0, 0.2])
    # ground: −(0.4 − 1.6)/1.6;  parts: −([1, 2, 4] − 1)/4, in its unit
    np.testing.assert_allclose(controller.errors(state, signals), [0.5, 0.75, 0.0, -0.25, -0.75, 6.0], rtol=1e-6)


# Types.


@pytest.mark.parametrize("mechanism", ["dual", "pid"])
@pytest.mark.parametrize("relation, spared, kept", [("<=", 0.1, 0.6), (">=", 0.7, 0.5)])
def test_a_weight_with_half_its_bound_to_spare_comes_down_by_factors(mechanism, relation, spared, kept):
    """Bound 0.4: a signal of 0.1 or 0.7 has three quarters of it to spare, a quarter more than a weight may have."""
    still = {"kp": 0.0, "ki": 0.0, "rate": 0.0}
    row = Contract("row", mechanism, "h", relation, 0.4, initial=8.0, minimum=0.5, release=1.2, **still)
    expected = 8.0 * np.exp(-1.2 * 0.25 * np.arange(1, 4))
    np.testing.assert_allclose(path(row, 3 * [{"h": spared}]), expected, rtol=1e-5)
    assert path(row, 30 * [{"h": spared}])[-1] == 0.5
    # Neither violated, nor half the bound away from it; nor not measured, nor behind a gate that is closed.
    assert path(row, 3 * [{"h": kept}]) == 3 * [8.0]
    assert path(row, 3 * [{"h": np.nan}]) == 3 * [8.0]
    gated = dataclasses.replace(row, gate="hold")
    shut = run(gated, 3 * [{"h": spared}], moving={**ALL_MOVE, "hold": jnp.bool_(False)})
    assert float(shut[1][-1]["row"]) == 8.0
    assert path(dataclasses.replace(row, release=0.0), 3 * [{"h": spared}]) == 3 * [8.0]


@pytest.mark.parametrize("mechanism, relation", [("dual", "="), ("constant", "<=")])
def test_no_equality_and_no_constant_is_released(mechanism, relation):
    row = Contract("row", mechanism, "h", relation, 0.4, initial=8.0, rate=0.0, release=1.0)
    assert path(row, 3 * [{"h": 0.0}]) == 3 * [8.0]


def test_violation_is_half_the_sum_of_squared_violations():
    kept, missing = Contract("kept", "dual", "m", "<=", 2.0), Contract("missing", "dual", "nowhere", "<=", 2.0)
    violated, off = Contract("violated", "dual", "m", "<=", 0.8), Contract("off", "dual", "m", "=", 4.0)
    controller = bank([kept, missing, violated, off], UNITS)
    # kept: −0.5; violated: (1 − 0.8)/0.8 = 0.25; off, to either side: (1 − 4)/4 = −0.75: ½ (0.0625 + 0.5625)
    value = controller.violation(controller.init(), {"m": jnp.float32(1.0)})
    assert float(value) == pytest.approx(0.3125)


def test_weights_carry_no_gradient():
    controller = bank(ROWS, UNITS)

    def weight(h):
        state, _ = controller.update(controller.init(), FIRST | {"h": h}, dt=0.5, moving=ALL_MOVE)
        return controller.weights(state, OPEN)["sharp"]

    assert jax.grad(weight)(jnp.float32(1.4)) == 0.0


def test_state_keeps_shapes_and_strong_types():
    controller = bank([*ROWS, FOLLOW, WARM], UNITS)
    state = controller.init()
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    after, _ = controller.update(state, FIRST, dt=0.5, moving=ALL_MOVE)
    after, _ = controller.end_epoch(after, moving=ALL_MOVE)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after) == kinds


def test_bad_gains_name_their_contract():
    with pytest.raises(ValueError, match=r"contracts\.c: mechanism must be one of pid, dual, track, constant"):
        bank([Contract("c", "adam", "m", "<=", 0.5)], UNITS)
    with pytest.raises(ValueError, match=r"contracts\.c: unit must be one of .*'bit'"):
        bank([Contract("c", "dual", "m", "<=", 0.5, "bit")], UNITS)
    with pytest.raises(ValueError, match=r"contracts\.sharp: there is another"):
        bank([SHARP, SHARP], UNITS)
    with pytest.raises(ValueError, match=r"contracts\.c: .*initial"):
        bank([Contract("c", "dual", "m", "<=", 0.5, initial=20.0)], UNITS)
    with pytest.raises(ValueError, match=r"contracts\.c: form"):
        bank([Contract("c", "pid", "m", "<=", 0.5, form="additive")], UNITS)
    with pytest.raises(ValueError, match=r"contracts\.c: minimum must be > 0"):
        bank([Contract("c", "track", "m", "<=", 0.5, follows="ratio")], UNITS)


@pytest.mark.parametrize("row", [SHARP, GROUND, PARTS, dataclasses.replace(SHARP, mechanism="track", minimum=0.1)])
def test_a_sweep_over_numbers_of_a_row_is_one_vmap(row):
    def after(gain, target, maximum):
        numbers = {"kp": gain, "ki": gain, "rate": gain, "target": target, "maximum": maximum}
        controller = bank([dataclasses.replace(row, **numbers)], UNITS)
        state, _ = controller.update(controller.init(), FIRST | {row.follows: FIRST["h"]}, dt=0.5, moving=ALL_MOVE)
        return controller.weights(state, OPEN)[row.name]

    numbers = ([0.1, 0.2, 0.4], [0.1, 0.2, 0.3], [1.0, 2.0, 0.6])
    swept = jax.jit(jax.vmap(after))(*map(jnp.array, numbers))
    alone = [after(*one) for one in zip(*numbers, strict=True)]
    np.testing.assert_allclose(swept, alone, rtol=1e-6)
