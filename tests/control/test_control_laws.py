"""The laws of dual ascent and PID: literal numbers, reductions, convergence to known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits, run, weights

from topojax.control.base import Controller
from topojax.control.pid import pid, report_form_is_stable
from topojax.control.primal_dual import dual_ascent

ERRORS = (0.4, -0.1, 0.25, 3.0, -0.7, 0.0)


# Literal numbers.


def test_additive_dual_ascent_two_steps():
    # 0.1 + 0.5·0.5·0.4 = 0.2;  0.2 + 0.5·0.5·(−0.3) = 0.125;  error 5 is clipped to 2: 0.125 + 0.25·2 = 0.625
    assert weights(dual_ascent(0.5, initial=0.1), (0.4, -0.3, 5.0), dt=0.5) == pytest.approx([0.2, 0.125, 0.625])


def test_multiplicative_dual_ascent_two_steps():
    # 0.5·exp(0.2·1) = 0.610701;  ·exp(0.2·(−2)) = 0.409365;  the increment is reported, not the exponent
    control = dual_ascent(0.2, form="multiplicative", minimum=0.01, initial=0.5)
    first, info = control.update(control.init(), 1.0)
    second, _ = control.update(first, -2.0)
    assert float(first.weight) == pytest.approx(0.6107014)
    assert float(info.i) == pytest.approx(0.1107014, abs=1e-6)
    assert float(second.weight) == pytest.approx(0.4093654)


def test_damping_adds_to_the_loss_weight_only():
    # λ = 0.1 + 0.5·0.4 = 0.3; in the loss 0.3 + 2·0.4 = 1.1.
    # λ = 0.3 + 0.5·(−0.2) = 0.2; in the loss clip(0.2 − 2·0.2) = 0.
    control = dual_ascent(0.5, damping=2.0, initial=0.1)
    assert float(control.effective(control.init())) == pytest.approx(0.1)
    first, second = run(control, (0.4, -0.2))
    assert [float(first.weight), float(second.weight)] == pytest.approx([0.3, 0.2])
    assert [float(control.effective(s)) for s in (first, second)] == pytest.approx([1.1, 0.0])


def test_damping_of_a_multiplicative_weight_is_a_factor():
    # λ = 0.1 · exp(0.5 · 0.4) = 0.122140; in the loss ·exp(2 · 0.4) = 0.271828.
    # λ = 0.122140 · exp(−0.1) = 0.110517; in the loss ·exp(−0.4) = 0.074082: it never reaches 0.
    control = dual_ascent(0.5, damping=2.0, form="multiplicative", minimum=1e-6, initial=0.1)
    assert float(control.effective(control.init())) == pytest.approx(0.1)
    first, second = run(control, (0.4, -0.2))
    assert [float(first.weight), float(second.weight)] == pytest.approx([0.1221403, 0.1105171])
    assert [float(control.effective(s)) for s in (first, second)] == pytest.approx([0.2718282, 0.0740818])
    # Ten times the weight is damped by the same factor; bounds hold for what is in the loss, too.
    larger = dual_ascent(0.5, damping=2.0, form="multiplicative", minimum=1e-6, initial=1.0)
    assert float(larger.effective(run(larger, (0.4,))[0])) == pytest.approx(2.718282)
    bounded = dual_ascent(0.5, damping=2.0, form="multiplicative", minimum=1e-6, maximum=2.0, initial=1.0)
    assert float(bounded.effective(run(bounded, (0.4,))[0])) == 2.0


def test_max_step_bounds_the_weight_and_the_factor():
    # additive asks for +1, gets 0.1; multiplicative asks for e^1, gets e^0.1
    assert weights(dual_ascent(0.5, initial=1.0, max_step=0.1), (2.0,)) == pytest.approx([1.1])
    control = dual_ascent(0.5, form="multiplicative", minimum=0.1, initial=1.0, max_step=0.1)
    assert weights(control, (2.0, -2.0)) == pytest.approx([np.exp(0.1), 1.0])


def test_incremental_pid_three_steps():
    # Kp 0.1, Ki 0.2, Kd 0.05, Δt 0.5, no filter, e = 0.4, 0.2, 0.6:
    # 1: Δe = 0, d = 0:        0 + 0.2·0.5·0.4               = 0.04     λ = 1.04
    # 2: Δe = −0.2, d = −0.4: −0.02 + 0.02 + 0.05·(−0.4 − 0) = −0.02    λ = 1.02
    # 3: Δe = 0.4, d = 0.8:    0.04 + 0.06 + 0.05·(0.8 + 0.4) = 0.16    λ = 1.18
    control = pid(0.1, 0.2, 0.05, derivative_filter=0.0, initial=1.0)
    assert weights(control, (0.4, 0.2, 0.6), dt=0.5) == pytest.approx([1.04, 1.02, 1.18])
    _, info = control.update(run(control, (0.4, 0.2), dt=0.5)[-1], 0.6, dt=0.5)
    assert [float(x) for x in (info.p, info.i, info.d)] == pytest.approx([0.04, 0.06, 0.06])


def test_derivative_acts_on_the_filtered_error():
    # a = exp(−1/2) = 0.606531: ê = 0 then 1 − a = 0.393469, slope 0.393469, Δλ = 0.5·0.393469
    control = pid(0.0, 0.0, 0.5, derivative_filter=2.0, initial=1.0)
    assert weights(control, (0.0, 1.0)) == pytest.approx([1.0, 1.0 + 0.5 * 0.3934693])


def test_report_form_two_steps():
    # Kp 0.1, Ki 0.2, Kd 0.05, Δt 0.5, no filter, e = 0.4, 0.2:
    # 1: I = 0.2·0.5·0.4 = 0.04,       Δλ = 0.5·(0.04 + 0.04)                   = 0.04   λ = 1.04
    # 2: I = 0.04 + 0.2·0.5·0.2 = 0.06, Δλ = 0.5·(0.02 + 0.06) + 0.05·(−0.2)    = 0.03   λ = 1.07
    control = pid(0.1, 0.2, 0.05, form="report", derivative_filter=0.0, initial=1.0)
    assert weights(control, (0.4, 0.2), dt=0.5) == pytest.approx([1.04, 1.07])


def test_position_form_two_steps():
    # Kp 0.1, Ki 0.2, Kd 0.05, Δt 0.5, no filter, e = 0.4, 0.2, bias 1:
    # 1: 1 + 0.04 + 0.04              = 1.08
    # 2: 1 + 0.02 + 0.06 + 0.05·(−0.4) = 1.06
    control = pid(0.1, 0.2, 0.05, form="position", derivative_filter=0.0, initial=1.0)
    assert weights(control, (0.4, 0.2), dt=0.5) == pytest.approx([1.08, 1.06])


# Reductions.


def test_pid_without_kd_is_pi():
    expected, last, weight = [], ERRORS[0], 0.5
    for error in np.clip(ERRORS, -2, 2):
        weight = np.clip(weight + 0.3 * (error - last) + 0.1 * 0.25 * error, 0.0, 10.0)
        last = error
        expected.append(weight)
    for lag in (0.0, 1.0, 7.0):
        control = pid(0.3, 0.1, 0.0, derivative_filter=lag, initial=0.5)
        assert weights(control, ERRORS, dt=0.25) == pytest.approx(expected, rel=1e-5)


def test_pid_with_ki_alone_is_dual_ascent_bit_for_bit():
    integral = run(pid(0.0, 0.07, initial=0.2), ERRORS, dt=0.3)
    dual = run(dual_ascent(0.07, initial=0.2), ERRORS, dt=0.3)
    assert [bits(s.weight) for s in integral] == [bits(s.weight) for s in dual]


@pytest.mark.parametrize("form", ("incremental", "report", "position"))
def test_gains_mean_the_same_at_any_number_of_steps_per_epoch(form):
    """Ten epochs of a slow wave: 1 and 50 steps per epoch agree to the discretisation error (defect B3)."""

    def final(steps):
        errors = 0.5 + 0.2 * np.sin(np.arange(1, 10 * steps + 1, dtype=np.float32) / (2 * steps))
        control = pid(0.05, 0.05, 0.02, form=form, initial=1.0)

        def body(state, error):
            return control.update(state, error, dt=1 / steps)[0], None

        return float(jax.lax.scan(body, control.init(), jnp.asarray(errors))[0].weight)

    moved = final(50) - 1.0
    assert moved > 0.2
    assert final(1) - 1.0 == pytest.approx(moved, rel=0.15)
    assert final(10) - 1.0 == pytest.approx(moved, rel=0.02)


# Convergence.


@pytest.mark.parametrize("damping", (0.0, 1.0))
def test_dual_ascent_solves_a_problem_with_known_multiplier(damping):
    # min (x − 2)² s.t. x ≤ 1: stationarity 2(x − 2) + λ = 0 at x = 1 gives λ = 2.
    control = dual_ascent(0.05, damping=damping, initial=0.0)

    def body(carry, _):
        x, state = carry
        x = x - 0.05 * (2 * (x - 2) + control.effective(state))
        return (x, control.update(state, x - 1)[0]), None

    (x, state), _ = jax.lax.scan(body, (jnp.float32(0.0), control.init()), length=2000)
    assert float(x) == pytest.approx(1.0, abs=1e-3)
    assert float(state.weight) == pytest.approx(2.0, abs=1e-3)


def respond(control: Controller, lag, gain=1.0, target=0.4, length=3000, dt=1.0):
    """Signal of the plant m' = (g λ − m)/τ under control, error = target − m, τ in steps."""

    def body(carry, _):
        state, m = carry
        m = m + (gain * control.effective(state) - m) / lag
        return (control.update(state, target - m, dt=dt)[0], m), m

    start = (control.init(), jnp.float32(0.0))
    return np.asarray(jax.lax.scan(body, start, length=length)[1])


@pytest.mark.parametrize("form", ("incremental", "position"))
@pytest.mark.parametrize("ki, dt", ((0.01, 1.0), (0.05, 0.05)), ids=("per-epoch", "per-step"))
def test_pi_settles_on_a_first_order_plant(form, ki, dt):
    for lag in (1.0, 2.0, 5.0, 20.0, 50.0):
        signal = respond(pid(0.05, ki, form=form, initial=0.0), jnp.float32(lag), dt=dt, length=6000)
        assert signal.max() <= 1.2 * 0.4, lag
        assert np.abs(signal[-500:] - 0.4).max() < 1e-3, lag


def test_report_form_cycles_for_ever_beyond_its_limit():
    # τ = 20, Kp = 0.05, Ki = 0.005: Kp = 0.05 < τ Ki = 0.1. With Ki = 0.001, τ Ki = 0.02.
    assert not report_form_is_stable(0.05, 0.005, lag=20.0)
    cycling = respond(pid(0.05, 0.005, form="report", initial=0.0), 20.0, length=6000)
    early, late = np.ptp(cycling[2000:4000]), np.ptp(cycling[4000:])
    assert late > 0.4
    assert late == pytest.approx(early, rel=0.05)
    assert report_form_is_stable(0.05, 0.001, lag=20.0)
    settled = respond(pid(0.05, 0.001, form="report", initial=0.0), 20.0, length=6000)
    assert np.abs(settled[-500:] - 0.4).max() < 1e-3
    for form in ("incremental", "position"):
        assert np.ptp(respond(pid(0.05, 0.005, form=form, initial=0.0), 20.0, length=6000)[4000:]) < 1e-3


def test_stability_condition_is_elementwise_and_counts_the_derivative():
    # τ Ki = 0.1: Kp = 0.05 fails, 0.2 holds; Kd = 2, g = 1 makes 0.05·3 = 0.15 > 0.1. Without Ki always.
    np.testing.assert_array_equal(report_form_is_stable([0.05, 0.2], 0.005, 20.0), [False, True])
    assert report_form_is_stable(0.05, 0.005, 20.0, kd=2.0)
    assert report_form_is_stable(0.0, 0.0, 20.0)
    with pytest.raises(ValueError, match="lag must be >= 0, got -1"):
        report_form_is_stable(0.1, 0.1, lag=-1.0)


# Windup of single forms.


def test_report_integral_stands_still_at_a_bound():
    control = pid(0.05, 0.01, form="report", initial=1.0, maximum=1.0)
    states = run(control, (0.5, 0.5, 0.5))
    assert [float(s.integral) for s in states] == [0.0, 0.0, 0.0]


def test_position_integral_does_not_wind_up_while_the_proportional_part_saturates():
    # Kp e = 2 alone exceeds the maximum 1: I stays 0, and at e = 0 the weight is the bias again
    control = pid(1.0, 0.1, form="position", initial=0.0, maximum=1.0)
    assert weights(control, (2.0,) * 20 + (0.0,))[-2:] == [1.0, 0.0]
