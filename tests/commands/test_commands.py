"""The command `topojax`: its table, what it costs to ask, and what it refuses."""

import io
import pathlib
import subprocess
import sys

import pytest

from topojax import commands
from topojax.config import fields as config_fields

ROOT = pathlib.Path(__file__).parents[2]


def test_the_overview_lists_every_command_in_a_line_and_imports_nothing_heavy():
    program = "import sys; from topojax.commands import main; s = main(['--help']); print('jax' in sys.modules, s)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    *lines, last = ended.stdout.splitlines()
    assert last == "False 0"
    for name, (_, about) in commands.COMMANDS.items():
        assert [line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == [name]] == [about]


def test_every_file_of_a_command_is_in_the_table():
    files = {path.stem for path in (ROOT / "topojax" / "commands").glob("[!_]*.py")}
    assert {module for module, _ in commands.COMMANDS.values()} == files


@pytest.mark.parametrize("name", sorted(commands.COMMANDS))
def test_the_help_of_a_command_is_short_and_names_it(name, capsys):
    assert commands.main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(out.splitlines()) <= 30
    assert f"topojax {name}" in out


@pytest.mark.parametrize(
    "words, said",
    [
        (["repot"], "did you mean report?"),
        (["migrate_flag"], "did you mean migrate-flags?"),
        (["xyzzy"], "topojax --help lists them"),
        (["evaluate"], "--workdir"),
        (["evaluate", "--workdir=x", "--split=all"], "all"),
        (["data"], "command"),
        (["data", "fetch", "digits"], "'digits'"),
        (["export", "--workdir=x", "--out=y.npz", "--step=last"], "last"),
        (["mlflow", "--workdir=x", "more"], "more"),
        (["report"], "--workdir"),
        (["import-torch", "x.pt", "--workdir=x", "--verify="], "--verify is empty"),
        (["import-torch", "x.pt", "--workdir", ""], "--workdir is empty"),
        (["evaluate", "--workdir=x", "--data="], "--data is empty"),
        (["migrate-flags"], "--"),
        (["fields", "no_such_field"], "no_such_field"),
    ],
)
def test_what_is_refused_is_one_line(words, said, capsys):
    assert commands.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("topojax: error: ")
    assert err.count("\n") == 1
    assert said in err


def test_the_version_is_printed(capsys):
    import topojax

    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"topojax {topojax.__version__}\n"


def test_an_interrupt_is_one_line_and_leaves_the_handler_as_it_was(monkeypatch, capsys):
    import signal

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(config_fields, "page", lambda: signal.raise_signal(signal.SIGINT))
    assert commands.main(["fields"]) == 130
    assert capsys.readouterr() == ("", "topojax: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_disk_that_is_full_is_one_line(monkeypatch, capsys):
    def full():
        raise OSError(28, "No space left on device", "/some/file")

    monkeypatch.setattr(config_fields, "page", full)
    assert commands.main(["fields"]) == 1
    assert capsys.readouterr().err == "topojax: error: /some/file: No space left on device\n"


@pytest.mark.parametrize(
    "missing, words, extra",
    [
        ("plotly", ["report", "--workdir=nowhere"], "report"),
        ("pyarrow", ["export", "--workdir=nowhere", "--out=rows.parquet"], "parquet"),
        ("mlflow.tracking", ["mlflow", "--workdir={run}"], "mlflow"),
        ("tensorflow", ["data", "fetch", "mnist", "--data_dir={run}"], "tf"),
    ],
)
def test_what_needs_an_extra_names_it(missing, words, extra, tmp_path, monkeypatch, capsys):
    from topojax.config.defaults import default_config
    from topojax.data import tfds_arrays
    from topojax.storage.workdir import write_config

    monkeypatch.setattr(tfds_arrays.urllib.request, "urlopen", lambda *_, **__: io.BytesIO())
    monkeypatch.setitem(sys.modules, missing, None)
    write_config(tmp_path, default_config())
    assert commands.main([word.format(run=tmp_path) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"pip install 'topojax[{extra}]'" in err


def test_the_site_needs_its_extra(tmp_path):
    program = "import runpy, sys; sys.modules['pdoc'] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    program = program.replace("sys.argv[0]", repr(str(ROOT / "docs" / "build.py")))
    command = [sys.executable, "-c", program, str(tmp_path / "site")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "pip install 'topojax[docs]'" in ended.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.npz", b"PK\3\4 and no archive", "damaged, or not a file of NumPy's arrays"),
        ("a.csv", b"a,b\n1,inf\n" + b"1,2\n" * 20, "1 values are infinite, the first in example 0"),
        ("none.csv", None, "there is no such file or folder"),
    ],
)
def test_bad_data_are_one_line_and_nothing_is_made(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-m", "topojax", "train", f"--config.data.name={name}"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr.startswith("topojax: error: ")
    assert ended.stderr.count("\n") == 1
    assert said in ended.stderr
    assert not (tmp_path / "runs").exists()
