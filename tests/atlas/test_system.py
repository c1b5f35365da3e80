"""Control as a whole: gates and phases, who hears what, and what one part's verdict does to another."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits

from topojax.atlas.coupling import Coupling
from topojax.atlas.hierarchy import Hierarchy
from topojax.atlas.phases import PHASES
from topojax.atlas.system import ESTIMATES, Control
from topojax.atlas.table import Contract
from topojax.control.bank import bank
from topojax.control.ending import ENDINGS, Ending
from topojax.control.gate import gate
from topojax.control.governor import CAUSES, governor

LOG_N = 2.0  # round numbers, not logs
UNITS = {"1": 1.0, "nat": 1.0, "log_charts": LOG_N, "log_codes": 4.0, "log_classes": 3.0}
EPSILON = 1.0
WINDOW = Contract("window", "dual", "I_XK", ">=", 0.5, "log_charts", initial=0.5, rate=0.1)
RATE = {"initial": 0.01, "minimum": 1e-4, "maximum": 1.0, "grow": 1.1, "recovery_threshold": 0.0}
RATE |= {"stable_patience": 1, "unstable_patience": 1, "loss_decay": 0.0, "grounding_decay": 0.0}
# Grounded, not over-mixed, scales in their healthy order, nothing to complain of.
CALM = {"I_XK": 1.2, "H_K": 1.5, "I_XK_usage": 1.2, "H_K_usage": 1.5, "I_XK_probe": 1.2, "H_K_probe": 1.5}
CALM |= {"task": 1.0, "progress": 1.0, "lyapunov": 1.0, "update_ratio": 0.5, "m": 1.0}
CALM |= {"alpha": 1.0, "beta": 0.1, "gamma": 0.1, "delta": 0.01}


def behind(gate_name):
    """A contract behind this gate; at its signal of 1 the error is 1, which moves its weight by 0.1 an epoch."""
    return Contract(gate_name, "dual", "m", "<=", 0.5, initial=0.2, rate=0.1, gate=gate_name)


FULL = Contract("full", "dual", "m", "<=", 0.5, initial=0.2, maximum=0.2)  # at its maximum, and violated


def make(*rows, opens=(2, 2), epsilon=EPSILON, mode="target", ending=None, **fields):
    """Control of a few rows, the window's included unless it comes among them."""
    rows = rows if WINDOW in rows else (WINDOW, *rows)
    window = Coupling(mode=mode, target=epsilon, log_charts=LOG_N, capacity_fraction=0.5, floor_fraction=0.1)
    parts = bank(rows, UNITS, patience=1), governor(**RATE), window, gate(*opens), Hierarchy(decay=0.0)
    return Control(*parts, ending or Ending(limit=1000), **fields)


def typed(signals):
    return {name: jnp.asarray(value, jnp.float32) for name, value in signals.items()}


@functools.partial(jax.jit, static_argnums=0)
def epoch(system, state, signals, probed):
    """One step, and the end of its epoch: the new state, the weights in force, what was said."""
    weights = system.weights(state)
    state, _ = system.update(state, signals, dt=1.0, finite=jnp.bool_(True))
    state, said = system.end_epoch(state, signals, probed=probed)
    return state, weights, said


def drive(system, epochs, *, state=None):
    """Epochs of a step each: the last state, the weights in force in each, what was said at the end of each."""
    state = system.init() if state is None else state
    weights, said = [], []
    for signals in epochs:
        probed = jnp.bool_(signals.get("probed", True))
        signals = {name: value for name, value in signals.items() if name != "probed"}
        state, used, out = epoch(system, state, typed({**CALM, **signals}), probed)
        weights.append({name: float(value) for name, value in used.items() if value.ndim == 0})
        said.append(out)
    return state, weights, said


def column(name, dicts):
    return [float(d[name]) for d in dicts]


def causes(said):
    return [CAUSES[int(out["governor/cause"])] for out in said]


# Gates and phases.


def test_a_run_walks_through_its_gates_and_phases():
    rows = [behind(name) for name in ("none", "warmup", "hold", "window")]
    rows[-1] = dataclasses.replace(rows[-1], name="gated")
    _, weights, said = drive(make(*rows, warmup_epochs=2), [{}] * 6)
    # Two epochs of warm-up. Held and stable in the second and third epoch (the first has none before it): open at the
    # end of the third, with half of the ramp; all of it an epoch later. Weights move in the epochs that are let.
    assert column("none", weights) == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert column("warmup", weights) == pytest.approx([0.0, 0.0, 0.2, 0.3, 0.4, 0.5])
    assert column("hold", weights) == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.3, 0.4])
    assert column("gated", weights) == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.3, 0.4])  # 0.5 · 0.2, then 1 · 0.3
    assert [PHASES[int(out["gate/phase"])] for out in said] == ["warmup", "warmup", "ramp", "all", "all", "all"]


def test_without_warm_up_the_first_phase_is_the_window():
    _, _, said = drive(make(), [{}] * 4)
    assert [PHASES[int(out["gate/phase"])] for out in said] == ["coupling", "coupling", "ramp", "all"]


def test_a_lost_window_holds_its_ramp():
    system = make(opens=(1, 4))
    state, ramps = system.init(), []
    for information in (1.2, 1.2, 0.5, 0.5, 1.2, 1.2):  # the first epoch has none before it
        state, _, _ = drive(system, [{"I_XK": information}], state=state)
        ramps.append(float(state.window.ramp))
    assert ramps == [0.0, 0.25, 0.25, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    "stability, values, opened",
    [
        # relative changes 0.3/1.5 = 0.2, 0.3/1.2 = 0.25, 0, 0; two stable epochs in a row open
        (0.1, (1.2, 1.5, 1.2, 1.2, 1.2), [0, 0, 0, 0, 1]),
        (0.3, (1.2, 1.5, 1.2, 1.2, 1.2), [0, 0, 1, 1, 1]),
        # 0.2 and 0.35/1.85 = 0.19: relative to what it is now
        (0.21, (1.2, 1.5, 1.85), [0, 0, 1]),
    ],
)
def test_the_gate_waits_for_information_that_is_stable(stability, values, opened):
    system, state, seen = make(stability=stability), None, []
    for information in values:
        state, _, _ = drive(system, [{"I_XK": information}], state=state)
        seen.append(int(state.window.opened))
    assert seen == opened


def test_over_mixing_keeps_the_gate_closed():
    # I = 0.15 ≥ ε = 0.1, but H(K) = 1.9 > 0.9 · 2 and I < 0.1 · 2
    system = make(epsilon=0.1, opens=(0, 1))
    state, _, said = drive(system, [{"I_XK": 0.15, "H_K": 1.9}] * 2)
    assert column("window/over_mixing", said) == [1.0, 1.0]
    assert (int(state.window.held), float(state.window.ramp)) == (0, 0.0)
    assert causes(said) == ["grow", "over_mixing"]  # I ≥ ε in the first epoch, of which the second is the loss
    state, _, said = drive(system, [{"I_XK": 0.15, "H_K": 1.5}] * 2)
    assert column("window/over_mixing", said) == [0.0, 0.0]
    assert float(state.window.ramp) == 1.0


# Where decisions read.


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_decisions_read_the_estimate_that_was_asked_for(estimate):
    information, usage = ESTIMATES[estimate]
    system = make(estimate=estimate)
    _, _, said = drive(system, [{}, {information: 0.9, usage: 1.7}])  # all others say 1.2 and 1.5
    assert column("window/I_XK", said) == pytest.approx([1.2, 0.9])
    assert column("window/H_K", said) == pytest.approx([1.5, 1.7])
    assert column("governor/grounded", said) == [1.0, 0.0]
    assert causes(said) == ["grow", "grounding"]
    lost = {name: 0.9 for pair in ESTIMATES.values() for name in pair[:1] if name != information}
    assert column("governor/grounded", drive(system, [lost])[2]) == [1.0]


def test_an_epoch_is_the_mean_of_its_finite_steps():
    system = make()
    state = system.init()
    for information, finite in ((1.0, True), (9.0, False), (np.nan, False), (1.4, True)):
        state, _ = system.update(state, typed({**CALM, "I_XK": information}), dt=0.25, finite=jnp.bool_(finite))
    state, said = system.end_epoch(state, typed(CALM), probed=jnp.bool_(True))
    assert float(said["window/I_XK"]) == pytest.approx(1.2)
    assert float(said["contract/*/signal"][0]) == pytest.approx(1.2)
    assert int(state.steps) == 0
    assert not any(np.any(total) for total in state.sums.values())


@pytest.mark.parametrize("signal, other", [("task", "lyapunov"), ("lyapunov", "task")])
def test_the_rate_listens_to_one_signal(signal, other):
    system = make(rate_signal=signal)
    _, _, said = drive(system, [{}, {other: 9.0}, {signal: 2.0}])
    assert causes(said) == ["grow", "grow", "spike"]
    assert column("governor/spike", said) == [0.0, 0.0, 1.0]


def test_a_step_that_is_not_finite_reaches_the_governor_alone():
    system = make(behind("none"), behind("hold"))
    state, _, _ = drive(system, [{}] * 2)
    broken = typed(CALM | {"m": 7.0, "I_XK": 0.1, "H_K_usage": 1.9})
    after, _ = system.update(state, broken, dt=1.0, finite=jnp.bool_(False))
    for name in ("bank", "coupling", "window", "hierarchy", "ending", "sums", "steps"):
        assert bits(getattr(after, name)) == bits(getattr(state, name)), name
    assert int(after.governor.failures) == 1
    assert float(after.governor.rate) == pytest.approx(0.5 * float(state.governor.rate))


def test_an_epoch_without_a_finite_step_measures_nothing():
    system = make(behind("none"))
    state, _ = system.update(system.init(), typed(dict.fromkeys(CALM, np.nan)), dt=1.0, finite=jnp.bool_(False))
    state, said = system.end_epoch(state, typed(dict.fromkeys(CALM, np.nan)), probed=jnp.bool_(True))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert np.isnan(said["window/I_XK"])
    assert np.isnan(said["contract/*/error"]).all()
    assert not any(np.any(said[name]) for name in ("window/over_mixing", "window/flows", "contract/*/unsatisfiable"))
    assert int(state.window.held) == 0
    assert float(system.targets(state)["window"]) == EPSILON


# What one part does to another.


@pytest.mark.parametrize("holds, rates", [(True, [0.01, 0.01, 0.011]), (False, [0.011, 0.0121, 0.01331])])
def test_a_contract_that_cannot_be_satisfied_holds_the_rate_where_asked(holds, rates):
    system = make(FULL, hold_rate_on_saturation=holds)
    state, seen = None, []
    for m in (1.0, 1.0, 0.4):
        state, _, said = drive(system, [{"m": m}], state=state)
        seen.append(float(state.governor.rate))
    assert seen == pytest.approx(rates)
    assert not said[0]["contract/*/unsatisfiable"].any()


def test_a_rate_that_is_held_is_still_cut():
    system = make(FULL, hold_rate_on_saturation=True)
    _, _, said = drive(system, [{}, {"task": 2.0}])
    assert causes(said) == ["none", "spike"]


@pytest.mark.parametrize(
    "rows, signals, settles",
    [
        ([], {}, True),
        ([], {"update_ratio": 0.0}, True),  # there is no cap
        ([], {"update_ratio": 0.2}, False),  # the rate is far below what the caps allow
        ([], {"H_K": 1.9, "I_XK": 0.15}, False),
        ([behind("none")], {}, False),  # violated, and its weight still rises
        ([behind("none")], {"m": 0.4}, True),
        ([FULL], {}, True),  # violated, and there is no more to be done
    ],
)
def test_a_run_settles_once_rate_and_contracts_have(rows, signals, settles):
    system = make(*rows, ending=Ending(limit=1000))
    _, _, said = drive(system, [signals] * 14)
    expected = ["going"] * 11 + ["settled"] * 3 if settles else ["going"] * 14
    assert [ENDINGS[int(out["ending/cause"])] for out in said] == expected
    assert column("ending/last", said)[-1] == (18.0 if settles else 0.0)


def test_where_the_end_has_begun_the_governor_does_not_grow_but_cuts():
    state, _, said = drive(make(ending=Ending(limit=1000)), [{}] * 14)
    assert causes(said) == ["grow"] * 12 + ["none"] * 2  # settled at the end of the twelfth
    _, _, said = drive(make(ending=Ending(limit=1000)), [{"task": 2.0}], state=state)
    assert causes(said) == ["spike"]


def test_capacity_mode_sets_the_target_of_the_window_row():
    system = make(mode="capacity")
    state = system.init()
    # Before anything is measured ε = 0.1 · 2; then half of the capacity, which is the one value there is: 0.5 · 1.2.
    assert float(system.targets(state)["window"]) == pytest.approx(0.2)
    state, _, said = drive(system, [{}], state=state)
    assert float(system.targets(state)["window"]) == pytest.approx(0.6)
    assert column("window/epsilon", said) == pytest.approx([0.6])
    assert column("window/ceiling", said) == pytest.approx([1.4])
    assert float(said[0]["contract/*/target"][0]) == pytest.approx(0.2)  # what this epoch was held to
    _, _, said = drive(system, [{"I_XK": 0.3}], state=state)
    assert float(said[0]["contract/*/error"][0]) == pytest.approx(0.5)  # −(0.3 − 0.6)/0.6
    assert causes(said) == ["grounding"]


def test_target_mode_leaves_it_and_a_run_without_the_row_has_its_window_too():
    system = make()
    assert float(system.targets(drive(system, [{"I_XK": 1.9}])[0])["window"]) == EPSILON
    parts = bank([], UNITS), governor(**RATE), Coupling(mode="target", target=1.0, log_charts=LOG_N)
    bare = Control(*parts, gate(1, 1), Hierarchy(), Ending(limit=1000))
    state, weights, said = drive(bare, [{}, {"I_XK": 0.5}])
    assert weights == [{}, {}]
    assert said[0]["contract/*/error"].shape == (0,)
    assert column("governor/grounded", said) == [1.0, 0.0]
    assert float(bare.violation(state, typed(CALM))) == 0.0


def test_violation_is_half_the_sum_of_squared_violations():
    kept = Contract("kept", "dual", "m", "<=", 2.0)
    missing = Contract("missing", "dual", "nowhere", "<=", 2.0)
    system = make(behind("hold"), kept, missing)
    # window: −(0.5 − 1)/1 = 0.5; hold: (1 − 0.5)/0.5 = 1; kept: −0.5: ½ (0.25 + 1)
    value = system.violation(system.init(), typed(CALM | {"I_XK": 0.5}))
    assert float(value) == pytest.approx(0.625)


def test_a_barrier_cuts_its_group_until_its_cuts_are_used_up_and_then_the_rate():
    system = make()
    crossed = {"beta": 2.0}
    old = {**crossed, "probed": False}
    state, _, said = drive(system, [crossed, old, *[crossed] * 4, crossed, old])
    assert [cause == "barrier" for cause in causes(said)] == [False] * 6 + [True, False]
    assert column("rate/router", said) == [0.5, 0.5, 0.25, 0.125, *[0.0625] * 4]
    assert column("rate/encoder", said) == [1.0] * 8
    assert column("hierarchy/behind_beta", said) == [1.0] * 8
    assert column("hierarchy/beta", said) == [2.0] * 8
    assert int(state.governor.frozen) == 1


def test_of_a_per_chart_contract_the_log_keeps_the_mean_and_any_chart():
    each = Contract("each", "dual", "v", "<=", 1.0, initial=0.2, maximum=0.2, rate=0.1, shape=(3,))
    system = make(each, FULL)
    _, _, said = drive(system, [{"v": [0.5, 0.4, 3.0]}])
    # errors −0.5, −0.6, 2; of the three weights only the last stays at its maximum
    np.testing.assert_allclose(said[0]["contract/*/signal"], [1.2, 1.3, 1.0], rtol=1e-5)
    np.testing.assert_allclose(said[0]["contract/*/error"], [-0.2, 0.3, 1.0], rtol=1e-5)
    np.testing.assert_array_equal(said[0]["contract/*/unsatisfiable"], [False, True, True])
    # A chart that is not measured takes its row along, and no other.
    _, _, said = drive(system, [{"v": [0.5, np.nan, 3.0]}])
    np.testing.assert_allclose(said[0]["contract/*/error"], [-0.2, np.nan, 1.0], rtol=1e-5)
    np.testing.assert_allclose(said[0]["contract/*/frozen"], [0, 1 / 3, 0], rtol=1e-5)


def test_structure_and_strong_types_are_kept():
    system = make(*(behind(name) for name in ("none", "warmup", "hold")), FULL)
    state = system.init()
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    after, _, _ = drive(system, [{}, {"I_XK": 0.1}])
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), after) == kinds
