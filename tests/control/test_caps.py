"""Caps on the learning rate and the barrier's trigger."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.control.caps import NO_CAP, active_cap, barrier_latch, speed_cap, update_ratio_cap


def test_update_ratio_cap_is_the_largest_rate_that_fits():
    # ρ‖θ‖/‖u‖ = 0.01·30/300 = 1e-3
    assert float(update_ratio_cap(300.0, 30.0, 0.01)) == pytest.approx(1e-3)


@given(
    u=st.floats(np.float32(1e-6), np.float32(1e6), width=32),
    theta=st.floats(np.float32(0.0625), np.float32(1e6), width=32),
)
@settings(max_examples=50, deadline=None)
def test_update_ratio_cap_bounds_the_update_tightly(u, theta):
    moved = float(update_ratio_cap(u, theta, 0.01)) * u
    assert moved == pytest.approx(0.01 * theta, rel=1e-5)


@pytest.mark.parametrize(
    "u, theta, expected",
    (
        (0.0, 5.0, NO_CAP),
        (0.0, 0.0, NO_CAP),
        (2.0, 0.0, 0.01 * 1e-3 / 2.0),
        (np.nan, 1.0, 0.0),
        (1.0, np.inf, 0.0),
        (1e-45, 1e30, NO_CAP),
    ),
)
def test_update_ratio_cap_is_finite_at_the_edges(u, theta, expected):
    assert float(update_ratio_cap(u, theta, 0.01)) == pytest.approx(expected)


def test_update_ratio_cap_works_per_tensor():
    caps = update_ratio_cap(jnp.asarray([1.0, 0.0]), jnp.asarray([2.0, 2.0]), 0.05)
    np.testing.assert_allclose(caps, [0.1, NO_CAP], rtol=1e-6)


def test_speed_cap_scales_the_measured_speed():
    # 0.4 per update at rate 1e-2; 0.1 is allowed: a quarter of the rate
    assert float(speed_cap(1e-2, 0.4, 0.1)) == pytest.approx(2.5e-3)
    assert float(speed_cap(1e-2, 0.0, 0.1)) == pytest.approx(NO_CAP)
    assert float(speed_cap(0.0, 0.4, 0.1)) == pytest.approx(NO_CAP)
    assert float(speed_cap(1e-2, np.nan, 0.1)) == pytest.approx(1e-2)


def test_active_cap_names_the_bound():
    rate, code = active_cap(3.0, 2.0, 1.0, np.nan)
    assert (float(rate), int(code), code.dtype) == (1.0, 2, jnp.int32)
    assert int(active_cap(1.0, 1.0)[1]) == 0
    assert [float(x) for x in active_cap(0.5)] == [0.5, 0.0]
    rate, code = jax.jit(active_cap)(jnp.asarray([1.0, 4.0]), 2.0)
    assert (rate.tolist(), code.tolist()) == ([1.0, 2.0], [0, 1])


def test_the_barrier_has_a_dead_band():
    # margin 0.2: on above α, off below 0.8 α, unchanged by values that are not finite
    latched, seen = jnp.bool_(False), []
    for beta in (0.9, 1.1, 0.9, np.nan, 0.79, 0.9):
        latched = barrier_latch(latched, 1.0, beta)
        seen.append(bool(latched))
    assert seen == [False, True, True, True, False, False]
    with pytest.raises(ValueError, match=r"margin must be < 1, got 1.5"):
        barrier_latch(False, 1.0, 1.0, margin=1.5)
