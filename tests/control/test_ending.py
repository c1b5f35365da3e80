"""The end of a run: averages and gains by hand, where a run settles, how its rate falls, and what starts it again."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.control.ending import ENDINGS, HORIZON, SETTLED, Ending

DOUBLINGS = math.log2(1.25)  # between ¾ t and 15/16 t


def drive(ending, losses, state=None, **options):
    """The state after each epoch."""
    state, states = ending.init() if state is None else state, []
    update = jax.jit(functools.partial(ending.update, **options))
    for loss in losses:
        state = update(state, jnp.float32(loss))
        states.append(state)
    return states


def began(states):
    """The first epoch at whose end the decline had begun."""
    return next((int(state.epoch) for state in states if state.began > 0), None)


def power_law(epochs, level=0.0):
    return [level + 1 / n for n in range(1, epochs + 1)]


def gain_of_power_law(n):
    """By hand, of the losses 1/s: the weights of S are s(s + 1), those of F s(s + 1)…(s + 13)."""
    slow = Fraction(3, 2) * Fraction(n + 3, (n + 1) * (n + 2))  # Σ (s + 1) over n (n + 1)(n + 2)/3
    product = math.prod(range(n + 1, n + 15))  # Σ (s + 1)…(s + 13) = (product − 14!)/14, over n · product / 15
    fast = Fraction(15, 14 * n) * (1 - Fraction(math.factorial(14), product))
    return float(slow - fast) / DOUBLINGS


def test_averages_and_gain_by_hand():
    states = drive(Ending(limit=100), [1.0, 3.0, 2.0])
    # shares 3/(n + 2): 1, 3/4, 3/5: 1, 1 + ¾·2 = 2.5, 2.5 − 3/5·0.5 = 2.2
    assert [float(state.slow) for state in states] == pytest.approx([1.0, 2.5, 2.2])
    # shares 15/(n + 14): 1, 15/16, 15/17: 1, 2.875, 2.875 − 15/17·0.875
    assert [float(state.fast) for state in states] == pytest.approx([1.0, 2.875, 2.875 - 15 / 17 * 0.875])
    gains = [float(Ending(limit=100).gain(state)) for state in states]
    assert np.isnan(gains[:2]).all()
    assert gains[2] == pytest.approx((2.2 - (2.875 - 15 / 17 * 0.875)) / DOUBLINGS, rel=1e-5)


def test_the_gain_of_a_power_law_is_the_one_by_hand():
    ending = Ending(limit=10_000)
    for n, state in enumerate(drive(ending, power_law(60)), start=1):
        if n > 2:
            assert float(ending.gain(state)) == pytest.approx(gain_of_power_law(n), rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("level", (0.0, -3.0, 40.0))
@pytest.mark.parametrize("least_gain", (0.1, 0.05, 0.02))
def test_a_power_law_settles(least_gain, level):
    small = next(n for n in range(3, 1000) if gain_of_power_law(n) < least_gain)
    expected = max(small, 10) + 2  # three epochs in a row, the tenth the first that counts
    states = drive(Ending(limit=10_000, least_gain=least_gain), power_law(expected + 5, level))
    assert abs(began(states) - expected) <= (1 if level else 0)  # rounding of 40
    if not level:
        assert int(states[-1].last) == expected + math.ceil(expected / 2)
    assert ENDINGS[int(states[-1].cause)] == "settled"


def test_what_still_gains_goes_on_and_what_rises_settles():
    falling = [-math.log2(n) for n in range(1, 200)]  # one a doubling, for ever
    assert began(drive(Ending(limit=10_000), falling)) is None
    assert began(drive(Ending(limit=10_000), [1.0] * 20)) == 12
    assert began(drive(Ending(limit=10_000), range(20))) == 12


def test_a_little_gain_is_no_evidence_before_the_rate_has_found_its_level():
    ending = Ending(limit=10_000)
    states = drive(ending, [1.0] * 30, ready=jnp.bool_(False))
    assert began(states) is None
    assert began(drive(ending, [1.0] * 5, states[-1])) == 33


def test_the_length_of_a_run_is_its_end_in_time():
    # 20 · 1.5 = 30: half of the epochs before it
    states = drive(Ending(limit=30, settles=False), [1.0] * 30)
    assert began(states) == 20
    assert [(int(s.cause), int(s.last)) for s in states[18:21]] == [(0, 0), (HORIZON, 30), (HORIZON, 30)]
    assert [bool(Ending(limit=30).over(s)) for s in states[28:]] == [False, True]
    assert began(drive(Ending(limit=30, share=2.0, settles=False), [1.0] * 12)) == 10
    assert began(drive(Ending(limit=1), [1.0])) == 1


def test_the_rate_falls_linearly_to_the_floor():
    ending = Ending(limit=30, settles=False)
    states = drive(ending, [1.0] * 25)
    assert float(ending.factor(states[18], 19.5)) == 1.0
    # from 20 to 30: 1 − 0.99 · (t − 20)/10
    for epochs, left in ((20.0, 1.0), (22.5, 0.7525), (25.0, 0.505), (30.0, 0.01), (31.0, 0.01)):
        assert float(ending.factor(states[24], epochs)) == pytest.approx(left, abs=1e-6)
    assert float(Ending(limit=30, floor=0.5).factor(states[24], 25.0)) == pytest.approx(0.75)
    assert float(Ending(limit=30, floor=1.0).factor(states[24], 30.0)) == 1.0


@pytest.mark.parametrize("passed", (25, 30))
def test_another_limit_starts_again(passed):
    states = drive(Ending(limit=30, settles=False), [1.0] * passed)
    longer = Ending(limit=60, settles=False)
    states = drive(longer, [1.0] * 30, states[-1])
    assert (int(states[0].began), int(states[0].cause), int(states[0].last)) == (0, 0, 0)
    assert float(longer.factor(states[0], passed + 1.5)) == 1.0
    assert began(states) == 40  # 40 · 1.5 = 60
    assert int(states[-1].last) == 60


def test_the_same_limit_does_not():
    ending = Ending(limit=30, settles=False)
    whole = drive(ending, [1.0] * 28)
    resumed = drive(Ending(limit=30, settles=False), [1.0] * 3, whole[24])
    for a, b in zip(whole[-1], resumed[-1], strict=True):
        assert float(a) == float(b)


def test_a_settled_run_goes_on_where_it_is_told_its_length():
    states = drive(Ending(limit=100), [1.0] * 15)
    assert int(states[-1].cause) == SETTLED
    more = drive(Ending(limit=100, settles=False), [1.0] * 55, states[-1])
    assert int(more[0].began) == 0
    assert began(more) == 67  # 67 · 1.5 = 100.5
    # Another limit is no reason to go on: a doubling would gain too little.
    same = drive(Ending(limit=200), [1.0] * 3, states[-1])
    assert (int(same[-1].cause), int(same[-1].last)) == (SETTLED, 18)


@pytest.mark.parametrize("nothing", (np.nan, np.inf, -np.inf))
def test_losses_that_are_not_finite_say_nothing(nothing):
    ending = Ending(limit=10_000)
    states = drive(ending, [*power_law(10), nothing, nothing])
    for name in ("seen", "slow", "fast", "idle", "began"):
        assert getattr(states[-1], name) == getattr(states[9], name), name
    assert int(states[-1].epoch) == 12
    # One epoch of too little, and then nothing measured: not yet three in a row.
    states = drive(ending, [1.0] * 10 + [nothing] * 20)
    assert (int(states[-1].idle), began(states)) == (1, None)
    assert began(drive(ending, [1.0, 1.0], states[-1])) == 32
    assert all(np.isfinite(leaf).all() for state in drive(ending, [nothing] * 12) for leaf in state)


def test_vmap_over_limits_equals_each():
    losses = jnp.float32(power_law(70))

    def run(limit, least_gain):
        ending = Ending(limit=limit, least_gain=least_gain)
        state, _ = jax.lax.scan(lambda state, loss: (ending.update(state, loss), None), ending.init(), losses)
        return state, ending.factor(state, 65.0)

    numbers = [(30, 0.0), (80, 0.0), (90, 0.0), (10_000, 0.02)]
    limits, gains = (jnp.asarray(column) for column in zip(*numbers, strict=True))
    together, factors = jax.jit(jax.vmap(run))(limits, gains)
    assert together.began.tolist() == [20, 54, 60, 69]
    assert together.last.tolist() == [30, 80, 90, 104]
    assert factors.tolist() == pytest.approx([0.01, 1 - 0.99 * 11 / 26, 1 - 0.99 * 5 / 30, 1.0], abs=1e-6)
    for k, one in enumerate(numbers):
        alone, factor = run(*one)
        assert float(factor) == pytest.approx(float(factors[k]))
        for a, b in zip(alone, together, strict=True):
            assert float(a) == pytest.approx(float(b[k]), rel=1e-6)


def test_structure_and_strong_types_are_kept():
    ending = Ending(limit=30)
    state = ending.init()
    kinds = [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in state]
    assert not any(weak for *_, weak in kinds)
    after = drive(ending, [1.0] * 25)[-1]
    assert [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in after] == kinds


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"limit": 0}, "limit must be > 0, got 0"),
        ({"share": 0.0}, "share must be > 0, got 0.0"),
        ({"floor": 0.0}, "floor must be > 0, got 0.0"),
        ({"patience": 0}, "patience must be > 0, got 0"),
        ({"least_gain": -0.1}, "least_gain must be >= 0, got -0.1"),
        ({"least_gain": np.nan}, "finite, got nan"),
    ),
)
def test_bad_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Ending(**{"limit": 10, **changes}).check()
