"""The page of configuration fields: every field has its own meaning, and the page is the code's."""

import pathlib
import subprocess
import sys

import pytest

from topojax.config import fields
from topojax.config.defaults import CONTRACT_FIELDS, default_config
from topojax.config.io import flat
from topojax.errors import UserError

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_current():
    assert PAGE.read_text().rstrip() == fields.page().rstrip(), "topojax fields > docs/config.md"


def test_every_field_is_listed_once_with_its_default_and_a_meaning_of_its_own():
    found = {field.name: field for field in fields.fields()}
    values = {name: value for name, value in flat(default_config()) if not name.startswith("contracts.")}
    assert {name: field.default for name, field in found.items()} == values
    assert len(fields.fields()) == len(values)
    for field in found.values():
        assert len(field.meaning) > 5, field.name
        assert (
            field.meaning[0].isupper() or not field.meaning[0].isalpha() or ":" in field.meaning or "," in field.meaning
        )


def test_contracts_fields_have_meanings_and_rows_their_values():
    found = {field.name: field.meaning for field in fields.contract_fields()}
    assert tuple(found) == CONTRACT_FIELDS
    assert all(found.values())
    page = fields.page()
    assert "| `window` | dual: I_XK >= 0.4 log_charts | rate `0.5` |" in page


def test_a_word_finds_its_fields():
    meaning = "Relative rise of the loss over its average that counts as a spike."
    assert fields.lookup("spike") == f"governor.spike_tolerance = 0.2 ([0, inf)); swept: yes\n    {meaning}"
    assert "contracts.*.error_clip = 2.0" in fields.lookup("clip")
    assert "(target, capacity)" in fields.lookup("window.ground")
    with pytest.raises(UserError, match="no configuration field holds 'zzz'"):
        fields.lookup("zzz")


def test_the_command_prints_the_page():
    ended = subprocess.run(
        [sys.executable, "-m", "topojax", "fields"], capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == PAGE.read_text()
