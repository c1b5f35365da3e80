"""Where a run ends, and what its result says of it."""

import types

import pytest

from topojax.config.changes import changes, may_change
from topojax.config.defaults import default_config
from topojax.control.ending import HORIZON, SETTLED
from topojax.training.outcome import ends_at
from topojax.training.result import ended


@pytest.mark.parametrize(
    "until, row, last",
    [
        ("settled", {}, 200),
        ("settled", {"ending/cause": 0, "ending/last": 0}, 200),
        ("settled", {"ending/cause": SETTLED, "ending/last": 75}, 75),
        ("settled", {"ending/cause": SETTLED, "ending/last": 300}, 200),
        ("settled", {"ending/cause": HORIZON, "ending/last": 150}, 200),  # of a limit that was another
        ("epochs", {"ending/cause": SETTLED, "ending/last": 75}, 200),
    ],
)
def test_a_run_ends_where_it_settles_or_at_its_limit(until, row, last):
    config = default_config()
    config.train.until = until
    assert ends_at(config, row) == last


@pytest.mark.parametrize(
    "epoch, row, why",
    [
        (200, {"ending/cause": SETTLED}, "horizon"),
        (75, {"ending/cause": SETTLED}, "settled"),
        (75, {"ending/cause": HORIZON}, "stopped"),
        (75, {}, "stopped"),
    ],
)
def test_the_result_says_why(epoch, row, why):
    run = types.SimpleNamespace(epoch=epoch, config=default_config())
    assert ended(run, row) == why


def test_a_settled_run_may_be_told_to_go_on():
    config, more = default_config(), default_config()
    more.train.until = "epochs"
    assert changes(config, more) == []
    assert all(may_change(f"ending.{name}") for name in config.ending)
