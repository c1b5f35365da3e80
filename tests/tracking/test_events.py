"""Events: one dict of metrics after another, in words."""

import pytest

from topojax.atlas.hierarchy import BARRIERS, GROUPS
from topojax.atlas.phases import PHASES
from topojax.control.governor import CAUSES
from topojax.tracking.events import CAPS, events, unsatisfied

# An epoch in which all is well.
QUIET = {"lr_governor": 0.01, "lr_cap": 0.0, "governor/cause": 0, "guard/skipped": 0, "gate/window": 0.0}
QUIET |= {"gate/phase": 1.0, "governor/grounded": 1.0, "window/flows": 1.0, "probe/V_L": 2.0, "probe/V_L_rise": 0.0}
QUIET |= {f"rate/{group}": 1.0 for group in GROUPS} | {f"hierarchy/behind_{name}": 0.0 for name in BARRIERS}
QUIET |= {"revived/codes": 0, "revived/charts": 0, "contract/window/frozen": 0.0}
STUCK = QUIET | {
    "contract/window/unsatisfiable": True,
    "contract/window/signal": 0.3,
    "contract/window/target": 1.15,
    "weight/window": 10.0,
    "contract/jump/unsatisfiable": False,
}


def test_nothing_changed_is_no_event():
    assert events(QUIET, QUIET, {}) == []
    assert events({"lr_governor": 0.01, "gate/phase": 1.0}, QUIET, {"window": "go wider"}) == []


def after(change, *, before=None, advice=None):
    """Events of an epoch with these changes after one of these."""
    return events({**QUIET, **(before or {})}, {**QUIET, **change}, advice or {})


def test_a_change_of_rate_carries_the_cause_of_its_epoch():
    halved = {**QUIET, "lr_governor": 0.005, "governor/cause": float(CAUSES.index("spike"))}
    assert events(QUIET, halved, {}) == [{"event": "rate", "cause": "spike", "from": 0.01, "to": 0.005}]
    assert events(halved, {**halved, "governor/cause": 0.0}, {}) == []


def test_a_step_that_was_not_finite_cuts_at_once():
    cut = {**QUIET, "lr_governor": 0.005, "guard/skipped": 2}
    assert events(QUIET, cut, {}) == [
        {"event": "rate", "cause": "non_finite", "from": 0.01, "to": 0.005},
        {"event": "steps_skipped", "count": 2},
    ]
    both = events(QUIET, {**cut, "governor/cause": CAUSES.index("grow")}, {})
    assert both[0]["cause"] == "grow and non_finite"


def test_a_rate_that_is_unknown_makes_no_event():
    assert events(QUIET, {**QUIET, "lr_governor": None}, {}) == []


# Metric that begins to hold, and the event that says so: once, then not again, and not when it ends.
CONDITIONS = [
    ("window/over_mixing", {"event": "over_mixing"}),
    ("hierarchy/exhausted", {"event": "barrier_given_up"}),
    ("governor/spike", {"event": "spike", "loss": 1.5}),
    ("gate/window", {"event": "gate_opened", "gate": "window"}),
]


@pytest.mark.parametrize("flag, event", CONDITIONS)
def test_a_condition_speaks_once_when_it_begins(flag, event):
    on, off = {flag: 1.0, "signal/task": 1.5}, {flag: 0.0, "signal/task": 1.5}
    assert after(on) == [event]
    assert after(on, before=off) == [event]
    assert after({**on, flag: 2.0}, before=on) == []
    assert after(off, before=on) == []


def test_grounding_is_given_up_only_where_it_is_what_the_cuts_were_spent_on():
    barrier = {"governor/exhausted": 1.0, "governor/grounded": 1.0}  # told as barrier_given_up
    lost = {"governor/exhausted": 1.0, "governor/grounded": 0.0}
    assert after(barrier) == []
    assert {"event": "grounding_given_up"} in after(lost)
    assert {"event": "grounding_given_up"} in after(lost, before=barrier)
    assert after(lost, before=lost) == []


# Metric that stops to hold.
LOSSES = [
    (
        "governor/grounded",
        {"window/I_XK": 0.3, "window/epsilon": 0.9},
        {"event": "grounding_lost", "value": 0.3, "epsilon": 0.9},
    ),
    (
        "window/flows",
        {"window/lambda_in": 0.01, "window/lambda_mix": 0.02},
        {"event": "mixing_outruns_inflow", "lambda_in": 0.01, "lambda_mix": 0.02},
    ),
]


@pytest.mark.parametrize("flag, numbers, event", LOSSES)
def test_a_loss_comes_with_its_numbers_once(flag, numbers, event):
    lost = {flag: 0.0, **numbers}
    assert after(lost) == [event]
    assert after(lost, before=lost) == []
    assert after({}, before=lost) == []
    assert events({"lr_governor": 0.01, "gate/phase": 1.0}, {**QUIET, **lost}, {}) == []  # what never was is not lost


def test_a_phase_is_named():
    names = [after({"gate/phase": float(i + 1)}, before={"gate/phase": float(i)}) for i in range(3)]
    assert names == [
        [{"event": "phase", "from": "warmup", "to": "coupling"}],
        [{"event": "phase", "from": "coupling", "to": "ramp"}],
        [{"event": "phase", "from": "ramp", "to": "all"}],
    ]
    assert PHASES == ("warmup", "coupling", "ramp", "all")


def test_another_bound_on_the_rate_is_named():
    for code, name in enumerate(CAPS[1:], start=1):
        assert after({"lr_cap": float(code)}) == [{"event": "cap", "from": "governor", "to": name}]
        assert after({"lr_cap": float(code)}, before={"lr_cap": float(code)}) == []
    assert events({"lr_governor": 0.01, "gate/phase": 1.0}, {**QUIET, "lr_cap": 1.0}, {}) == []  # the first epoch


def test_a_group_that_is_slowed_names_its_barrier_and_one_that_recovers_is_released():
    behind = {"hierarchy/behind_beta": 1.0, "rate/router": 0.5}
    latched = {"hierarchy/behind_beta": 1.0}
    assert after(behind, before=latched) == [
        {"event": "group_rate", "group": "router", "cause": "beta", "from": 1.0, "to": 0.5}
    ]
    assert after({"rate/router": 0.625}, before={"rate/router": 0.5}) == [
        {"event": "group_rate", "group": "router", "cause": "released", "from": 0.5, "to": 0.625}
    ]
    assert after(behind, before=behind) == []
    # Before the first epoch every share is 1.
    first = {"lr_governor": 0.01, "gate/phase": 1.0, **latched}
    assert [event["group"] for event in events(first, {**QUIET, **behind}, {})] == ["router"]


def test_a_barrier_comes_with_its_groups_and_the_four_scales():
    scales = {"alpha": 0.1, "beta": 0.2, "gamma": 0.3, "delta": 0.4}
    numbers = {f"hierarchy/{name}": value for name, value in scales.items()}
    found = after({"hierarchy/behind_delta": 1.0, "hierarchy/behind_beta": 1.0, **numbers})
    assert found == [
        {"event": "barrier", "scale": "delta", "groups": "encoder, codes", **scales},
        {"event": "barrier", "scale": "beta", "groups": "router", **scales},
    ]
    assert after({"hierarchy/behind_gamma": 1.0}, before={"hierarchy/behind_gamma": 1.0}) == []


def test_lyapunov_speaks_at_a_probe_that_finds_it_ten_per_cent_larger():
    risen = {"probe/V_L": 2.4, "probe/V_L_rise": 0.2}
    assert after(risen) == [{"event": "lyapunov_rose", "by": 0.2, "value": 2.4}]
    assert after(risen, before=risen) == []  # no probe since
    assert after({"probe/V_L": 2.1, "probe/V_L_rise": 0.05}) == []
    assert after({"probe/V_L": 1.0, "probe/V_L_rise": -0.5}) == []
    assert after({"probe/V_L": None, "probe/V_L_rise": 0.0}) == []


def test_revived_codes_and_charts_are_counted():
    assert after({"revived/codes": 3.0}) == [{"event": "revived", "codes": 3, "charts": 0}]
    charts = {"revived/charts": 1.0, "revived/codes": None}
    assert after(charts, before=charts) == [{"event": "revived", "codes": 0, "charts": 1}]  # each time


def test_a_signal_that_could_not_be_used_is_counted_by_the_epoch():
    advice = {"window": "", "jump": ""}
    frozen = {"contract/window/frozen": 3.0}
    assert after(frozen, advice=advice) == [{"event": "signal_not_finite", "name": "window", "count": 3}]
    assert after({"contract/window/frozen": 5.0}, before=frozen, advice=advice)[0]["count"] == 2
    assert after(frozen, before=frozen, advice=advice) == []
    assert after({"contract/window/frozen": None}, advice=advice) == []
    # Of a per-chart contract the log has the mean over its charts: one step of one chart of ten is still an event.
    assert after({"contract/window/frozen": 0.1}, advice=advice)[0]["count"] == 1


def test_an_unsatisfied_contract_comes_with_its_numbers_and_advice():
    expected = {"name": "window", "value": 0.3, "target": 1.15, "weight": 10.0, "advice": "go wider"}
    advice = {"window": "go wider"}
    assert unsatisfied(STUCK, advice) == [expected]
    assert events(QUIET, STUCK, advice) == [{"event": "constraint_unsatisfied", **expected}]
    assert events(STUCK, STUCK, advice) == []


def test_many_at_once_come_in_the_order_of_questions():
    change = {"lr_governor": 0.005, "governor/cause": float(CAUSES.index("barrier")), "guard/skipped": 1, "lr_cap": 2.0}
    change |= {"rate/router": 0.5, "hierarchy/behind_beta": 1.0, "governor/spike": 1.0, "gate/phase": 2.0}
    change |= {"gate/window": 0.05, "window/over_mixing": 1.0, "revived/codes": 1}
    order = ["rate", "steps_skipped", "group_rate", "cap", "spike", "phase", "gate_opened", "barrier", "over_mixing"]
    assert [event["event"] for event in after(change)] == [*order, "revived"]
