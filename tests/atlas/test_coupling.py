"""The coupling window: its measures by their numbers, the capacity rule, containment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.atlas.coupling import Coupling

LOG_N = float(np.log(10))  # 2.3025851
FIXED = Coupling(mode="target", target=0.23, log_charts=LOG_N)
CAPACITY = Coupling(mode="capacity", target=None, log_charts=LOG_N, horizon=4)


def steps(control, entropies, state=None, counted=True):
    state = control.init() if state is None else state
    for entropy in entropies:
        state = control.update_step(state, entropy, counted)
    return state


def epochs(control, values, state=None):
    """Infos of epochs with these I(X;K), and the last state."""
    state = control.init() if state is None else state
    infos = []
    for value in values:
        state, info = control.end_epoch(state, information=value, usage_entropy=2.0)
        infos.append(info)
    return infos, state


# Flow and mixing.


def test_mixing_is_what_usage_rose_by_over_the_epoch():
    # increments +0.5, −0.3, +0.1; the first step has nothing before it
    state = steps(FIXED, (1.0, 1.5, 1.2, 1.3))
    state, info = FIXED.end_epoch(state, information=0.7, usage_entropy=1.3)
    assert float(info.lambda_mix) == pytest.approx(0.6, rel=1e-5)
    assert float(info.lambda_in) == pytest.approx(0.7)
    assert bool(info.flows)
    # sums start anew, the increment across the border of epochs counts: +0.4
    _, info = FIXED.end_epoch(steps(FIXED, (1.7,), state), information=0.3, usage_entropy=1.3)
    assert float(info.lambda_mix) == pytest.approx(0.4, rel=1e-5)
    assert not bool(info.flows)


def test_an_epoch_without_steps_has_no_mixing():
    (info,), _ = epochs(FIXED, [0.0])
    assert float(info.lambda_mix) == 0.0
    assert bool(info.flows)


@pytest.mark.parametrize("entropy, counted", ((2.0, False), (np.nan, True), (np.inf, True), (-np.inf, True)))
@pytest.mark.parametrize("before", ((), (1.0, 1.5)))
def test_a_step_that_does_not_count_keeps_every_bit(entropy, counted, before):
    state = steps(FIXED, before)
    assert bits(FIXED.update_step(state, entropy, counted)) == bits(state)


# Thresholds.


def test_grounded_and_ceiling():
    infos, _ = epochs(FIXED, (0.22, 0.24))
    assert [bool(i.grounded) for i in infos] == [False, True]
    assert [float(i.epsilon) for i in infos] == pytest.approx([0.23, 0.23])
    assert float(infos[0].ceiling) == pytest.approx(LOG_N - 0.23)


@pytest.mark.parametrize(
    "usage, information, expected",
    # thresholds 0.9 log N = 2.0723 and 0.1 log N = 0.2303
    ((2.08, 0.22, True), (2.06, 0.22, False), (2.08, 0.24, False), (LOG_N, LOG_N, False)),
)
def test_over_mixing_is_a_conjunction(usage, information, expected):
    _, info = FIXED.end_epoch(FIXED.init(), information=information, usage_entropy=usage)
    assert bool(info.over_mixing) is expected


def test_over_mixing_thresholds_can_be_moved():
    control = Coupling(mode="target", target=0.23, log_charts=LOG_N, over_mixing=(0.5, 0.4))
    _, info = control.end_epoch(control.init(), information=0.9, usage_entropy=1.2)  # > 1.151, < 0.921
    assert bool(info.over_mixing)


# Capacity.


def test_capacity_sets_epsilon_and_it_never_falls():
    # floor 0.05·2.3026 = 0.11513. Q₀.₉ of (0.2) = 0.2 → clip 0.2303 → 0.0576: the floor stands.
    # (0.2, 2.0): 0.2 + 0.9·1.8 = 1.82 → 0.455.  (0.2, 2.0, 1.0): position 1.8: 1 + 0.8·1 = 1.8 → 0.45 < 0.455: kept.
    # (0.2, 2.0, 1.0, 2.2): position 2.7: 2 + 0.7·0.2 = 2.14 → 0.535
    assert float(CAPACITY.init().epsilon) == pytest.approx(0.05 * LOG_N)
    infos, state = epochs(CAPACITY, (0.2, 2.0, 1.0, 2.2))
    assert [float(i.epsilon) for i in infos] == pytest.approx([0.1151293, 0.455, 0.455, 0.535], rel=1e-5)
    assert float(state.epsilon) == float(infos[-1].epsilon)
    assert float(infos[-1].ceiling) == pytest.approx(LOG_N - 0.535, rel=1e-5)
    # the ring forgets: four epochs at 0, ε stays
    infos, state = epochs(CAPACITY, [0.0] * 4, state)
    assert not np.asarray(state.history).any()
    assert float(state.epsilon) == pytest.approx(0.535, rel=1e-5)


def test_the_clip_bounds_the_capacity():
    control = Coupling(mode="capacity", log_charts=LOG_N, capacity_clip=0.4)
    infos, _ = epochs(control, [0.0])
    assert float(infos[0].epsilon) == pytest.approx(0.25 * 0.4 * LOG_N, rel=1e-6)


@given(st.lists(st.floats(0, 2.25, width=32), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_capacity_is_numpys_quantile_over_the_horizon(values):
    _, state = epochs(CAPACITY, values)
    largest = max(np.quantile(np.float32(values[max(0, t - 4) : t]), 0.9) for t in range(1, len(values) + 1))
    expected = max(0.05 * LOG_N, 0.25 * np.clip(largest, 0.1 * LOG_N, LOG_N))
    assert float(state.epsilon) == pytest.approx(expected, rel=1e-5)


def test_the_last_information_is_kept():
    assert not bool(CAPACITY.last_information(CAPACITY.init())[1])
    for measured in ((0.5, np.nan), (0.1, 0.2, 0.3, 0.4, 0.5)):  # the ring has 4 places
        value, known = CAPACITY.last_information(epochs(CAPACITY, measured)[1])
        assert (float(value), bool(known)) == (0.5, True)


# Containment.


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("control", (FIXED, CAPACITY), ids=("target", "capacity"))
def test_an_epoch_that_measures_nothing_claims_nothing(control, bad):
    _, before = epochs(control, (2.0,))
    state, info = control.end_epoch(before, information=bad, usage_entropy=bad)
    assert bits(state) == bits(before)
    assert not (info.grounded | info.over_mixing | info.flows)
    assert np.isfinite(float(info.epsilon))
    # one of the two is enough to decide what it decides alone
    _, info = control.end_epoch(before, information=2.0, usage_entropy=bad)
    assert bool(info.grounded)
    _, info = control.end_epoch(before, information=bad, usage_entropy=2.3)
    assert not bool(info.over_mixing)


_TRACES = []


@jax.jit
def _run(entropies, counted, information, usage):
    _TRACES.append(1)

    def epoch(state, signals):
        state, _ = jax.lax.scan(lambda s, x: (CAPACITY.update_step(s, *x), None), state, signals[:2])
        mixing = state.mixing
        state, info = CAPACITY.end_epoch(state, information=signals[2], usage_entropy=signals[3])
        return state, (state, mixing, info)

    return jax.lax.scan(epoch, CAPACITY.init(), (entropies, counted, information, usage))[1]


anything = st.one_of(st.floats(-1, 4, width=32), st.floats(width=32))


@given(
    st.lists(anything, min_size=18, max_size=18),
    st.lists(st.booleans(), min_size=18, max_size=18),
    st.lists(anything, min_size=12, max_size=12),
)
@settings(max_examples=100, deadline=None)
def test_any_sequence_stays_finite_and_within_bounds(entropies, counted, epochs):
    epochs = jnp.asarray(epochs, jnp.float32)
    states, mixing, info = _run(
        jnp.asarray(entropies, jnp.float32).reshape(6, 3), jnp.asarray(counted).reshape(6, 3), epochs[:6], epochs[6:]
    )
    top = np.float32(LOG_N)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
    for leaf in (states.history, states.entropy):
        assert (leaf >= 0).all()
        assert (leaf <= top).all()
    assert (states.epsilon >= np.float32(0.05 * LOG_N)).all()
    assert (states.epsilon <= 0.25 * top * 1.0001).all()
    assert (np.diff(states.epsilon) >= 0).all()
    assert (mixing >= 0).all()
    assert (mixing <= 3.001 * top).all()
    assert not np.asarray(info.grounded)[~np.isfinite(epochs[:6])].any()
    assert len(_TRACES) == 1


@pytest.mark.parametrize("control", (FIXED, CAPACITY), ids=("target", "capacity"))
def test_types_do_not_change(control):
    state = control.init()
    stepped = control.update_step(state, 1.0, True)
    ended, info = control.end_epoch(stepped, information=1.0, usage_entropy=2.0)
    for new in (stepped, ended):
        assert [(x.shape, x.dtype, x.weak_type) for x in new] == [(x.shape, x.dtype, False) for x in state]
    kinds = {"flows": jnp.bool_, "over_mixing": jnp.bool_, "grounded": jnp.bool_}
    for name, value in info._asdict().items():
        assert (value.shape, value.dtype, value.weak_type) == ((), kinds.get(name, jnp.float32), False)


def test_the_state_can_be_donated():
    step = jax.jit(lambda s, h: CAPACITY.update_step(s, h, True), donate_argnums=0)
    end = jax.jit(lambda s: CAPACITY.end_epoch(s, information=1.0, usage_entropy=2.0)[0], donate_argnums=0)
    assert float(end(step(step(CAPACITY.init(), 1.0), 1.5)).epsilon) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"mode": "fixed"}, "mode must be one of target, capacity, got 'fixed'"),
        ({"target": None}, r"target must lie in .* nats, got None"),
        ({"target": 2.4}, r"target must lie in \(0, log N = 2.30259\) nats, got 2.4"),
        ({"target": np.nan}, "target must lie in .*, got nan"),
        ({"log_charts": 0.0}, "log_charts must be > 0, got 0.0"),
        ({"over_mixing": (0.1, 1.0)}, r"over_mixing must lie in \(0, 1\), got 1.0"),
        ({"capacity_fraction": 1.0}, r"capacity_fraction must lie in \(0, 1\), got 1.0"),
        ({"floor_fraction": 0.0}, r"floor_fraction must lie in \(0, 1\), got 0.0"),
        ({"capacity_clip": 1.5}, r"capacity_clip must lie in \[0, 1\], got 1.5"),
        ({"horizon": 0}, "horizon must be a whole number >= 1, got 0"),
    ),
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Coupling(**{"mode": "target", "target": 0.23, "log_charts": LOG_N, **changes})
