"""BarrierTypeII: each barrier by its numbers, the dead band, bounded cuts and freezes, containment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.atlas.hierarchy import ACTIONS, GROUPS, Hierarchy

CALM = {"alpha": 1.0, "beta": 0.5, "gamma": 0.3, "delta": 0.1}  # δ ≤ 0.15, γ ≤ 0.5, β ≤ 1
NOTHING = dict.fromkeys(CALM, np.nan)


@functools.cache
def _compiled(changes):
    control = Hierarchy(**dict(changes))
    return control.init, jax.jit(lambda state, signals, measured: control.update(state, **signals, measured=measured))


def drive(probes, *, state=None, measured=True, **changes):
    """The last state, all infos, and the factors by group after each probe; no smoothing unless asked for."""
    init, update = _compiled(tuple(sorted({"decay": 0.0, **changes}.items())))
    state = init() if state is None else state
    infos, factors = [], []
    for probe in probes:
        state, info = update(state, {**CALM, **probe}, measured)
        infos.append(info)
        factors.append(dict(zip(GROUPS, np.asarray(state.factors).tolist(), strict=True)))
    return state, infos, factors


def only(**cut):
    return {**dict.fromkeys(GROUPS, 1.0), **cut}


# Which barrier speaks for whom.


@pytest.mark.parametrize(
    "probe, latched, cut",
    (
        ({}, [False, False, False], {}),
        ({"delta": 0.16}, [True, False, False], {"encoder": 0.5, "codes": 0.5}),
        ({"gamma": 0.51}, [False, True, False], {"decoder": 0.5}),
        ({"beta": 1.01}, [False, False, True], {"router": 0.5}),
        ({"delta": 0.9, "gamma": 0.6, "beta": 2.0}, [True] * 3, dict.fromkeys(GROUPS[:4], 0.5)),
    ),
)
def test_a_barrier_cuts_its_groups_and_never_the_heads(probe, latched, cut):
    _, infos, factors = drive([probe])
    assert infos[0].latched.tolist() == latched
    assert factors[0] == only(**cut)
    assert not infos[0].barrier  # the governor's turn comes when the router's cuts are used up


def test_the_rate_of_all_is_cut_where_the_router_s_own_cuts_were_not_enough():
    _, infos, factors = drive([{"beta": 2.0}] * 3 + [{}], freeze_limit=2)
    assert [bool(i.barrier) for i in infos] == [False, False, True, False]
    assert [f["router"] for f in factors] == [0.5, 0.25, 0.25, 0.3125]
    _, infos, factors = drive([{"beta": 2.0}, {}], action="warn")
    assert [bool(i.barrier) for i in infos] == [True, False]
    assert factors == [only()] * 2


def test_ratios_can_be_moved():
    _, infos, _ = drive([{"delta": 0.2, "gamma": 0.85}], delta_gamma=0.2, gamma_alpha=0.9)
    assert infos[0].latched.tolist() == [True, False, False]


def test_scales_are_averages_that_start_at_the_first_value():
    # decay 0.5: β = 0.5, then 0.25 + 0.5·1.4 = 0.95, then 0.475 + 0.7 = 1.175 > 1
    state, infos, _ = drive([{}, {"beta": 1.4}, {"beta": 1.4}], decay=0.5)
    assert [bool(i.latched[2]) for i in infos] == [False, False, True]
    np.testing.assert_allclose(state.scales, [1.0, 1.175, 0.3, 0.1], rtol=1e-6)


def test_the_dead_band_keeps_the_latch():
    # margin 0.2: on above 1, off below 0.8
    _, infos, factors = drive([{"beta": b} for b in (1.1, 0.9, 0.81, 0.79, 0.9)])
    assert [bool(i.latched[2]) for i in infos] == [True, True, True, False, False]
    # 1/2, 1/4, 1/8, then ×1.25 twice
    assert [f["router"] for f in factors] == [0.5, 0.25, 0.125, 0.15625, 0.1953125]


# Actions and their bounds.


def test_cuts_stop_at_the_minimum_and_recovery_at_one():
    _, _, factors = drive([{"beta": 2.0}] * 3 + [{}] * 9, minimum=0.2)
    # 0.5, 0.25, 0.2 | 0.25, 0.3125, 0.390625, … ×1.25 reaches 1 after 8 (0.2·1.25⁸ = 1.19)
    seen = [f["router"] for f in factors]
    assert seen[:5] == pytest.approx([0.5, 0.25, 0.2, 0.25, 0.3125])
    assert seen[9] == pytest.approx(0.2 * 1.25**7)
    assert seen[10:] == [1.0, 1.0]


def test_the_number_of_cuts_in_a_row_is_bounded():
    _, infos, factors = drive([{"gamma": 2.0}] * 4 + [{}] + [{"gamma": 2.0}], freeze_limit=2)
    # two cuts, held, reported; one recovery; then the count starts anew
    assert [f["decoder"] for f in factors] == [0.5, 0.25, 0.25, 0.25, 0.3125, 0.15625]
    assert [i.exhausted.tolist()[1] for i in infos] == [False, False, True, True, False, False]


def test_a_freeze_is_bounded_and_renewed_only_after_it_cleared():
    _, infos, factors = drive([{"beta": 2.0}] * 5 + [{}] + [{"beta": 2.0}], action="freeze", freeze_limit=3)
    assert [f["router"] for f in factors] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    assert [i.exhausted.tolist()[2] for i in infos] == [False] * 3 + [True] * 2 + [False] * 2
    assert all(f["heads"] == f["encoder"] == 1.0 for f in factors)


def test_a_freeze_ends_even_if_nothing_can_be_measured():
    state, _, factors = drive([{"beta": 2.0}] + [NOTHING] * 3, action="freeze", freeze_limit=2)
    assert [f["router"] for f in factors] == [0.0, 0.0, 1.0, 1.0]
    assert bool(state.latched[2])


def test_a_frozen_decoder_is_no_measure_of_the_encoder():
    # frozen, it has γ = 0, against which any δ would be too large; once it runs again δ is judged again
    probes = [{"gamma": 0.6}, {"gamma": 0.0}, {"gamma": 0.0}]
    _, infos, factors = drive(probes, action="freeze")
    assert [i.latched.tolist()[:2] for i in infos] == [[False, True], [False, False], [True, False]]
    assert [f["decoder"] for f in factors] == [0.0, 1.0, 1.0]


def test_warn_reports_and_touches_nothing():
    state, infos, factors = drive([{"beta": 2.0, "delta": 1.0}] * 3, action="warn", freeze_limit=2)
    assert factors == [only()] * 3
    assert infos[-1].latched.tolist() == infos[-1].exhausted.tolist() == [True, False, True]
    assert state.frozen.tolist() == [3, 0, 3]


def test_no_limit_means_no_cut():
    for action in ("rate", "freeze"):
        _, infos, factors = drive([{"beta": 2.0}], action=action, freeze_limit=0)
        assert factors == [only()]
        assert bool(infos[0].exhausted[2])


# What is not measured.


@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_not_measured_keeps_every_bit(action):
    state, infos, _ = drive([{}, {"beta": 2.0}], action=action, decay=0.5)
    new, again, _ = drive([{"delta": 9.0}, NOTHING], state=state, measured=False, action=action, decay=0.5)
    assert bits(new) == bits(state)
    assert bits(again[-1]) == bits(infos[-1])


def test_a_missing_scale_keeps_its_value_and_holds_its_barriers():
    # β behind its barrier, then α missing: β falls, but nothing says against what; δ against γ is judged as ever
    state, infos, factors = drive([{"beta": 2.0}, {"alpha": np.inf, "beta": 0.1, "delta": 0.2}, {"beta": 0.1}])
    assert [i.latched.tolist() for i in infos] == [[False, False, True], [True, False, True], [False, False, False]]
    assert [f["router"] for f in factors] == [0.5, 0.5, 0.625]
    assert [f["codes"] for f in factors] == [1.0, 0.5, 0.625]
    np.testing.assert_allclose(state.scales, [1.0, 0.1, 0.3, 0.1], rtol=1e-6)


def test_a_scale_not_yet_seen_starts_at_its_own_first_value():
    state, infos, _ = drive([{"alpha": np.nan}, {"alpha": 4.0}], decay=0.5)
    assert infos[0].latched.tolist() == [False] * 3  # 0 in place of α would have latched two
    assert float(state.scales[0]) == 4.0
    state, _, _ = drive([{"beta": np.nan}, {"beta": 0.625}], decay=0.5)
    assert float(state.scales[1]) == 0.625


def test_nothing_recovers_while_nothing_is_measured():
    _, _, factors = drive([{"beta": 2.0}, {}, NOTHING, {}])
    assert [f["router"] for f in factors] == [0.5, 0.625, 0.625, 0.78125]


def test_a_negative_divergence_is_zero():
    state, _, _ = drive([{"beta": -1e-7}])
    assert float(state.scales[1]) == 0.0


scale = st.one_of(st.floats(0, 2, width=32), st.floats(width=32), st.just(np.nan))
_TRACES = []


@functools.cache
def _scan(action):
    control = Hierarchy(action=action, freeze_limit=2, minimum=0.2)

    def body(state, probe):
        values, measured = probe
        signals = dict(zip(("alpha", "beta", "gamma", "delta"), values, strict=True))
        state, info = control.update(state, **signals, measured=measured)
        return state, (state, info)

    def run(values, measured):
        _TRACES.append(action)
        return jax.lax.scan(body, control.init(), (values, measured))[1]

    return jax.jit(run)


@pytest.mark.parametrize("action", ACTIONS)
@given(
    st.lists(st.tuples(scale, scale, scale, scale), min_size=12, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_any_sequence_stays_finite_and_within_bounds(action, values, measured):
    states, info = _scan(action)(jnp.asarray(values, jnp.float32), jnp.asarray(measured))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
    assert (states.scales >= 0).all()
    factors = np.asarray(states.factors)
    allowed = {"warn": factors == 1, "rate": (factors >= np.float32(0.2)) & (factors <= 1)}
    assert allowed.get(action, (factors == 0) | (factors == 1)).all()
    assert (factors[:, GROUPS.index("heads")] == 1).all()
    assert (factors[:, 0] == factors[:, 2]).all()
    # at most `freeze_limit` measurements in a row without a rate
    frozen = (factors == 0)[np.asarray(measured)]
    assert not (frozen[2:] & frozen[1:-1] & frozen[:-2]).any()
    np.testing.assert_array_equal(info.exhausted, np.asarray(states.frozen) > 2)
    np.testing.assert_array_equal(np.asarray(states.frozen) > 0, states.latched)
    assert _TRACES.count(action) == 1


@pytest.mark.parametrize("action", ACTIONS)
def test_types_do_not_change(action):
    control = Hierarchy(action=action)
    state = control.init()
    new, info = control.update(state, **CALM)
    assert [(x.shape, x.dtype, x.weak_type) for x in new] == [(x.shape, x.dtype, False) for x in state]
    assert [(x.shape, x.dtype) for x in info] == [((3,), jnp.bool_), ((3,), jnp.bool_), ((), jnp.bool_)]
    step = jax.jit(lambda s: control.update(s, **CALM)[0], donate_argnums=0)
    assert bits(step(step(control.init()))) == bits(step(new))


def test_nothing_carries_a_gradient():
    control = Hierarchy()
    by_delta = jax.grad(lambda x: control.update(control.init(), **{**CALM, "delta": x})[0].scales.sum())
    assert float(by_delta(1.0)) == 0.0


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"delta_gamma": 0.0}, "delta_gamma must be > 0, got 0.0"),
        ({"gamma_alpha": -1.0}, "gamma_alpha must be >= 0, got -1.0"),
        ({"margin": 1.0}, r"margin must lie in \[0, 1\), got 1.0"),
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
        ({"decay": np.nan}, r"decay must lie in \[0, 1\), got nan"),
        ({"shrink": 0.0}, "shrink must be > 0, got 0.0"),
        ({"shrink": 1.5}, r"shrink must lie in \(0, 1\], got 1.5"),
        ({"recover": 0.9}, r"recover must lie in \[1, inf\), got 0.9"),
        ({"minimum": 2.0}, r"minimum must lie in \(0, 1\], got 2.0"),
        ({"freeze_limit": -1}, "freeze_limit must be >= 0, got -1"),
        ({"action": "halt"}, "action must be one of warn, rate, freeze, got 'halt'"),
    ),
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Hierarchy(**changes)
