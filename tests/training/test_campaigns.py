"""The campaigns of tests/faults, a few cases of each: they run, count, go on, and find nothing broken."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.campaign  # processes by the dozen


def campaign(name, count, state):
    command = [sys.executable, "-m", "tests.faults", name, f"--count={count}", f"--state={state}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=3600, env=environment)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return json.loads((state / name / "counts.json").read_text())


@pytest.mark.parametrize(
    "name, count, counted",
    [
        ("kills", 20, "kills"),
        ("members", 10, "kills"),
        ("nonfinite", 250, "injected"),
        ("fuzz", 60, "lines"),
        ("torn", 20_000, "reads"),
        ("long", 300, "epochs"),
    ],
)
def test_a_short_one_finds_nothing_broken(name, count, counted, tmp_path):
    found = campaign(name, count, tmp_path)
    assert not found.get("broken")
    assert found[counted] >= (count if name != "fuzz" else count * 5 // 6)


def test_one_that_is_called_again_goes_on(tmp_path):
    first = campaign("torn", 10_000, tmp_path)
    again = campaign("torn", 20_000, tmp_path)
    assert first["reads"] < again["reads"] < 3 * first["reads"]
