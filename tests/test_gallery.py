"""The programs of the gallery run as they are printed, and their contracts hold at the end."""

import os
import pathlib
import subprocess
import sys

import pytest

PROGRAMS = sorted((pathlib.Path(__file__).parents[1] / "docs" / "gallery").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_its_contracts_hold(program, tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    head, *lines = ended.stdout.splitlines()
    start = head.index("satisfied")
    verdicts = [line[start:].split() for line in lines[:-1]]
    assert verdicts == [["yes", "no"]] * len(verdicts) != [], ended.stdout  # satisfied, and not saturated


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_it_is_short_enough_to_read(program):
    assert len(program.read_text().splitlines()) <= 60
