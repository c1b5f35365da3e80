"""Events: one dict of metrics after another, in words."""

from topojax.control.governor import CAUSES
from topojax.events import events, unsatisfied

QUIET = {"lr_governor": 0.01, "governor/cause": 0, "guard/skipped": 0, "gate/window": 0.0}
STUCK = {
    "contract/window/unsatisfiable": True,
    "contract/window/signal": 0.3,
    "contract/window/target": 1.15,
    "weight/window": 10.0,
    "contract/jump/unsatisfiable": False,
}


def test_nothing_changed_is_no_event():
    assert events(QUIET, QUIET, {}) == []
    assert events({}, QUIET, {}) == []


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


def test_conditions_speak_once_when_they_begin():
    opened = {**QUIET, "gate/window": 0.05, "window/over_mixing": True, "governor/exhausted": True}
    assert [event["event"] for event in events(QUIET, opened, {})] == [
        "gate_opened",
        "over_mixing",
        "grounding_given_up",
    ]
    assert events(opened, {**opened, "gate/window": 0.1}, {}) == []
    assert [e["event"] for e in events({**opened, "window/over_mixing": False}, opened, {})] == ["over_mixing"]


def test_an_unsatisfied_contract_comes_with_its_numbers_and_advice():
    expected = {"name": "window", "value": 0.3, "target": 1.15, "weight": 10.0, "advice": "go wider"}
    advice = {"window": "go wider"}
    assert unsatisfied(STUCK, advice) == [expected]
    assert events(QUIET, STUCK, advice) == [{"event": "constraint_unsatisfied", **expected}]
    assert events(STUCK, STUCK, advice) == []
