"""The audit of a run: measured values against promises."""

import json
import subprocess
import sys

import pytest

from topojax.config.defaults import default_config
from topojax.scoring.audit import audit, last_fifth, ripple

ROW = {
    "gate/window": 0.0,
    "weight/window": 0.2,
    "contract/window/signal": 0.9,
    "contract/window/target": 0.921,
    "contract/window/error": 0.0228,  # (0.921 − 0.9) / 0.921: within 5 %
    "contract/window/unsatisfiable": 0.0,
    "weight/consistency": 0.3,
    "contract/consistency/signal": 0.15,
    "contract/consistency/target": 0.1,
    "contract/consistency/error": 0.5,  # (0.15 − 0.1) / 0.1
    "contract/consistency/unsatisfiable": 1.0,
    "contract/jump/signal": None,
    "contract/jump/error": None,
}


def test_each_contract_is_satisfied_saturated_or_not_measured():
    table = {line["contract"]: line for line in audit(default_config(), ROW)}
    window, consistency, jump = (table[name] for name in ("window", "consistency", "jump"))
    assert window["satisfied"] is True
    assert window["advice"] == ""
    assert window["relation"] == ">="
    assert consistency["satisfied"] is False
    assert consistency["saturated"] is True
    assert "hidden_dim" in consistency["advice"]
    assert jump["satisfied"] is None
    assert jump["gated"] is True
    assert "vicreg_inv" not in table


def test_an_inequality_is_missed_on_one_side_only():
    config = default_config()
    for error, satisfied in ((0.04, True), (-0.04, True), (0.2, False), (-0.2, True)):
        row = {"contract/entropy/error": error}
        assert {line["contract"]: line for line in audit(config, row)}["entropy"]["satisfied"] is satisfied


def test_an_equality_is_missed_on_both_sides():
    config = default_config()
    config.contracts.commitment.mechanism = "track"
    for error, satisfied in ((0.04, True), (-0.04, True), (0.2, False), (-0.2, False)):
        line = audit(config, {"contract/commitment/error": error})[0]
        assert (line["contract"], line["relation"], line["satisfied"]) == ("commitment", "=", satisfied)


def test_a_weight_that_does_not_move_is_a_constant():
    config = default_config()
    config.contracts.entropy.adaptive = False
    mechanisms = {line["contract"]: line["mechanism"] for line in audit(config, {})}
    expected = {"commitment": "track", "entropy": "constant", "window": "dual", "diversity": "pid", "jump": "track"}
    assert {name: mechanisms[name] for name in expected} == expected


def test_a_precision_takes_the_place_of_the_route_weight():
    config = default_config()
    config.precision.enabled = True
    names = {line["contract"] for line in audit(config, {})}
    assert "route" not in names
    assert "commitment" in names  # β stays within vq


@pytest.mark.parametrize(
    "weights, initial, expected",
    [
        # mean 2, slope 2/5; about it −0.4, 1.2, −1.2, 0.4: RMS √0.8 = 0.894427
        ([1.0, 3.0, 1.0, 3.0], 0.1, 0.447214),
        ([1.0, 3.0, 1.0, 3.0], 10.0, 0.089443),  # of its start, below which it has fallen
        ([1.0, 3.0, 1.0, 3.0], -10.0, 0.089443),
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.1, 0.0),  # a trend is no ripple
        ([0.0, 0.0, 0.0, 0.0], 0.0, 0.0),
        ([1.0, 3.0, 1.0], 0.1, None),
        ([1.0, None, 1.0, 3.0], 0.1, None),
    ],
)
def test_ripple_by_hand(weights, initial, expected):
    assert ripple(weights, initial) == expected


def test_the_audit_has_the_ripple_of_each_weight():
    history = [{"weight/window": weight, "weight/jump": 1.0} for weight in (1.0, 3.0, 1.0, 3.0)]
    ripples = {line["contract"]: line["ripple"] for line in audit(default_config(), {}, history)}
    assert (ripples["window"], ripples["jump"], ripples["entropy"]) == (0.447214, 0.0, None)


def test_ripple_is_of_the_last_fifth_of_the_run_so_far(tmp_path):
    assert last_fifth(tmp_path, 10) == []
    rows = [{"epoch": epoch} for epoch in range(1, 16)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["epoch"] for row in last_fifth(tmp_path, 10)] == [9, 10]
    assert [row["epoch"] for row in last_fifth(tmp_path, 15)] == [13, 14, 15]


def test_without_labels_their_contracts_are_not_there():
    config = default_config()
    config.supervised.enabled = False
    assert not [line for line in audit(config, {}) if line["contract"].startswith(("sup_", "route"))]


@pytest.mark.parametrize("arguments", [[], ["--step=3"]])
def test_the_command_refuses_an_empty_workdir_in_one_line(tmp_path, arguments):
    command = [sys.executable, "-m", "topojax", "contracts", f"--workdir={tmp_path}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("topojax: error: ")
    assert done.stderr.count("\n") == 1
