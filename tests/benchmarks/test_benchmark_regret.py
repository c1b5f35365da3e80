"""Regrets by hand, and the tables of a page."""

import json
import pathlib

import pytest

from topojax.benchmarks import regret
from topojax.benchmarks.comparison_report import COLUMNS
from topojax.errors import UserError

PAGE = """# What it gains

<!-- gains:regret -->

old
<!-- /gains -->

between

<!-- gains:sets -->

<!-- /gains -->
<!-- gains:each -->

old
<!-- /gains -->
after
"""


def arm(ami, mse, **setting):
    measures = {measure: {"mean": 0.5, "sd": None, "values": [0.5]} for _, measure, _ in COLUMNS}
    measures |= {"ami": {"mean": ami, "sd": None, "values": [ami]}, "mse": {"mean": mse, "sd": None, "values": [mse]}}
    return {"setting": setting, **measures}


def record(folder, control, constants, sweep=None):
    folder.mkdir()
    arms = {"control": arm(*control, rate=None), "constants": arm(*constants, rate=0.004, gates=False)}
    found = {"name": "n", "data": "d", "epochs": 3, "seeds": 1, "labels_used": True, "arms": arms}
    if sweep:
        found["sweep"] = sweep
    (folder / "control.json").write_text(json.dumps(found))
    return folder


def test_regret_is_what_an_arm_loses_to_the_one_that_was_tuned(tmp_path, capsys):
    swept = {"all": {"worst": 0.5, "mean": 0.6, "best": 0.7, "mse_best": 0.01, "mse_worst": 0.02}}
    one = record(tmp_path / "one", (0.9, 0.02), (0.8, 0.025), {"control": swept})
    two = record(tmp_path / "two", (0.5, 0.03), (0.7, 0.02))
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert regret.main([str(one), str(two), f"--out={tmp_path / 'out'}", f"--page={page}"]) == 0
    said = capsys.readouterr().out
    assert "| control | -0.100 / -20.0 % | +0.200 / +50.0 % | +0.050 / +15.0 % | 0.50 |" in said
    assert "| one | train the charts | 3 | 1 | rate 0.004, no gates |" in said
    assert "Wrong guesses, control: AMI 0.500 to 0.700, MSE 0.01 to 0.02." in said
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("after\n")
    assert "\nbetween\n" in text
    tables = [block.split("<!-- /gains -->")[0].split("-->", 1)[1].strip() for block in text.split("<!-- gains:")[1:]]
    assert said.strip() == "\n\n".join(tables)
    assert json.loads((tmp_path / "out.json").read_text())["regret"]["two"]["control"]["ami"] == pytest.approx(0.2)


def test_a_page_or_a_folder_that_is_not_there_is_told_before_anything_is_printed(tmp_path, capsys):
    one = record(tmp_path / "one", (0.9, 0.02), (0.8, 0.025))
    with pytest.raises(UserError, match=r"--page=nosuch\.md: there is no such page"):
        regret.main([str(one), f"--out={tmp_path / 'out'}", "--page=nosuch.md"])
    with pytest.raises(UserError, match=r"the folder .*none does not exist"):
        regret.main([str(one), f"--out={tmp_path / 'none' / 'out'}"])
    assert capsys.readouterr().out == ""


def test_the_page_is_what_the_records_say(tmp_path):
    root = pathlib.Path(__file__).parents[2] / "docs"
    page = tmp_path / "page.md"
    page.write_text((root / "what-control-gains.md").read_text(encoding="utf-8"), encoding="utf-8")
    folders = [str(path.parent) for path in sorted((root / "control").glob("*/control.json"))]
    assert regret.main([*folders, f"--out={tmp_path / 'out'}", f"--page={page}"]) == 0
    assert page.read_text(encoding="utf-8") == (root / "what-control-gains.md").read_text(encoding="utf-8")


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no results of topojax\.benchmarks\.control"):
        regret.main([str(tmp_path)])
