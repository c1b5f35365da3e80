"""The table of contracts, row by row: the sign rule, what each weight presses on, what none of them may do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.atlas import losses, signals
from topojax.atlas.fixed_batch import make_prober
from topojax.atlas.measure import make_settings
from topojax.atlas.table import GATES, TABLE, by_name, select, unit_values
from topojax.config.defaults import default_config
from topojax.control.bank import bank

UNITS = {"1": 1.0, "nat": 1.0, "log_charts": 2.0, "log_codes": 4.0, "log_classes": 3.0}  # round numbers, not logs
OPEN = {name: jnp.float32(1.0) for name in GATES}
ALL_MOVE = {name: jnp.bool_(True) for name in GATES}
CHARTS = 4
SIZED = [dataclasses.replace(row, shape=(CHARTS,) if row.per_chart else ()) for row in TABLE]
ROWS = {row.name: row for row in SIZED}
MOVED_BY_ERROR = [row for row in SIZED if row.mechanism in ("pid", "dual")]
FOLLOWERS = [row for row in SIZED if row.follows]


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"entropie": {}}, "unknown contract 'entropie'; known are commitment, route, entropy, "),
        ({"entropy": {"kI": 1.0}}, "contract entropy has no field 'kI'"),
        ({"entropy": {"mechanism": "adam"}}, "contracts.entropy.mechanism must be one of pid, dual, track, constant"),
        ({"entropy": {"relation": "<"}}, "contracts.entropy.relation must be one of <=, >=, ="),
        ({"entropy": {"gate": "door"}}, "contracts.entropy.gate must be one of none, warmup, hold, window"),
        ({"entropy": {"target_rule": "relative"}}, "contracts.entropy.target_rule must be one of absolute, warmup"),
        ({"entropy": {"unit": "bit"}}, "contracts.entropy.unit must be one of 1, nat"),
        ({"entropy": {"target": 0.0}}, "contracts.entropy.target must be finite and > 0, got 0.0"),
        ({"entropy": {"target": -0.1}}, "contracts.entropy.target must be finite and > 0, got -0.1"),
        ({"entropy": {"target": float("nan")}}, "contracts.entropy.target must be finite and > 0, got nan"),
        ({"entropy": {"ratio": 0.0}}, "contracts.entropy.ratio must be finite and > 0, got 0.0"),
        ({"jump": {"factor": -1.0}}, "contracts.jump.factor must be finite and > 0, got -1.0"),
        ({"entropy": {"error_clip": float("inf")}}, "contracts.entropy.error_clip must be finite and > 0, got inf"),
        ({"entropy": {"mechanism": "track"}}, "contracts.entropy.mechanism is 'track', but there is nothing"),
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
    assert with_labels - without == {"route", "sup_purity", "sup_metric"}
    forced = select({"sup_balance": {"enabled": True}}, labels=False)
    assert "sup_balance" not in {row.name for row in forced}


def test_a_disabled_row_is_not_checked():
    assert "entropy" not in {r.name for r in select({"entropy": {"enabled": False, "target": 0.0}}, labels=True)}


def test_by_name_keeps_rows_that_take_no_part():
    rows = by_name({"vicreg_inv": {"target": 0.3}})
    assert list(rows) == [row.name for row in TABLE]
    assert rows["vicreg_inv"].target == 0.3
    assert not rows["vicreg_inv"].enabled


def test_unit_values_are_logs():
    units = unit_values(charts=10, codes=1, classes=0)
    assert units["log_charts"] == pytest.approx(2.302585)
    assert units["log_codes"] == units["log_classes"] == pytest.approx(0.693147)  # of 2: never 0, which would divide
    assert units["1"] == units["nat"] == 1.0


# Row by row.


def weight(row, epochs, **measured):
    """Weight of a bank of one row after some epochs at the same signals."""
    controller = bank([row], UNITS)
    measured = {name: jnp.float32(value) for name, value in measured.items()}
    step = jax.jit(lambda state: controller.update(state, measured, dt=1.0, moving=ALL_MOVE)[0])
    state = controller.init()
    for _ in range(epochs):
        state = step(state)
    return np.asarray(controller.weights(state, OPEN)[row.name])


def test_every_row_is_moved_by_its_error_or_follows_a_measurement():
    assert {row.name for row in MOVED_BY_ERROR} | {row.name for row in FOLLOWERS} == set(ROWS)
    both = {row.name for row in MOVED_BY_ERROR} & {row.name for row in FOLLOWERS}
    assert both == {"route"}  # a multiplier that may track a ratio of gradients instead


@pytest.mark.parametrize("row", MOVED_BY_ERROR, ids=lambda row: row.name)
def test_a_violated_contract_raises_its_weight(row):
    row = dataclasses.replace(row, minimum=min(row.minimum, 1e-6), maximum=10.0)  # away from its bounds
    target = row.target * UNITS[row.unit]
    better, worse = (1.1, 0.9) if row.relation == ">=" else (0.9, 1.1)
    assert np.all(weight(row, 1, **{row.signal: worse * target}) > row.initial)
    assert np.all(weight(row, 1, **{row.signal: better * target}) < row.initial)
    np.testing.assert_allclose(weight(row, 1, **{row.signal: target}), row.initial, rtol=1e-6)


@pytest.mark.parametrize("row", FOLLOWERS, ids=lambda row: row.name)
@pytest.mark.parametrize("held", [0.1, 10.0])
def test_a_follower_goes_to_factor_times_its_measurement_whatever_it_holds(row, held):
    tracks = dataclasses.replace(row, mechanism="track")
    middle = np.sqrt(row.minimum * row.maximum)
    for aim, expected in ((middle, middle), (2 * row.maximum, row.maximum), (row.minimum / 2, row.minimum)):
        signals = {row.signal: held * row.target, row.follows: aim / row.factor}
        assert weight(tracks, 40, **signals) == pytest.approx(expected, rel=1e-4)
        if row.mechanism == "constant":
            assert weight(row, 2, **signals) == np.float32(row.initial)


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


@pytest.mark.parametrize(
    "row", [row for row in MOVED_BY_ERROR if row.name != "sup_temperature"] + [ROWS["jump"]], ids=lambda row: row.name
)
def test_descending_the_loss_moves_the_signal_towards_its_contract(row):
    if row.name not in PRESSED:  # the signal is the loss, and descent lowers it
        assert row.signal == SAME_QUANTITY.get(row.name, row.name)
        assert row.sign == 1.0
        return
    loss, signal, at = PRESSED[row.name]
    moved = -jnp.vdot(jax.jit(jax.grad(loss))(at), jax.jit(jax.grad(signal))(at))  # d signal / dt under dx/dt = −∇loss
    assert abs(moved) > 1e-6
    assert np.sign(moved) == -row.sign


def test_the_weight_of_sup_temperature_raises_class_entropy():
    row = ROWS["sup_temperature"]
    config = default_config()
    config.supervised.temperature = 2.0
    settings_of = make_settings(config, (row,))
    logits = jax.random.normal(jax.random.key(4), (4, 5))

    def temperature(weight):
        return settings_of({}, jnp.float32(1.0), jnp.float32(1.0), {row.name: weight}).temperature

    def entropy(weight):
        return losses.class_entropy(ROUTER, jax.nn.softmax(logits / temperature(weight)))

    assert temperature(jnp.float32(0.0)) == 2.0
    assert float(temperature(jnp.log(3.0))) == pytest.approx(6.0)  # T = 2 exp(log 3)
    slope = jax.grad(entropy)(jnp.float32(row.initial))
    assert abs(slope) > 1e-6
    assert np.sign(slope) == -row.sign  # it raises the signal, so a signal too small must raise it
    assert make_settings(config, ())({}, jnp.float32(1.0), jnp.float32(1.0), {}).temperature == 2.0


def probe_of(*rows):
    """The probe's own functions for these contracts; nothing of a model is called."""
    names = ("system", "objective", "settings_of", "measure", "image_shape")
    return make_prober(default_config(), None, rows, **dict.fromkeys(names))


def heard(row, weight, **probed):
    """What the probe tells control of these values of its own."""
    prober = probe_of(row)
    seen = prober.init()._replace(**{name: jnp.float32(value) for name, value in probed.items()})
    return prober.signals(seen, {row.name: jnp.float32(weight)})


def test_a_weight_that_follows_a_ratio_of_gradients_keeps_its_contract():
    ratio = 0.5
    row = dataclasses.replace(ROWS["commitment"], mechanism="track", lag=0.0)
    before = heard(row, row.initial, **{row.follows: ratio})
    # balance = weight / ratio: the weighed gradients are equal at 1
    assert float(before[row.signal]) == pytest.approx(row.initial / ratio)
    followed = float(weight(row, 1, **before))
    assert followed == pytest.approx(ratio)
    balanced = heard(row, followed, **{row.follows: ratio})
    controller = bank([row], UNITS)
    np.testing.assert_allclose(controller.errors(controller.init(), balanced), [0.0], atol=1e-6)


@pytest.mark.parametrize("name", ["commitment", "route"])
def test_a_ratio_of_gradients_is_measured_only_for_a_weight_that_follows_it(name):
    row = ROWS[name]
    assert row.follows not in heard(dataclasses.replace(row, mechanism="constant"), 1.0)
    assert row.follows in heard(dataclasses.replace(row, mechanism="track"), 1.0)


def test_the_jump_weight_follows_the_reaction():
    row = dataclasses.replace(ROWS["jump"], lag=0.0)
    length = probe_of(row).init().geometry.length
    assert float(length) == 0.5  # λ_wfr before it is measured
    assert float(weight(row, 1, **heard(row, 1.0))) == pytest.approx(0.4)  # 0.1 / 0.5²


# All rows at once.

EVERY = [dataclasses.replace(row, enabled=True) for row in SIZED]
NAMES = sorted({row.signal for row in EVERY} | {row.follows for row in EVERY if row.follows})
VALUE = st.floats(-1e3, 1e3, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30])


@given(st.lists(st.lists(VALUE, min_size=len(NAMES), max_size=len(NAMES)), min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_any_signals_leave_every_leaf_finite_and_every_weight_in_bounds(values):
    state, weights = _driven(np.asarray(values, np.float32))
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()
    for row in EVERY:
        weight = np.asarray(weights[row.name])
        assert np.all((weight >= np.float32(row.minimum)) & (weight <= np.float32(row.maximum))), row.name
        if row.mechanism == "constant":
            assert np.all(weight == np.float32(row.initial)), row.name


@jax.jit
def _driven(values):
    """The whole table over epochs of signals: the last state, and its weights."""
    rows = [dataclasses.replace(row, target_rule="warmup") if row.mechanism == "dual" else row for row in EVERY]
    controller = bank(rows, UNITS, warmup_epochs=2)

    def epoch(state, row):
        state, _ = controller.update(state, dict(zip(NAMES, row, strict=True)), dt=0.5, moving=ALL_MOVE)
        return controller.end_epoch(state, moving=ALL_MOVE)[0], None

    state, _ = jax.lax.scan(epoch, controller.init(), values)
    return state, controller.weights(state, OPEN)
