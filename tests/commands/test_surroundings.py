"""Commands in surroundings that are not as they should be, in real processes: closed streams, other encodings, no home,
a backend that is not there, interrupts.
"""

import io
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys

import pytest

from topojax.storage import runtime
from topojax.tracking.console import Progress

TINY = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")
HOMELESS = """
import pwd, sys
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
"""
SEVERAL = """
import json, sys
from topojax.commands import main
statuses = []
for words in json.loads(sys.argv[1]):
    statuses.append(main(words))
open(sys.argv[2], "w").write(json.dumps(statuses))
"""


def environment(**changes):
    """Variables of this process, with changes; None takes a variable away."""
    found = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **changes}
    return {name: value for name, value in found.items() if value is not None}


def nowhere():
    """Variables of a process without a home or a cache, that speaks ASCII and is to draw by what is not there."""
    return environment(
        HOME=None,
        XDG_CACHE_HOME=None,
        JAX_COMPILATION_CACHE_DIR=None,
        PYTHONIOENCODING="ascii",
        MPLBACKEND="module://no_such_module.backend",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(a tiny run, trained with stderr and stdout closed, without a home; what the shell said of it)."""
    folder = tmp_path_factory.mktemp("run")
    words = ["--config", TINY, f"--workdir={folder / 'run'}", "--config.log.progress=true"]
    program = HOMELESS + "from topojax.commands import entry\nentry('train')"
    line = f"{shlex.join([sys.executable, '-c', program, *words])} 2>&- >&-"
    ended = subprocess.run(["bash", "-c", line], timeout=600, env=nowhere(), cwd=folder, check=False)
    return folder / "run", ended.returncode


@pytest.mark.slow
def test_training_needs_no_stream_and_no_home(run):
    workdir, status = run
    assert status == 0
    assert json.loads((workdir / "result.json").read_text())["epochs"] == 4
    assert [path.name for path in workdir.parent.iterdir()] == ["run"]  # no folder called ~
    for path in workdir.glob("*.json*"):  # nothing that was said on a closed stream has found its way into a file
        text = path.read_text()
        for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
            json.loads(part)


@pytest.mark.campaign
@pytest.mark.slow
def test_every_command_prints_in_ascii_without_a_home_and_draws_without_a_backend(run, tmp_path):
    workdir, _ = run
    words = [
        ["train", "--config", TINY, f"--workdir={workdir}"],
        ["fields"],
        ["migrate-flags", "--table"],
        ["data", "list"],
        ["contracts", f"--workdir={workdir}"],
        ["evaluate", f"--workdir={workdir}"],
        ["export", f"--workdir={workdir}", f"--out={tmp_path / 'rows.npz'}"],
        ["export", f"--workdir={workdir}", f"--out={tmp_path / 'projector'}"],
        ["report", f"--workdir={workdir}"],
    ]
    command = [sys.executable, "-c", HOMELESS + SEVERAL, json.dumps(words), str(tmp_path / "statuses.json")]
    ended = subprocess.run(command, capture_output=True, timeout=600, env=nowhere(), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr.decode()
    assert json.loads((tmp_path / "statuses.json").read_text()) == [0] * len(words), ended.stderr.decode()
    assert ended.stdout.isascii()
    assert b"\\u2264" in ended.stdout or b"\\xd7" in ended.stdout  # what ASCII has not is written out
    assert len(ended.stderr.splitlines()) == 1, ended.stderr.decode()  # that nothing is cached
    assert b"cached" in ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"statuses.json", "rows.npz", "projector"}
    assert json.loads((workdir / "evaluation.json").read_text(encoding="utf-8"))["examples"]
    assert (workdir / "report" / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "projector" / "sprite.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("encoding", ["latin-1", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_what_an_encoding_does_not_have_is_written_out(encoding, tmp_path):
    words = [["fields"], ["migrate-flags", "--table"], ["data", "list"]]
    command = [sys.executable, "-c", SEVERAL, json.dumps(words), str(tmp_path / "statuses.json")]
    ended = subprocess.run(command, capture_output=True, timeout=300, env=environment(PYTHONIOENCODING=encoding))
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads((tmp_path / "statuses.json").read_text()) == [0] * len(words)
    assert "×" in ended.stdout.decode(encoding)
    assert "\\u03" in ended.stdout.decode(encoding)


def test_a_reader_that_has_gone_is_no_traceback():
    command = [sys.executable, "-m", "topojax", "fields"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=120) in (0, 141)  # the page may have fitted into the pipe


class Bare:
    """All that a stream must be able to do, and no more."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("stream", [None, Bare(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")])
def test_progress_is_shown_on_whatever_stands_for_stderr(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(0, 4, enabled=True)
    progress.advance()
    progress.show(1, {"signal/task": None})  # a dash, which ASCII does not have
    progress.say(1, {"event": "over_mixing"})
    progress.close()
    if isinstance(stream, Bare):
        assert stream.text.splitlines() == ["epoch 1/4  loss –  ami –  lr –", "epoch 1: over_mixing"]


def test_progress_on_a_stream_that_is_closed_ends_nothing(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress(0, 4, enabled=True)
    progress.show(1, {"signal/task": 1.0})
    progress.close()


def test_without_a_cache_there_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert runtime.cache_folder("xla") is None
    assert runtime.cache_folder("programs") is None
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(tmp_path / "file") in line


def test_a_library_draws_whatever_the_variable_says_and_leaves_it(tmp_path):
    program = (
        "import os, numpy as np\n"
        "from topojax.tracking.canvas import import_matplotlib\n"
        "import_matplotlib()\n"
        "from matplotlib.figure import Figure\n"
        f"Figure().savefig({str(tmp_path / 'empty.png')!r})\n"
        "print(os.environ['MPLBACKEND'])\n"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(MPLBACKEND="nonsense"))
    assert (ended.returncode, ended.stdout) == (0, "nonsense\n"), ended.stderr
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words",
    [
        ["topojax.train"],
        ["topojax", "train"],
        ["topojax", "evaluate", "--workdir=x"],
        ["topojax", "report", "--workdir=x"],
        ["topojax", "export", "--workdir=x", "--out=x.npz"],
        ["topojax", "data", "list"],
        ["topojax.benchmarks.speed"],
        ["topojax.benchmarks.simple"],
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_an_import_is_one_line(words, number, tmp_path):
    """The module jax is replaced by a module that is interrupted, swallows that, and would go on."""
    (tmp_path / "jax.py").write_text(
        "import os, signal, sys\n"
        "try:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    sum(range(10**6))\n"
        "except BaseException:\n"
        "    sys.exit('went on')\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(PYTHONPATH=path))
    said = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + number, "", f"topojax: {said}\n")
