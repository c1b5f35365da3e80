"""Command lines of the benchmarks that nobody meant: one line, status 2."""

import importlib

import pytest

from topojax.errors import exit_status


@pytest.mark.parametrize("name", ["external.__main__", "frontends", "gains", "readme", "regret", "surfaces"])
@pytest.mark.parametrize("words", [["--nosuch=1"], ["--out="], ["--workdir", ""]])
def test_what_is_unknown_or_empty_is_one_line(name, words, capsys):
    module = importlib.import_module(f"topojax.benchmarks.{name}")
    assert exit_status(lambda: module.main(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("topojax: error: ")
