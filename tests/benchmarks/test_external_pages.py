"""The page of numbers from outside says what its records hold."""

import pathlib

import pytest

from topojax.benchmarks.external import written as pages
from topojax.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_the_page_says_what_the_records_hold():
    assert pages.written(ROOT) == (ROOT / pages.PAGE).read_text(), "python -m topojax.benchmarks.external --pages"


def test_a_table_is_written_from_the_last_record_of_a_key(tmp_path):
    (tmp_path / pages.FOLDER).mkdir(parents=True)
    (tmp_path / pages.PAGE).write_text("# A\n\n<!-- external:overhead -->\nold\n<!-- /external -->\n\nend\n")
    with pytest.raises(UserError, match="there is no"):
        pages.write(tmp_path)
    rest = '"overhead": 0.01}, "topojax in a scan": {"step": 0.001, "overhead": 0.0005}}'
    lines = ['{"key": "10", "topojax": {"step": ' + f"{step}, {rest}" for step in (0.5, 0.0204)]
    (tmp_path / pages.FOLDER / "overhead.jsonl").write_text("\n".join(lines) + "\n")
    pages.write(tmp_path)
    text = (tmp_path / pages.PAGE).read_text()
    assert "| 10 | 20 (10) | 1.0 (0.5) | – | – | – | – |" in text
    assert text.startswith("# A\n")
    assert text.endswith("<!-- /external -->\n\nend\n")
    assert "old" not in text
