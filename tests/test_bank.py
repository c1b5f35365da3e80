"""The bank of contracts against numbers worked out by hand, its table, and the gate that it waits for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax import losses, signals
from topojax.control.bank import SATURATION_PATIENCE, bank
from topojax.control.contracts import TABLE, Contract, select, unit_values
from topojax.control.protocol import gate

UNITS = {"1": 1.0, "nat": 1.0, "log_charts": 2.0, "log_codes": 4.0, "log_classes": 3.0}  # round numbers, not logs
OPEN = {name: jnp.float32(1.0) for name in ("none", "hold", "window")}
ALL_MOVE = {name: jnp.bool_(True) for name in ("none", "hold", "window")}
CHARTS = 3

# Mechanisms and sizes interleaved, so that gathering by group has something to undo.
SHARP = Contract("sharp", "pid", "h", "<=", 0.2, "log_charts", initial=0.3, kp=0.1, ki=0.2)
GROUND = Contract("ground", "dual", "info", ">=", 0.4, "log_charts", initial=0.5, rate=0.4, damping=0.2)
CODES = Contract("codes", "pid", "h_code", ">=", 0.5, "log_codes", initial=0.1, kp=0.1, ki=0.2, per_chart=True)
FIXED = Contract("fixed", "constant", "h", "<=", 0.2, initial=0.7)
ROWS = (SHARP, GROUND, CODES, FIXED)


def measured(h, info, h_code):
    return {"h": jnp.float32(h), "info": jnp.float32(info), "h_code": jnp.array(h_code, jnp.float32)}


FIRST, SECOND = measured(1.4, 0.4, [1.0, 2.0, 4.0]), measured(0.8, 1.2, [2.0, 2.0, 2.0])


def assert_weights(controller, state, expected, openings=OPEN):
    weights = controller.weights(state, openings)
    assert list(weights) == [row.name for row in controller.rows]
    for name, value in expected.items():
        assert weights[name].shape == np.shape(value), name
        np.testing.assert_allclose(weights[name], value, rtol=1e-6, err_msg=name)


def one(row, value, *, steps=1, charts=CHARTS, moving=ALL_MOVE):
    """Weight of a bank of one row, with its damped part, after some steps at a signal."""
    controller = bank([row], UNITS, charts=charts)
    state = controller.init()
    for _ in range(steps):
        state, _ = controller.update(state, {row.signal: jnp.float32(value)}, dt=1.0, moving=moving)
    return controller.weights(state, OPEN)[row.name]


def test_two_updates_by_hand():
    controller = bank(ROWS, UNITS, charts=CHARTS)
    assert controller.slices == {
        "sharp": slice(0, 1),
        "ground": slice(1, 2),
        "codes": slice(2, 5),
        "fixed": slice(5, 6),
    }
    state = controller.init()
    np.testing.assert_allclose(state.target, [0.4, 0.8, 2.0, 2.0, 2.0, 0.2])
    assert_weights(controller, state, {"sharp": 0.3, "ground": 0.5, "codes": [0.1] * 3, "fixed": 0.7})

    # sharp   e = (1.4 − 0.4)/2 = 0.5, no Δe yet            0.3 + 0.2·½·0.5                 = 0.35
    # ground  e = −(0.4 − 0.8)/0.8 = 0.5                    0.5 + 0.4·½·0.5 + 0.2·0.5       = 0.6 + 0.1
    # codes   e = −([1, 2, 4] − 2)/4 = [0.25, 0, −0.5]      0.1 + 0.2·½·e                   = [0.125, 0.1, 0.05]
    state, info = controller.update(state, FIRST, dt=0.5, moving=ALL_MOVE)
    assert_weights(controller, state, {"sharp": 0.35, "ground": 0.7, "codes": [0.125, 0.1, 0.05], "fixed": 0.7})
    np.testing.assert_allclose(info.p, np.zeros(6))
    np.testing.assert_allclose(info.i, [0.05, 0.1, 0.025, 0.0, -0.05, 0.0], atol=1e-8)

    # sharp   e = (0.8 − 0.4)/2 = 0.2      0.35 + 0.1·(0.2 − 0.5) + 0.2·½·0.2               = 0.34
    # ground  e = −(1.2 − 0.8)/0.8 = −0.5  0.6 − 0.4·½·0.5 − 0.2·0.5                        = 0.5 − 0.1
    # codes   e = 0                        [0.125, 0.1, 0.05] − 0.1·[0.25, 0, −0.5]         = 0.1
    state, info = controller.update(state, SECOND, dt=0.5, moving=ALL_MOVE)
    assert_weights(controller, state, {"sharp": 0.34, "ground": 0.4, "codes": [0.1] * 3, "fixed": 0.7})
    np.testing.assert_allclose(info.p, [-0.03, 0.0, -0.025, 0.0, 0.05, 0.0], atol=1e-8)
    np.testing.assert_allclose(info.i, [0.02, -0.1, 0.0, 0.0, 0.0, 0.0], atol=1e-8)


def test_epoch_means_by_hand():
    controller = bank(ROWS, UNITS, charts=CHARTS)
    state = controller.init()
    for values in (FIRST, SECOND):
        state, _ = controller.update(state, values, dt=0.5, moving=ALL_MOVE)
    state, epoch = controller.end_epoch(state)
    # fixed: mean of (1.4 − 0.2)/0.2 = 6 and (0.8 − 0.2)/0.2 = 3; errors are not clipped in reports
    np.testing.assert_allclose(epoch.error, [0.35, 0.0, 0.125, 0.0, -0.25, 4.5], atol=1e-6)
    np.testing.assert_allclose(epoch.signal, [1.1, 0.8, 1.5, 2.0, 3.0, 1.1], rtol=1e-6)
    for sums in (state.error, state.signal, state.seen):
        np.testing.assert_array_equal(sums, np.zeros(6))


def test_weights_are_per_row_whatever_the_order_of_the_table():
    forwards, backwards = (bank(rows, UNITS, charts=CHARTS) for rows in (ROWS, ROWS[::-1]))
    weights = []
    for controller in (forwards, backwards):
        state, _ = controller.update(controller.init(), FIRST, dt=0.5, moving=ALL_MOVE)
        weights.append(controller.weights(state, OPEN))
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name], name)


def test_scale_is_the_unit_for_set_points_in_logs_and_the_target_otherwise():
    errors = {}
    for mechanism in ("pid", "dual"):
        for unit in ("log_charts", "nat"):
            row = Contract("c", mechanism, "m", "<=", 0.25, unit)
            controller = bank([row], UNITS, charts=CHARTS)
            state, _ = controller.update(controller.init(), {"m": jnp.float32(1.0)}, dt=1.0, moving=ALL_MOVE)
            errors[mechanism, unit] = float(controller.end_epoch(state)[1].error[0])
    assert errors["pid", "log_charts"] == 0.25  # (1 − 0.5) / 2
    assert errors["dual", "log_charts"] == 1.0  # (1 − 0.5) / 0.5
    assert errors["pid", "nat"] == errors["dual", "nat"] == 3.0  # (1 − 0.25) / 0.25


def test_gates_scale_weights_and_hold_them_still():
    rows = [Contract(name, "dual", "m", "<=", 0.5, initial=0.2, rate=0.1, gate=name) for name in OPEN]
    controller = bank(rows, UNITS, charts=CHARTS)
    openings = {"none": jnp.float32(1.0), "hold": jnp.float32(1.0), "window": jnp.float32(0.25)}
    moving = {"none": jnp.bool_(True), "hold": jnp.bool_(False), "window": jnp.bool_(False)}
    state, info = controller.update(controller.init(), {"m": jnp.float32(1.0)}, dt=1.0, moving=moving)
    assert_weights(controller, state, {"none": 0.3, "hold": 0.2, "window": 0.05}, openings)
    assert not info.frozen.any()  # waiting is not failing
    moving["hold"] = jnp.bool_(True)
    state, _ = controller.update(state, {"m": jnp.float32(1.0)}, dt=1.0, moving=moving)
    assert_weights(controller, state, {"none": 0.4, "hold": 0.3, "window": 0.05}, openings)


@pytest.mark.parametrize("mechanism", ["pid", "dual", "constant"])
def test_a_row_that_does_not_adapt_never_moves(mechanism):
    row = Contract("c", mechanism, "m", "<=", 0.5, initial=0.2, adaptive=mechanism == "constant")
    assert one(row, 100.0, steps=5) == np.float32(0.2)
    assert one(row, 0.0, steps=5) == np.float32(0.2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_signal_that_is_not_finite_freezes_its_row_alone(value):
    controller = bank(ROWS, UNITS, charts=CHARTS)
    state, _ = controller.update(controller.init(), FIRST, dt=0.5, moving=ALL_MOVE)
    broken = measured(0.8, value, [2.0, value, 2.0])
    after, info = controller.update(state, broken, dt=0.5, moving=ALL_MOVE)
    np.testing.assert_array_equal(info.frozen, [False, True, False, True, False, False])
    np.testing.assert_array_equal(after.frozen, [0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(after.seen, [2, 1, 2, 1, 2, 2])
    assert_weights(controller, after, {"sharp": 0.34, "ground": 0.7, "codes": [0.1, 0.1, 0.1]})
    # The next finite signal picks up where the row stopped: no kick, the error before is that of the first update.
    again, _ = controller.update(after, SECOND, dt=0.5, moving=ALL_MOVE)
    whole, _ = controller.update(state, SECOND, dt=0.5, moving=ALL_MOVE)
    for name in ("ground", "codes"):
        a, b = (controller.weights(s, OPEN)[name].reshape(-1) for s in (again, whole))
        pick = 1 if name == "codes" else 0
        np.testing.assert_array_equal(a[pick], b[pick])
    epoch = controller.end_epoch(after)[1]
    np.testing.assert_allclose(epoch.signal, [1.1, 0.4, 1.5, 2.0, 3.0, 1.1], rtol=1e-6)


def test_unsatisfiable_after_patience_and_reset():
    row = Contract("c", "dual", "m", "<=", 0.5, initial=0.2, maximum=0.2, rate=0.1)
    controller = bank([row], UNITS, charts=CHARTS)

    @jax.jit
    def epoch(state, value):
        state, _ = controller.update(state, {"m": value}, dt=1.0, moving=ALL_MOVE)
        return controller.end_epoch(state)

    state = controller.init()
    reported = []
    for _ in range(SATURATION_PATIENCE + 1):
        state, info = epoch(state, jnp.float32(1.0))
        reported.append(bool(info.unsatisfiable[0]))
    assert reported == [False] * (SATURATION_PATIENCE - 1) + [True] * 2
    state, info = epoch(state, jnp.float32(0.25))  # kept: e = −0.5
    assert not info.unsatisfiable[0]
    assert state.saturated[0] == 0
    assert controller.weights(state, OPEN)["c"] == np.float32(0.15)  # 0.2 − 0.1 · 0.5
    state, info = epoch(state, jnp.float32(1.0))  # back at the maximum: counting starts anew
    assert state.saturated[0] == 1


def test_a_constant_at_its_maximum_is_no_saturation():
    row = Contract("c", "constant", "m", "<=", 0.5, initial=0.2, maximum=0.2)
    controller = bank([row], UNITS, charts=CHARTS)
    state = controller.init()
    for _ in range(2):
        state, _ = controller.update(state, {"m": jnp.float32(9.0)}, dt=1.0, moving=ALL_MOVE)
        state, _ = controller.end_epoch(state)
    assert state.saturated[0] == 0


def test_weights_carry_no_gradient():
    controller = bank(ROWS, UNITS, charts=CHARTS)

    def weight(h):
        state, _ = controller.update(controller.init(), FIRST | {"h": h}, dt=0.5, moving=ALL_MOVE)
        return controller.weights(state, OPEN)["sharp"]

    assert jax.grad(weight)(jnp.float32(1.4)) == 0.0


def test_state_keeps_shapes_and_strong_types():
    controller = bank(ROWS, UNITS, charts=CHARTS)
    state = controller.init()
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    after, _ = controller.update(state, FIRST, dt=0.5, moving=ALL_MOVE)
    after, _ = controller.end_epoch(after)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after) == kinds


def test_bad_gains_name_their_contract():
    with pytest.raises(ValueError, match=r"contracts\.c: .*initial"):
        bank([Contract("c", "dual", "m", "<=", 0.5, initial=20.0)], UNITS, charts=CHARTS)
    with pytest.raises(ValueError, match=r"contracts\.c: form"):
        bank([Contract("c", "pid", "m", "<=", 0.5, form="additive")], UNITS, charts=CHARTS)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"entropie": {}}, "unknown contract 'entropie'; known are entropy, "),
        ({"entropy": {"kI": 1.0}}, "contract entropy has no field 'kI'"),
        ({"entropy": {"mechanism": "adam"}}, "contracts.entropy.mechanism must be one of pid, dual, constant"),
        ({"entropy": {"relation": "<"}}, "contracts.entropy.relation must be one of <=, >=, ="),
        ({"entropy": {"gate": "door"}}, "contracts.entropy.gate must be one of none, hold, window"),
        ({"entropy": {"unit": "bit"}}, "contracts.entropy.unit must be one of 1, nat"),
        ({"entropy": {"target": 0.0}}, "contracts.entropy.target must be finite and > 0, got 0.0"),
        ({"entropy": {"target": -0.1}}, "contracts.entropy.target must be finite and > 0, got -0.1"),
        ({"entropy": {"target": float("nan")}}, "contracts.entropy.target must be finite and > 0, got nan"),
    ],
)
def test_select_refuses(overrides, message):
    with pytest.raises(ValueError) as error:
        select(overrides, labels=True)
    assert message in str(error.value)


def test_select_keeps_enabled_rows_in_order_and_overrides_fields():
    rows = select({"entropy": {"enabled": False}, "orbit": {"enabled": True}, "jump": {"target": 0.3}}, labels=True)
    names = [row.name for row in rows]
    assert names == [r.name for r in TABLE if r.name in names]
    assert "entropy" not in names
    assert "orbit" in names
    assert next(row for row in rows if row.name == "jump").target == 0.3
    assert next(row for row in TABLE if row.name == "jump").target == 0.1  # the table itself is untouched


def test_select_without_labels_leaves_out_rows_that_want_them():
    with_labels, without = ({row.name for row in select({}, labels=labels)} for labels in (True, False))
    assert with_labels - without == {"sup_purity", "sup_metric"}
    forced = select({"sup_balance": {"enabled": True}}, labels=False)
    assert "sup_balance" not in {row.name for row in forced}


def test_a_disabled_row_is_not_checked():
    assert "entropy" not in {r.name for r in select({"entropy": {"enabled": False, "target": 0.0}}, labels=True)}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_violated_contract_raises_its_weight(row):
    row = dataclasses.replace(row, maximum=10.0)  # away from its bound
    target = row.target * UNITS[row.unit]
    better, worse = (1.1, 0.9) if row.relation == ">=" else (0.9, 1.1)
    assert np.all(one(row, worse * target) > row.initial)
    assert np.all(one(row, better * target) < row.initial)
    assert one(row, target) == pytest.approx(np.full(CHARTS if row.per_chart else (), row.initial))


ROUTER = jax.nn.softmax(jax.random.normal(jax.random.key(1), (12, 4)))
LATENT = jax.random.normal(jax.random.key(2), (12, 2))
COUNTS = jnp.abs(jax.random.normal(jax.random.key(3), (4, 5))) + 0.2


def pooled(counts):
    usage = counts / jnp.sum(counts, axis=1, keepdims=True)
    return losses.code_entropy(usage, jnp.sum(counts, axis=1) / jnp.sum(counts))


def in_chart(counts):
    return jnp.sum(losses.per_chart_code_entropy(counts / jnp.sum(counts, axis=1, keepdims=True)))


# Contract → its loss and its signal as functions of the same array: what the weight presses on, and what is measured.
PRESSED = {
    "entropy": (losses.routing_entropy, lambda w: -jnp.mean(jnp.sum(w * jnp.log(w), axis=-1)), ROUTER),
    "diversity": (losses.diversity, losses.usage_entropy, ROUTER),
    "window": (lambda w: losses.window(w, 1.0), losses.information, ROUTER),
    "variance": (lambda z: losses.variance(z, 10.0), losses.energy, LATENT),
    "code_entropy": (pooled, lambda c: signals.code_entropies(c)["H_code"], COUNTS),
    "per_chart_code_entropy": (in_chart, lambda c: jnp.sum(signals.code_entropies(c)["H_code_in_chart"]), COUNTS),
}
SAME_QUANTITY = {"sup_purity": "class_entropy", "sup_balance": "balance"}  # the loss itself, under its signal's name


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_descending_the_loss_moves_the_signal_towards_its_contract(row):
    if row.name not in PRESSED:  # the signal is the loss, and descent lowers it
        assert row.signal == SAME_QUANTITY.get(row.name, row.name)
        assert row.sign == 1.0
        return
    loss, signal, at = PRESSED[row.name]
    moved = -jnp.vdot(jax.jit(jax.grad(loss))(at), jax.jit(jax.grad(signal))(at))  # d signal / dt under dx/dt = −∇loss
    assert abs(moved) > 1e-6
    assert np.sign(moved) == -row.sign


def test_unit_values_are_logs():
    units = unit_values(charts=10, codes=1, classes=0)
    assert units["log_charts"] == pytest.approx(2.302585)
    assert units["log_codes"] == units["log_classes"] == pytest.approx(0.693147)  # of 2: never 0, which would divide
    assert units["1"] == units["nat"] == 1.0


def run_gate(hold, ramp, conditions):
    g = gate(hold, ramp)
    state, out = g.init(), []
    for condition in conditions:
        state = g.update(state, condition)
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


def test_gate_without_hold_opens_at_once_and_ramps_only_while_the_condition_holds():
    assert run_gate(0, 1, [False, True, False]) == [(0, True, 0.0), (1, True, 1.0), (0, True, 1.0)]


def test_gate_refuses():
    with pytest.raises(ValueError, match="hold_epochs must be >= 0, got -1"):
        gate(-1, 5)
    with pytest.raises(ValueError, match="ramp_epochs must be >= 1, got 0"):
        gate(5, 0)
