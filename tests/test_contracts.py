"""The audit of a run: measured values against promises."""

import subprocess
import sys

import pytest

from topojax.config import default_config
from topojax.contracts import audit

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
    assert "orbit" not in table


def test_an_inequality_is_missed_on_one_side_only():
    config = default_config()
    for error, satisfied in ((0.04, True), (-0.04, True), (0.2, False), (-0.2, True)):
        row = {"contract/entropy/error": error}
        assert {line["contract"]: line for line in audit(config, row)}["entropy"]["satisfied"] is satisfied


def test_without_labels_their_contracts_are_not_there():
    config = default_config()
    config.supervised.enabled = False
    assert not [line for line in audit(config, {}) if line["contract"].startswith("sup_")]


@pytest.mark.parametrize("arguments", [[], ["--step=3"]])
def test_the_command_refuses_an_empty_workdir_in_one_line(tmp_path, arguments):
    command = [sys.executable, "-m", "topojax.contracts", f"--workdir={tmp_path}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("topojax: error: ")
    assert done.stderr.count("\n") == 1
