"""Tracking: the lag by its numbers, bounds, and what cannot be followed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.control.tracking import tracking

LIMITS = {"minimum": 0.05, "maximum": 2.0, "initial": 0.25}
LAG = -1 / np.log(0.9)  # a decay of 0.9 per epoch


def test_the_lag_is_an_average_of_logarithms():
    # decay 0.9, c = 2, m = 0.5 then 0.2: log λ = 0.9 log 0.25 + 0.1 log 1 = −1.2476649,  λ = 0.2871746
    #                                     0.9·(−1.2476649) + 0.1 log 0.4 = −1.2145275,    λ = 0.2968502
    control = tracking(2.0, lag=LAG, **LIMITS)
    assert weights(control, (0.5, 0.2)) == pytest.approx([0.2871746, 0.2968502], rel=1e-6)


def test_two_half_epochs_are_one_epoch():
    control = tracking(1.0, lag=3.0, **LIMITS)
    halves = weights(control, (1.0, 1.0), dt=0.5)[-1]
    # gain 1 − exp(−1/3) = 0.2834687: 0.25·4^0.2834687 = 0.3703418
    assert halves == pytest.approx(0.3703418, rel=1e-5)
    assert halves == pytest.approx(weights(control, (1.0,))[0], rel=1e-5)


def test_without_lag_it_follows_exactly_within_its_bounds():
    control = tracking(0.1, lag=0.0, minimum=1e-3, maximum=10.0, initial=1.0)
    values = (7.0, 1e-9, 1e9, 3.0)
    expected = [float(np.float32(0.1) * np.float32(m)) for m in values]
    expected[1:3] = [float(np.float32(1e-3)), 10.0]
    assert weights(control, values) == expected
    at = [control.update(control.init(), m)[1] for m in values]
    assert [bool(i.at_min) for i in at] == [False, True, False, False]
    assert [bool(i.at_max) for i in at] == [False, False, True, False]


def test_an_absurd_ratio_moves_it_by_a_share_of_the_way_to_the_bound():
    # 1e30 counts as 2: 0.25·8^0.1 = 0.3077861, and the next sane value takes it back at the same pace
    control = tracking(1.0, lag=LAG, **LIMITS)
    assert weights(control, (1e30, 0.25)) == pytest.approx([0.3077861, 0.25 * 8**0.09], rel=1e-6)


def test_max_step_bounds_the_factor():
    control = tracking(1.0, lag=0.0, max_step=0.1, **LIMITS)
    assert weights(control, (1.0, 1e-6)) == pytest.approx([0.25 * np.exp(0.1), 0.25], rel=1e-6)
    # the largest float is no limit
    free = tracking(1.0, lag=0.0, max_step=np.finfo(np.float32).max, **LIMITS)
    assert weights(free, (1.0,)) == [1.0]


def test_the_increment_is_reported():
    control = tracking(1.0, lag=0.0, **LIMITS)
    _, info = control.update(control.init(), 1.0)
    assert [float(x) for x in (info.p, info.i, info.d)] == [0.0, 0.75, 0.0]


def test_it_settles_on_a_constant():
    control = tracking(1.0, lag=5.0, **LIMITS)
    state, _ = jax.lax.scan(lambda s, m: (control.update(s, m, dt=0.1)[0], None), control.init(), jnp.full(1000, 1.5))
    assert float(state.weight) == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize("measured", (0.0, -0.0, -1.0, np.nan, np.inf, -np.inf))
def test_what_is_no_positive_number_moves_nothing(measured):
    control = tracking(1.0, lag=LAG, **LIMITS)
    state = run(control, (0.7, 0.3))[-1]
    new, info = control.update(state, measured)
    assert bits(new) == bits(state)
    assert bool(info.frozen)
    assert float(info.i) == 0.0


@pytest.mark.parametrize("dt", (0.0, -1.0, np.nan, np.inf))
def test_an_unusable_time_step_moves_nothing(dt):
    control = tracking(1.0, lag=0.0, **LIMITS)
    new, info = control.update(control.init(), 1.0, dt=dt)
    assert bits(new) == bits(control.init())
    assert bool(info.frozen)


def test_inactive_keeps_its_bits():
    control = tracking(1.0, lag=LAG, **LIMITS)
    state = run(control, (0.7, 0.3))[-1]
    new, info = control.update(state, 1.9, active=False)
    assert bits(new) == bits(state)
    assert not bool(info.frozen)


_rows = tracking((1.0, 2.0, 0.5), lag=(0.0, 1.0, 9.0), **LIMITS)
_scan = jax.jit(lambda values: jax.lax.scan(lambda s, m: (_rows.update(s, m, dt=0.5)[0],) * 2, _rows.init(), values)[1])


@given(st.lists(st.floats(width=32), min_size=10, max_size=10))
@settings(max_examples=100, deadline=None)
def test_any_sequence_stays_finite_and_within_bounds(values):
    weight = np.asarray(_scan(jnp.asarray(values, jnp.float32)).weight)
    assert np.isfinite(weight).all()
    assert (weight >= np.float32(0.05)).all()
    assert (weight <= np.float32(2.0)).all()


def test_rows_are_separate_controllers():
    singles = [tracking(c, lag=lag, **LIMITS) for c, lag in ((1.0, 0.0), (2.0, 1.0), (0.5, 9.0))]
    state, alone = _rows.init(), [s.init() for s in singles]
    active = np.array([True, True, False])
    for measured in ((0.3, 0.4, 1.0), (np.nan, 0.1, 1.0)):
        state, info = _rows.update(state, np.asarray(measured), dt=0.5, active=active)
        each = zip(singles, alone, measured, active, strict=True)
        alone = [single.update(before, m, dt=0.5, active=on)[0] for single, before, m, on in each]
        np.testing.assert_array_equal(info.frozen, ~np.isfinite(measured))
    np.testing.assert_allclose(state.weight, [float(a.weight) for a in alone], rtol=1e-6)


def test_one_trace_under_jit_and_types_do_not_change():
    traces = []

    @jax.jit
    def update(state, m, active):
        traces.append(1)
        return _rows.update(state, m, dt=0.5, active=active)

    state = _rows.init()
    for m, active in ((0.3, True), (np.nan, False), (2.0, True)):
        new, info = update(state, jnp.float32(m), jnp.bool_(active))
        assert [(x.shape, x.dtype, x.weak_type) for x in new] == [(x.shape, x.dtype, False) for x in state]
        state = new
    assert len(traces) == 1
    assert [x.dtype for x in info] == [jnp.float32] * 3 + [jnp.bool_] * 3


def test_nothing_carries_a_gradient():
    control = tracking(1.0, lag=1.0, **LIMITS)
    assert float(jax.grad(lambda m: control.effective(control.update(control.init(), m)[0]))(0.7)) == 0.0


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"factor": 0.0}, "factor must be > 0, got 0.0"),
        ({"lag": -1.0}, "lag must be >= 0, got -1.0"),
        ({"lag": np.inf}, "lag must be finite, got inf"),
        ({"minimum": 0.0}, "minimum must be > 0, got 0.0"),
        ({"minimum": 3.0}, "minimum must be <= maximum, got 3.0 > 2.0"),
        ({"initial": 5.0}, r"initial must lie in .*, got 5.0"),
        ({"max_step": -1.0}, "max_step must be >= 0, got -1.0"),
    ),
)
def test_bad_values_are_refused(changes, message):
    values = {"factor": 1.0, "lag": 1.0, **LIMITS, **changes}
    with pytest.raises(ValueError, match=message):
        tracking(values.pop("factor"), **values)
