"""What the documentation names exists: fields of the configuration, tests, and code that runs."""

import pathlib
import re
import subprocess
import sys

import pytest

from topojax.config.defaults import CONTRACT_FIELDS, default_config
from topojax.config.io import flat

ROOT = pathlib.Path(__file__).parent.parent
TABLE = (ROOT / "docs" / "control.md").read_text()
FIELDS = {name for name, _ in flat(default_config())}


def rows():
    """(sentence, field, test) of every row of the tables."""
    for line in TABLE.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and not set(cells[0]) <= {"-"} and cells[1] != "field":
            yield pytest.param(*cells, id=cells[0][:40])


def test_every_section_of_the_report_has_rows():
    for section in "12345":
        assert f"## §{section} " in TABLE
    assert len(list(rows())) >= 60


@pytest.mark.parametrize("sentence, field, test", list(rows()))
def test_the_field_and_the_test_exist(sentence, field, test):
    name = re.match(r"`([^`]+)`", field)[1]
    if name.startswith("contracts.*."):
        assert name.removeprefix("contracts.*.") in CONTRACT_FIELDS
    else:
        assert name in FIELDS
    file, _, function = test.strip("`").partition("::")
    text = (ROOT / "tests" / file).read_text()
    assert re.search(rf"^def {function}\(" if function else "^def test_", text, re.M), test


def blocks(name):
    """The Python blocks of a document that run by themselves."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)
    return [block for block in found if "print(" in block]


@pytest.mark.parametrize("name", ["README.md"])
def test_examples_run_and_print_what_they_say(name):
    assert blocks(name)
    for block in blocks(name):
        out = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=120, check=True)
        promised = re.findall(r"# prints (.*)", block)
        assert [line.strip() for line in promised] == out.stdout.splitlines()
