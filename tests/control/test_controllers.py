"""What every controller of loss weights does: one table, each mechanism run through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.control.pid import pid
from topojax.control.primal_dual import dual_ascent

# Every mechanism; keywords may be added, and gains may be vectors.
TABLE = {
    "dual": lambda **k: dual_ascent(0.5, **{"initial": 0.1, **k}),
    "dual-damped": lambda **k: dual_ascent(0.5, damping=0.3, **{"initial": 0.1, **k}),
    "dual-multiplicative": lambda **k: dual_ascent(
        0.5, form="multiplicative", **{"initial": 0.1, "minimum": 1e-3, **k}
    ),
    "pi": lambda **k: pid(0.05, 0.05, **k),
    "pid": lambda **k: pid(0.05, 0.05, 0.02, **k),
    "pid-limited": lambda **k: pid(0.05, 0.5, 0.02, max_step=0.05, **k),
    "report": lambda **k: pid(0.05, 0.01, form="report", **k),
    "report-d": lambda **k: pid(0.05, 0.01, 0.02, form="report", **k),
    "position": lambda **k: pid(0.05, 0.05, form="position", **k),
    "position-d": lambda **k: pid(0.05, 0.05, 0.02, form="position", **k),
    "position-limited": lambda **k: pid(0.05, 0.5, form="position", max_step=0.05, **k),
}
KINDS = ("dual", "dual-multiplicative", "pid-limited", "report-d", "position-limited")
"""One of each form, the one with the most parts; the others are slow."""
every = pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name, marks=() if name in KINDS else pytest.mark.slow) for name, make in TABLE.items()],
)
ERRORS = (0.4, -0.1, 0.25, 3.0, -0.7, 0.0)


# Saturation.


@every
@pytest.mark.parametrize("sign", (1.0, -1.0), ids=("max", "min"))
def test_a_reversed_error_leaves_the_bound_at_the_next_update(make, sign):
    control = make(maximum=1.0)
    step = jax.jit(lambda s, e: control.update(s, e, dt=0.1))
    state, info = jax.lax.fori_loop(
        0, 2000, lambda _, c: control.update(c[0], sign * 0.5, dt=0.1), step(control.init(), sign * 0.5)
    )
    held = float(state.weight)
    assert bool(info.at_max if sign > 0 else info.at_min)
    state, info = step(state, -sign * 0.05)
    assert (held - float(state.weight)) * sign > 0
    assert not (info.at_max | info.at_min)


# Containment.


@every
@given(
    good=st.lists(st.floats(-5, 5, width=32), min_size=12, max_size=12),
    bad=st.lists(st.sampled_from([None, None, np.nan, np.inf, -np.inf]), min_size=12, max_size=12),
)
@settings(max_examples=25, deadline=None)
def test_non_finite_errors_move_nothing(make, good, bad):
    """The trajectory is that of the finite errors alone: every leaf finite, the weight in bounds."""
    control = make()
    mixed = jnp.asarray([g if b is None else b for g, b in zip(good, bad, strict=True)], jnp.float32)

    def body(state, error):
        new, info = control.update(state, error, dt=0.2)
        return new, (new, info)

    _, (states, info) = _scan(make, body, control.init(), mixed)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
    assert (states.weight >= 0).all()
    assert (states.weight <= 10).all()
    np.testing.assert_array_equal(info.frozen, ~np.isfinite(mixed))
    for t in np.flatnonzero(~np.isfinite(mixed)):
        if t > 0:
            before, after = (jax.tree.map(lambda leaf, k=k: leaf[k], states) for k in (t - 1, t))
            assert bits(before) == bits(after)


_SCANS = {}


def _scan(key, body, init, xs):
    """One compilation per controller, whatever the number of examples."""
    if key not in _SCANS:
        _SCANS[key] = jax.jit(lambda init, xs: jax.lax.scan(body, init, xs))
    return _SCANS[key](init, xs)


@every
@pytest.mark.parametrize("dt", (0.0, -1.0, np.nan, np.inf))
def test_an_unusable_time_step_moves_nothing(make, dt):
    control = make()
    state = run(control, ERRORS)[-1]
    new, info = control.update(state, 0.5, dt=dt)
    assert bits(new) == bits(state)
    assert bool(info.frozen)


@every
@pytest.mark.parametrize("error", (3.4e38, -3.4e38, 1e-45, -0.0))
def test_any_finite_error_gives_finite_leaves(make, error):
    control = make()
    for state in run(control, (0.1, error, error, -0.1), dt=1e-6):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@every
def test_an_inactive_controller_keeps_its_bits(make):
    control = make()
    state = run(control, ERRORS)[-1]
    new, info = control.update(state, 0.7, active=False)
    assert bits(new) == bits(state)
    assert [float(x) for x in (info.p, info.i, info.d)] == [0.0, 0.0, 0.0]
    assert not bool(info.frozen)


# The table: what every controller does.


@every
def test_eager_equals_jit_and_traces_once(make):
    control = make()
    traces = []

    @jax.jit
    def update(state, error, dt, active):
        traces.append(1)
        return control.update(state, error, dt=dt, active=active)

    eager = compiled = control.init()
    for error in ERRORS:
        arguments = (jnp.float32(error), jnp.float32(0.5), jnp.bool_(True))
        eager, _ = control.update(eager, *arguments[:1], dt=arguments[1], active=arguments[2])
        compiled, _ = update(compiled, *arguments)
    assert len(traces) == 1
    for one, other in zip(eager, compiled, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@every
def test_structure_and_types_do_not_change(make):
    control = make()
    state = control.init()
    new, info = control.update(state, 0.3, dt=0.5)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for before, after in zip(state, new, strict=True):
        assert (after.shape, after.dtype, after.weak_type) == (before.shape, before.dtype, False)
        assert before.weak_type is False
    assert [leaf.dtype for leaf in info] == [jnp.float32] * 3 + [jnp.bool_] * 3
    assert jax.tree.leaves(info)[0].shape == state.weight.shape


@every
def test_state_can_be_donated(make):
    control = make()
    step = jax.jit(lambda s: control.update(s, 0.3)[0], donate_argnums=0)
    assert float(step(step(control.init())).weight) == pytest.approx(weights(control, (0.3, 0.3))[-1], rel=1e-6)


@every
def test_round_trip_through_leaves(make):
    control = make()
    state = run(control, ERRORS[:3])[-1]
    leaves, structure = jax.tree.flatten(state)
    copied = jax.tree.unflatten(structure, [np.array(leaf) for leaf in leaves])
    straight = run(control, ERRORS[3:], state=state)[-1]
    resumed = run(control, ERRORS[3:], state=jax.tree.map(jnp.asarray, copied))[-1]
    assert bits(straight) == bits(resumed)


@every
def test_vmap_over_runs_equals_each_run(make):
    control = make()
    errors = jnp.asarray([ERRORS, ERRORS[::-1], [0.1] * len(ERRORS)], jnp.float32)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), control.init())
    for t in range(len(ERRORS)):
        states, _ = jax.vmap(control.update)(states, errors[:, t])
    for k in range(3):
        single = run(control, errors[k])[-1]
        np.testing.assert_allclose(states.weight[k], single.weight, rtol=1e-6)


@every
def test_a_bank_is_n_scalars(make):
    initial = (0.1, 1.0, 9.9)
    bank = make(initial=initial)
    singles = [make(initial=value) for value in initial]
    sequence = [(0.4, -3.0, 0.5), (-0.2, 0.1, 2.5), (np.nan, 0.3, 0.3)]
    active = np.array([True, True, False])
    state, alone = bank.init(), [s.init() for s in singles]
    for errors in sequence:
        state, info = bank.update(state, np.asarray(errors), dt=0.5, active=active)
        alone = [
            s.update(a, e, dt=0.5, active=on)[0] for s, a, e, on in zip(singles, alone, errors, active, strict=True)
        ]
    assert state.weight.shape == info.at_max.shape == (3,)
    for leaf, *scalars in zip(state, *alone, strict=True):
        np.testing.assert_allclose(leaf, scalars, rtol=1e-6)
    expected = [s.effective(a) for s, a in zip(singles, alone, strict=True)]
    np.testing.assert_allclose(bank.effective(state), expected, rtol=1e-6)


def test_a_bank_takes_vector_gains_and_one_error():
    # K_i = 0.1, 0.2 at e = 0.5: 1.05 and 1.10
    state, _ = (control := pid(0.0, (0.1, 0.2), initial=1.0)).update(control.init(), 0.5)
    np.testing.assert_allclose(state.weight, [1.05, 1.10], rtol=1e-6)


@every
@given(low=st.floats(-3, 3, width=32), high=st.floats(-3, 3, width=32), history=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_a_larger_error_never_gives_a_smaller_weight(make, low, high, history):
    control = make()
    state = run(control, ERRORS[:history])[-1] if history else control.init()
    small, large = (control.update(state, e)[0].weight for e in sorted((low, high)))
    assert float(small) <= float(large) + 1e-6


@every
def test_errors_and_weights_carry_no_gradient(make):
    control = make()

    def loss(state, x):
        new, _ = control.update(state, 0.3 * x)
        return control.effective(new) * 2.0

    state = control.init()._replace(weight=jnp.float32(0.5))
    by_weight = jax.grad(lambda w: control.effective(state._replace(weight=w)))(jnp.float32(0.5))
    assert float(jax.grad(loss, argnums=1)(state, 1.0)) == 0.0
    assert float(by_weight) == 0.0


# Construction.


@pytest.mark.parametrize(
    "build, message",
    (
        (lambda: pid(-0.1, 0.1), "kp must be >= 0, got -0.1"),
        (lambda: pid(0.1, np.nan), "ki must be finite, got nan"),
        (lambda: pid(0.1, 0.1, derivative_filter=-1.0), "derivative_filter must be >= 0, got -1.0"),
        (lambda: pid(0.1, 0.1, minimum=2.0, maximum=1.0, initial=1.0), "minimum must be <= maximum, got 2.0"),
        (lambda: pid(0.1, 0.1, initial=11.0), r"initial must lie in .*\[0.0, 10.0\], got 11.0"),
        (lambda: pid(0.1, 0.1, form="velocity"), "form must be one of .*, got 'velocity'"),
        (lambda: pid((0.1, 0.2), (0.1, 0.2, 0.3)), r"share one shape, got .*\(2,\)"),
        (lambda: pid(0.1, (0.1, -0.2)), r"ki must be >= 0, got \(0.1, -0.2\)"),
        (lambda: dual_ascent(np.inf, initial=0.1), "rate must be finite, got inf"),
        (lambda: dual_ascent(1e39, initial=0.1), "rate must be finite, got 1e[+]39"),
        (lambda: dual_ascent(0.1, initial=0.1, max_step=-1.0), "max_step must be >= 0, got -1.0"),
        (lambda: dual_ascent(0.1, initial=0.1, form="multiplicative"), "minimum must be > 0, got 0.0"),
        (lambda: dual_ascent(0.1, initial=0.1, form="log"), "form must be one of .*, got 'log'"),
    ),
)
def test_bad_gains_are_refused_with_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_an_error_of_the_wrong_shape_is_refused():
    control = pid((0.1, 0.2), 0.1)
    with pytest.raises(ValueError, match=r"error has shape \(3,\), the weight \(2,\)"):
        control.update(control.init(), jnp.zeros(3))
