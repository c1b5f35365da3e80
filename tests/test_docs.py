"""What the documentation names exists: fields of the configuration, tests, and code that runs."""

import contextlib
import importlib.util
import io
import pathlib
import re
import subprocess
import sys
import tarfile

import jax
import nbformat
import pytest

from topojax.benchmarks import figures
from topojax.benchmarks.readme import SETS
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


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MECHANISMS = sorted((ROOT / "docs" / "mechanisms").glob("*.md"))


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


LONG = ("your-own-data",)
"""Pages whose examples train more than once."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.campaign] * (page.stem in LONG)) for page in PAGES if blocks(page)],
    ids=lambda page: page.stem,
)
def test_a_page_s_examples_run_in_turn_and_print_what_they_say(page, tmp_path):
    """As one who reads from the top would have it, with a small run that lies where the pages have theirs."""
    with tarfile.open(ROOT / "tests" / "layouts" / "0.1.0.tar.gz") as files:
        files.extractall(tmp_path / "runs", filter="data")
    next((tmp_path / "runs").iterdir()).rename(tmp_path / "runs" / "digits")
    program = "\n".join(blocks(page))
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert kept(program, ended.stdout)
    assert ended.stdout


def kept(program, printed):
    """Whether a program's output holds the lines that its comments promise, in their order."""
    promised = re.findall(r"# prints (.*)", program)
    return [line for line in printed.splitlines() if line in promised] == promised


@pytest.mark.slow
@pytest.mark.parametrize("page", MECHANISMS, ids=lambda page: page.stem)
def test_a_mechanism_s_example_prints_what_its_page_says(page):
    program, printed = "\n".join(blocks(page)), io.StringIO()
    with contextlib.redirect_stdout(printed), jax.numpy_rank_promotion("allow"):  # as outside of the tests
        exec(compile(program, page.name, "exec"), {"__name__": "__main__"})
    assert printed.getvalue()
    assert kept(program, printed.getvalue()), printed.getvalue()


def test_every_mechanism_s_page_has_an_example_and_stands_in_the_index():
    index = (ROOT / "docs" / "control-in-your-own-loop.md").read_text()
    for page in MECHANISMS:
        assert blocks(page), page
        assert f"](mechanisms/{page.name})" in index, page


def test_the_pages_say_what_was_measured():
    """`python -m topojax.benchmarks.readme --pages` writes them again from docs/figures.json."""
    figures.check(ROOT)
    marked = " ".join(page.read_text() for page in PAGES)
    assert all(f"<!-- figures:{name} -->" in marked for name in figures.BLOCKS)
    assert set(figures.read(ROOT)) == set(SETS)


def test_every_benchmark_that_can_be_run_stands_among_the_commands():
    folder = ROOT / "topojax" / "benchmarks"
    files = [*folder.glob("*.py"), *folder.glob("*/__main__.py")]
    runnable = {
        file.parent.name if file.stem == "__main__" else file.stem
        for file in files
        if 'if __name__ == "__main__"' in file.read_text()
    }
    page = (ROOT / "docs" / "commands.md").read_text()
    assert {"speed", "regret", "frontends", "external"} <= runnable
    assert not [name for name in sorted(runnable) if f"| `{name}` |" not in page]


def test_the_readme_can_be_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def repository(root, **pages):
    """A folder with a README and pages of docs/."""
    (root / "docs").mkdir(parents=True)
    for name, text in pages.items():
        (root / ("README.md" if name == "readme" else f"docs/{name}.md")).write_text(text)
    return root


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("_site", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("link", ["docs/none.md", "docs/a.md#nothing", "#nothing", "../outside.md", "docs", "none.png"])
def test_a_link_that_leads_nowhere_is_named_and_nothing_is_written(link, site, tmp_path):
    root = repository(tmp_path / "root", readme=f"# Title\n\n[words]({link})", a="# Words of *it*")
    with pytest.raises(site.UserError, match=f"README.md: {re.escape(link)}"):
        site.build(tmp_path / "site", root, execute=False)
    assert not (tmp_path / "site").exists()


def test_links_lead_where_the_site_has_their_pages(site, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "api", lambda folder: None)
    readme = "# Title\n\n[a](docs/a.md#words-of-it) [b](docs/data.json) [c](https://a.b/c.md) [d](#title)"
    root = repository(tmp_path / "root", readme=readme, a="# Words of *it*\n\n[home](../README.md)")
    (root / "docs" / "data.json").write_text("{}")
    site.build(tmp_path / "site", root, execute=False)
    hrefs = re.findall(r'href="([^"]*)">\w</a>', (tmp_path / "site" / "index.html").read_text())
    assert hrefs == ["docs/a.html#words-of-it", "docs/data.json", "https://a.b/c.md", "index.html#title"]
    page = (tmp_path / "site" / "docs" / "a.html").read_text()
    assert 'id="words-of-it"' in page
    assert 'href="../index.html">home' in page
    assert (tmp_path / "site" / "docs" / "data.json").read_text() == "{}"


@pytest.mark.slow
def test_a_notebook_becomes_a_page_with_what_it_printed(site, tmp_path):
    new = nbformat.v4
    cells = [new.new_markdown_cell("# It"), new.new_code_cell("print(6 * 7)")]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "a.ipynb")
    assert "42" not in site.notebook(tmp_path / "a.ipynb", execute=False)
    assert "42" in site.notebook(tmp_path / "a.ipynb", execute=True).splitlines()
    nbformat.write(new.new_notebook(cells=[new.new_code_cell("1 / 0")]), tmp_path / "b.ipynb")
    with pytest.raises(site.UserError, match="ZeroDivisionError"):
        site.notebook(tmp_path / "b.ipynb", execute=True)


@pytest.mark.parametrize("name", ["markdown_it", "pdoc", "nbclient"])
def test_without_the_extra_the_site_names_it(name, site, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(site.UserError, match=r"\[docs\]"):
        site.build(tmp_path / "site")
    monkeypatch.setattr(sys, "argv", ["build.py", str(tmp_path / "site")])
    assert site.main() == 2
