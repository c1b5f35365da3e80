"""The governor: each rule by its numbers, priorities, bounds, containment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.control.governor import CAUSES, GovernorState, governor

BASE = {
    "initial": 1e-2,
    "minimum": 1e-5,
    "maximum": 1e-1,
    "grow": 1.1,
    "shrink": 0.5,
    "recovery_threshold": 0.0,
    "stable_patience": 2,
    "unstable_patience": 2,
}
CALM = {"loss": 1.0, "information": 1.0, "grounding_target": 0.5}
QUIET = {"over_mixing": False, "update_ratio": 0.0, "barrier": False}


@functools.cache
def _compiled(changes):
    control = governor(**{**BASE, **dict(changes)})
    return control.init, jax.jit(lambda state, signals: control.update_epoch(state, **signals))


def drive(epochs, *, state=None, **changes):
    """Run epochs of signals; the last state, all rates and the names of all causes."""
    init, update = _compiled(tuple(sorted(changes.items())))
    state = init() if state is None else state
    rates, causes = [], []
    for signals in epochs:
        state, decision = update(state, {**CALM, **QUIET, **signals})
        rates.append(float(state.rate))
        causes.append(CAUSES[int(decision.cause)])
    return state, rates, causes


# Growth and recovery.


def test_grows_each_epoch_once_stable_for_its_patience():
    # patience 2: 0.01, 0.011, 0.0121, 0.01331
    state, rates, causes = drive([{}] * 4)
    assert rates == pytest.approx([0.01, 0.011, 0.0121, 0.01331], rel=1e-6)
    assert causes == ["none", "grow", "grow", "grow"]
    assert (int(state.changes), int(state.changed_at), CAUSES[int(state.cause)]) == (3, 4, "grow")


def test_recovers_by_a_larger_factor_far_below_the_maximum():
    # threshold 0.5·0.02 = 0.01: 0.008·1.3 = 0.0104 by recovery, then ·1.1 = 0.01144
    _, rates, causes = drive([{}] * 3, initial=0.008, maximum=0.02, recovery_threshold=0.5, recover=1.3)
    assert rates == pytest.approx([0.008, 0.0104, 0.01144], rel=1e-6)
    assert causes == ["none", "recover", "grow"]


def test_a_rate_on_its_bound_makes_no_event():
    state, rates, causes = drive([{}] * 6, initial=0.095)
    assert causes == ["none", "grow", "none", "none", "none", "none"]
    assert rates[-1] == np.float32(0.1)
    assert int(state.changes) == 1
    _, rates, causes = drive([{"barrier": True}] * 4, initial=1e-5)
    assert causes == ["none"] * 4
    assert rates == [np.float32(1e-5)] * 4


# Spikes and the loss average.


def test_a_spike_cuts_at_the_end_of_its_patience_and_patience_starts_anew():
    _, rates, causes = drive([{}, {"loss": 2.0}, {"loss": 2.0}, {"loss": 2.0}, {"loss": 2.0}])
    assert causes == ["none", "none", "spike", "none", "spike"]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.005, 0.0025])


def test_one_outlier_neither_cuts_nor_becomes_the_new_normal():
    # The EMA takes in at most 2 in place of 1000: 0.9·1 + 0.1·2 = 1.1. A later 1.2 > 1.1·1.05 is a spike too.
    state, _, causes = drive([{}, {"loss": 1000.0}])
    assert causes == ["none", "none"]
    assert float(state.loss_ema) == pytest.approx(1.1)
    assert drive([{"loss": 1.2}], state=state)[2] == ["spike"]


def test_a_lasting_change_of_level_is_absorbed():
    _, rates, causes = drive([{}] * 2 + [{"loss": 1.5}] * 60)
    assert causes.count("spike") < 12
    assert causes[-1] == "grow"
    assert rates[-1] > min(rates)


def test_the_average_starts_at_the_first_loss():
    assert float(drive([{"loss": 7.0}])[0].loss_ema) == 7.0
    state, _, _ = drive([{"loss": np.nan}, {"loss": 7.0}])
    assert float(state.loss_ema) == float(state.loss_best) == 7.0


@pytest.mark.parametrize("level", (1.0, -1.0, -50.0))
def test_the_tolerance_is_relative_and_holds_for_negative_losses(level):
    # tolerance 0.05: 4 % of |level| above is no spike, 6 % is; a falling loss never is
    def spiked(loss):
        return "spike" in drive([{"loss": level}] + [{"loss": loss}] * 2)[2]

    assert not spiked(level + 0.04 * abs(level))
    assert spiked(level + 0.06 * abs(level))
    assert not spiked(level - 0.5 * abs(level))


# Grounding, over-mixing, barrier, size.


LOST = {"information": 0.0}  # < 0.5


def test_lost_grounding_cuts_at_once_then_by_patience_and_a_spent_one_lets_the_rate_grow():
    # patience 2, limit 2: cuts in epochs 2 and 4; the cuts are used up in epoch 6, and growth has its patience
    settings = {"freeze_limit": 2, "grounding_decay": 0.0}
    state, rates, causes = drive([{}] + [LOST] * 8, **settings)
    assert causes == ["none", "grounding", "none", "grounding", "none", "none", "grow", "grow", "grow"]
    assert rates == pytest.approx([0.01, *[0.005] * 2, *[0.0025] * 3, *(0.0025 * 1.1**k for k in (1, 2, 3))])
    assert int(state.ungrounded) == 8
    # once it is back, its loss cuts again
    assert drive([{}, LOST], state=state, **settings)[2] == ["grow", "grounding"]


@pytest.mark.parametrize("over_mixing", (False, True))
def test_what_was_never_grounded_has_lost_nothing(over_mixing):
    control = governor(**BASE)
    state, causes = control.init(), []
    for _ in range(20):
        state, decision = control.update_epoch(state, **{**CALM, **LOST}, over_mixing=over_mixing)
        causes.append(CAUSES[int(decision.cause)])
        assert not bool(decision.grounded)
        assert not bool(decision.exhausted)
    assert causes == ["none"] + ["grow"] * 19
    assert (bool(state.grounded), int(state.ungrounded)) == (False, 0)
    # It is grounded at the end of an epoch with enough: the next one without is lost.
    assert drive([{}, LOST], state=state, grounding_decay=0.0)[2] == ["grow", "grounding"]


def test_a_spent_reaction_is_reported():
    control = governor(**BASE, freeze_limit=2, grounding_decay=0.0)
    state, reports = control.init(), []
    state, decision = control.update_epoch(state, **CALM)
    assert bool(decision.grounded)
    for _ in range(6):
        state, decision = control.update_epoch(state, **{**CALM, **LOST})
        reports.append(bool(decision.exhausted))
        assert not bool(decision.grounded)
    assert reports == [False] * 4 + [True] * 2


def test_grounding_is_judged_by_its_average():
    # EMA from 1.0: 0.9, 0.81, 0.729, 0.656, 0.590, 0.531, 0.478 < 0.5: the seventh epoch without information
    _, _, causes = drive([{}] + [{"information": 0.0}] * 7, grow=1.0)
    assert causes == ["none"] * 7 + ["grounding"]


def test_over_mixing_cuts_and_blocks_growth():
    _, rates, causes = drive([{}, {"over_mixing": True}, {"over_mixing": True}, {}, {}])
    assert causes == ["none", "over_mixing", "none", "none", "grow"]
    assert rates == pytest.approx([0.01, 0.005, 0.005, 0.005, 0.0055])


def test_grounding_warmup_mutes_grounding_and_nothing_else():
    lost = {**LOST, "over_mixing": True}

    def muted(epochs, warmup=10):
        return drive([{}, *epochs], grounding_warmup=warmup, grounding_decay=0.0)[2]

    assert muted([lost] * 3, warmup=3) == ["none", "grow", "grow", "grounding"]
    assert muted([lost, *[{**lost, "loss": 2.0}] * 2]) == ["none", "grow", "none", "spike"]
    assert muted([{**lost, "barrier": True}]) == ["none", "barrier"]
    assert muted([{**lost, "update_ratio": 3.0}] * 2) == ["none", "none", "oversized"]


def test_the_barrier_is_bounded_and_released():
    # limit 2: two cuts; then the barrier is ignored and the run may grow; once cleared it works again
    state, _, causes = drive([{"barrier": True}] * 5, freeze_limit=2)
    assert causes == ["barrier", "barrier", "none", "grow", "grow"]
    assert int(state.frozen) == 5
    assert drive([{}, {"barrier": True}], state=state, freeze_limit=2)[2] == ["grow", "barrier"]


def test_a_barrier_is_counted_by_measurement_not_by_epoch():
    old, new = {"barrier": True, "barrier_measured": False}, {"barrier": True, "barrier_measured": True}
    # limit 2: the two measurements cut; epochs in between neither cut nor use the limit up
    state, rates, causes = drive([new, old, old, new, old, new], freeze_limit=2, grow=1.0)
    assert causes == ["barrier", "none", "none", "barrier", "none", "none"]
    assert rates == pytest.approx([0.005] * 3 + [0.0025] * 3)
    assert int(state.frozen) == 3
    # what was not measured does not release it either
    state, _, causes = drive(
        [{"barrier": False, "barrier_measured": False}, new], state=state, freeze_limit=2, grow=1.0
    )
    assert (causes, int(state.frozen)) == (["none", "none"], 4)
    assert drive([{}, new], state=state, freeze_limit=2, grow=1.0)[2] == ["none", "barrier"]


def test_behind_a_barrier_an_epoch_without_a_measurement_is_no_evidence():
    # Measured every fifth epoch, never cleared. Limit 2: cuts in epochs 1 and 6, then the barrier is ignored, but
    # only the measured epochs 11, 16, 21, 26 are evidence: patience 2, growth in 16, 21 and 26.
    epochs = [{"barrier": True, "barrier_measured": k % 5 == 0} for k in range(30)]
    state, rates, causes = drive(epochs, freeze_limit=2)
    assert {k + 1: cause for k, cause in enumerate(causes) if cause != "none"} == {
        **dict.fromkeys((1, 6), "barrier"),
        **dict.fromkeys((16, 21, 26), "grow"),
    }
    assert rates[-1] == pytest.approx(0.01 / 4 * 1.1**3)
    # once it clears, as before
    assert drive([{}, {}], state=state, freeze_limit=2)[2] == ["grow", "grow"]


def test_a_hold_stops_growth_and_recovery_and_no_cut():
    held = {"hold": True}
    _, rates, causes = drive([held] * 4 + [{}])
    assert causes == ["none"] * 4 + ["grow"]  # patience went on meanwhile
    assert rates == pytest.approx([0.01] * 4 + [0.011])
    assert drive([held] * 3, recovery_threshold=0.5, recover=1.3)[2] == ["none"] * 3
    assert drive([{}, {**held, "loss": 2.0}, {**held, "loss": 2.0}])[2] == ["none", "none", "spike"]
    assert drive([{**held, "barrier": True}])[2] == ["barrier"]


def capped(epochs, allowed, **changes):
    """Calm epochs whose updates are `allowed` at most: rates and causes."""
    control = governor(**{**BASE, **changes})

    def body(state, _):
        new, decision = control.update_epoch(state, **CALM, update_ratio=state.rate / allowed)
        return new, (new.rate, decision.cause)

    _, (rates, causes) = jax.lax.scan(body, control.init(), length=epochs)
    return [float(rate) for rate in rates], [CAUSES[int(cause)] for cause in causes]


def test_an_oversized_rate_goes_down_to_what_is_allowed():
    # the request is 8 times the allowance: an eighth after its patience of 2, and there it stays (1 is not oversized)
    rates, causes = capped(10, 0.01 / 8, grow=1.0)
    assert causes == ["none", "oversized"] + ["none"] * 8
    assert rates == pytest.approx([0.01] + [0.01 / 8] * 9)


# As the default configuration has it: any start, patience 1 of health and 3 of trouble, tenfold recovery.
FREE = {"minimum": 1e-8, "maximum": 1.0, "grow": 1.05, "recover": 10.0, "recovery_threshold": 0.5}
FREE |= {"stable_patience": 1, "unstable_patience": 3}


def test_a_rate_far_too_small_recovers_to_half_of_what_is_allowed_and_grows_to_all_of_it():
    # of 4e-3: 1e-6, 1e-5, 1e-4, 1e-3 (a quarter), then not tenfold but to the half, and by 1.05 up to 1.05^15 / 2 > 1
    rates, causes = capped(40, 4e-3, initial=1e-6, **FREE)
    assert causes[:4] == ["recover"] * 4
    assert rates[:4] == pytest.approx([1e-5, 1e-4, 1e-3, 2e-3], rel=1e-5)
    assert set(causes[5:19]) == {"grow"}
    assert rates[18] == pytest.approx(2e-3 * 1.05**15, rel=1e-5)  # 1.05^14 / 2 = 0.990 may still grow, 1.039 may not
    assert causes[19:22] == ["none", "none", "oversized"]  # after three epochs; it stays within 1.05 of what is allowed
    assert all(0.99 * 4e-3 < rate < 1.06 * 4e-3 for rate in rates[18:])


def test_a_rate_far_too_large_goes_down_to_what_is_allowed_at_once():
    rates, causes = capped(6, 4e-3, initial=1.0, **FREE)
    assert causes[:3] == ["none", "none", "oversized"]
    assert rates[:3] == pytest.approx([1.0, 1.0, 4e-3], rel=1e-5)
    assert all(4e-3 * (1 - 1e-6) <= rate <= 4e-3 * 1.051 for rate in rates[2:])


@pytest.mark.parametrize("allowed", (1e-5, 3.3e-4, 7e-3, 0.11))
def test_a_rate_just_below_the_threshold_grows_no_slower_than_above_it(allowed):
    # Half of what is allowed, but for rounding: what would bring it there, a factor of 1.0000001, is no growth.
    rates, causes = capped(3, allowed, initial=float(np.nextafter(np.float32(allowed / 2), np.float32(0))), **FREE)
    assert set(causes) <= {"grow", "recover"}
    assert rates[-1] == pytest.approx(allowed / 2 * 1.05**3, rel=1e-5)


def test_no_growth_beyond_what_is_allowed():
    for ratio, cause in ((0.99, "grow"), (1.0, "none")):
        assert drive([{"update_ratio": ratio}] * 3)[2] == ["none", cause, cause]


def test_plateau_is_off_by_default_and_exact_when_on():
    # the first epoch is a best; three epochs without one: the cut comes at the end of the third
    assert "plateau" not in drive([{}] * 30, grow=1.0)[2]
    assert drive([{}] * 7, grow=1.0, plateau_patience=3)[2] == ["none"] * 3 + ["plateau"] + ["none"] * 2 + ["plateau"]
    falling = [{"loss": 0.9**k} for k in range(12)]
    assert "plateau" not in drive(falling, grow=1.0, plateau_patience=3)[2]
    falling = [{"loss": -(1.1**k)} for k in range(12)]
    assert "plateau" not in drive(falling, grow=1.0, plateau_patience=3)[2]


def test_one_cut_per_epoch_and_its_cause_by_priority():
    trouble = {"loss": 9.0, "barrier": True, "information": 0.0, "over_mixing": True, "update_ratio": 2.0}
    changes = {"unstable_patience": 1, "grounding_decay": 0.0}
    order = ["spike", "barrier", "grounding", "over_mixing", "oversized"]
    for expected, signal in zip(order, ("loss", "barrier", "information", "over_mixing", "update_ratio"), strict=True):
        _, rates, causes = drive([{}, trouble], **changes)
        assert causes[-1] == expected
        assert rates[-1] == pytest.approx(0.005)
        trouble = {name: value for name, value in trouble.items() if name != signal}


def test_growth_waits_for_its_patience_after_a_plateau_cut():
    _, _, causes = drive([{}] * 7, plateau_patience=3)
    assert causes == ["none", "grow", "grow", "plateau", "none", "grow", "plateau"]


# Non-finite values.


def test_a_non_finite_step_cuts_once_per_run_and_counts():
    control = governor(**BASE)
    state, causes = control.init(), []
    for finite in (True, False, False, False, True, False):
        state, decision = control.update_step(state, finite)
        causes.append(CAUSES[int(decision.cause)])
    assert causes == ["none", "non_finite", "none", "none", "none", "non_finite"]
    assert float(state.rate) == pytest.approx(0.0025)
    assert (int(state.failures), int(state.failures_total)) == (1, 4)


def test_finite_steps_leave_every_bit_but_the_run():
    control = governor(**BASE)
    before, _, _ = drive([{}] * 3)
    after, _ = control.update_step(before, True)
    assert all(bool(jnp.array_equal(a, b)) for a, b in zip(before, after, strict=True))


def test_non_finite_epochs_cut_by_patience_and_leave_the_averages():
    state, _, causes = drive([{}, {"loss": np.nan}, {"loss": np.inf}])
    assert causes == ["none", "none", "non_finite"]
    assert float(state.loss_ema) == 1.0


FLOAT = st.floats(-10, 10, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38])
EPOCH = st.tuples(FLOAT, FLOAT, FLOAT, FLOAT, st.booleans(), st.booleans(), st.booleans())


@given(epochs=st.lists(EPOCH, min_size=20, max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_signals_leave_every_leaf_finite_and_the_rate_in_bounds(epochs):
    states, before, causes = _random_run(np.asarray(epochs, np.float32))
    for name, leaf in states._asdict().items():
        assert np.isfinite(leaf).all(), name
    assert (states.rate >= np.float32(1e-5)).all()
    assert (states.rate <= np.float32(1e-1)).all()
    # An event if and only if the rate moved; upward never while grounding is lost and cuts are left: 5 of patience 2.
    assert ((causes != 0) == (states.rate != before)).all()
    assert (states.rate <= before)[(states.ungrounded > 0) & (states.ungrounded <= 10)].all()


@jax.jit
def _random_run(epochs):
    """States after each epoch (one step and one decision), the rates before the decision, the causes."""
    control = governor(**BASE, plateau_patience=4)

    def body(state, row):
        over_mixing, barrier, finite = row[4:] > 0.5
        signals = dict(zip(("loss", "information", "grounding_target", "update_ratio"), row[:4], strict=True))
        state, _ = control.update_step(state, finite)
        new, decision = control.update_epoch(state, **signals, over_mixing=over_mixing, barrier=barrier)
        return new, (new, state.rate, decision.cause)

    return jax.lax.scan(body, control.init(), epochs)[1]


# Reduction, purity.


def test_factors_of_one_are_a_constant_rate_bit_for_bit():
    """Adam under this governor ends where Adam at a constant rate ends, whatever the signals say."""
    control = governor(**{**BASE, "grow": 1.0, "shrink": 1.0, "initial": 3e-3, "recovery_threshold": 1.0})
    adam = optax.scale_by_adam()

    def train(governed):
        x, rate = jnp.asarray([1.0, -2.0]), jnp.float32(3e-3)
        memory, state = adam.init(x), control.init()
        for step in range(8):
            direction, memory = adam.update(2 * x, memory)
            x = x - (state.rate if governed else rate) * direction
            state, _ = control.update_step(state, step != 3)
            state, _ = control.update_epoch(state, loss=float(step) ** 2, information=0.0, grounding_target=1.0)
        return x, state

    x, state = train(True)
    assert np.asarray(x).tobytes() == np.asarray(train(False)[0]).tobytes()
    assert (int(state.changes), CAUSES[int(state.cause)]) == (0, "none")


def test_structure_types_donation_and_one_trace():
    control = governor(**BASE)
    traces = []

    def update(state, loss):
        traces.append(1)
        state, step = control.update_step(state, jnp.isfinite(loss))
        state, epoch = control.update_epoch(state, loss=loss)
        return state, (step, epoch)

    update = jax.jit(update, donate_argnums=0)
    state = control.init()
    types = [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in state]
    assert all(shape == () and not weak for shape, _, weak in types)
    assert {dtype.name for _, dtype, _ in types} == {"float32", "int32", "bool"}
    for loss in (1.0, np.nan, 2.0):
        state, decisions = update(state, jnp.float32(loss))
        assert isinstance(state, GovernorState)
        assert [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in state] == types
        names = [[leaf.dtype.name for leaf in decision] for decision in decisions]
        assert names == [["int32", "float32", "bool", "bool", "bool"]] * 2
    assert len(traces) == 1


def test_vmap_over_runs_equals_each_run():
    control = governor(**BASE)
    losses = jnp.asarray([[1.0, 2.0, 2.0], [1.0, 0.9, 0.8], [1.0, np.nan, np.nan]], jnp.float32)

    def body(state, loss):
        return control.update_epoch(state, loss=loss)[0], None

    def run(row):
        return jax.lax.scan(body, control.init(), row)[0]

    together = jax.vmap(run)(losses)
    np.testing.assert_allclose(together.rate, [0.005, 0.011 * 1.1, 0.005], rtol=1e-6)
    for k in range(3):
        for one, all_ in zip(run(losses[k]), together, strict=True):
            np.testing.assert_allclose(one, all_[k], rtol=1e-6)


def test_vmap_over_its_numbers_equals_each_governor():
    def run(initial, maximum, shrink):
        control = governor(**{**BASE, "initial": initial, "maximum": maximum, "shrink": shrink})

        def body(state, loss):
            return control.update_epoch(state, loss=loss)[0], None

        return jax.lax.scan(body, control.init(), jnp.float32([1.0, 0.9, 0.8, 2.0, 2.0, 0.7, 0.7]))[0]

    numbers = [(0.01, 0.1, 0.5), (0.02, 0.02, 0.25), (0.001, 0.0011, 0.9)]
    together = jax.jit(jax.vmap(run))(*(jnp.float32(column) for column in zip(*numbers, strict=True)))
    for k, one in enumerate(numbers):
        for mine, all_ in zip(run(*one), together, strict=True):
            np.testing.assert_allclose(mine, all_[k], rtol=1e-6)


def test_it_is_a_pytree_of_its_numbers():
    control = governor(**BASE)
    halved = jax.tree.map(lambda number: number / 2, control)
    assert (halved.initial, halved.maximum) == (BASE["initial"] / 2, BASE["maximum"] / 2)


def test_it_finds_a_stable_rate_on_a_quadratic():
    """Gradient descent on x²/2 diverges for η > 2: from a rate far too small it grows, and is cut in time."""
    control = governor(
        initial=1e-3,
        minimum=1e-6,
        maximum=100.0,
        recovery_threshold=0.0,
        grow=1.2,
        stable_patience=1,
        unstable_patience=1,
        loss_decay=0.0,
    )

    def body(carry, _):
        x, state = carry
        x = x - state.rate * x
        state, decision = control.update_epoch(state, loss=0.5 * x**2)
        return (x, state), (state.rate, decision.cause)

    (x, _), (rates, causes) = jax.lax.scan(body, (jnp.float32(1.0), control.init()), length=60)
    assert abs(float(x)) < 1e-3
    assert 0.3 < float(rates.max()) < 4.0
    assert CAUSES.index("grow") in causes


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"initial": 1.0}, r"initial must lie in .* got 1.0"),
        ({"minimum": 0.0}, "minimum must be > 0, got 0.0"),
        ({"minimum": 1.0}, "minimum must be <= maximum, got 1.0 > 0.1"),
        ({"grow": 0.9}, r"grow must lie in \[1, inf\], got 0.9"),
        ({"recover": 0.9}, r"recover must lie in \[1, inf\], got 0.9"),
        ({"shrink": 1.5}, r"shrink must lie in \[0, 1\], got 1.5"),
        ({"shrink": 0.0}, "shrink must be > 0, got 0.0"),
        ({"grow": np.nan}, "finite, got nan"),
        ({"loss_decay": 1.0}, r"loss_decay must .* got 1.0"),
        ({"stable_patience": 0}, "stable_patience must be > 0, got 0"),
        ({"spike_tolerance": -0.1}, "spike_tolerance must be >= 0, got -0.1"),
        ({"plateau_patience": -1}, "plateau_patience must be >= 0, got -1"),
    ),
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        governor(**{**BASE, **changes})
