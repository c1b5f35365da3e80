"""The command line: one line and a status for everything that can be mended; in real processes where that matters."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TINY = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")


def train(*arguments, **environment):
    """(status, stdout, stderr) of `python -m topojax.train`."""
    ended = subprocess.run(
        [sys.executable, "-m", "topojax.train", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )
    return ended.returncode, ended.stdout, ended.stderr


def one_line(status, out, err):
    """What a refusal says."""
    assert (status, out) == (2, ""), err
    assert err.startswith("topojax: error: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    return err.removeprefix("topojax: error: ")[:-1]


TRIED = """
import json, os, sys
from topojax import commands
from topojax.commands import train
from topojax.config import validate

lines, folder = json.loads(sys.argv[1]), sys.argv[2]
for n, words in enumerate(lines):
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(f"{folder}/{n}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
        sys.argv = ["topojax", *words]
        status = commands.main(["train", *words])
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)  # what an interpreter does at its end takes half a second
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    open(f"{folder}/{n}.status", "w").write(str(status))
"""


def refused(folder, *lines):
    """What is said by commands that are refused, each in a process of its own; they share what they import."""
    command = [sys.executable, "-W", "ignore", "-c", TRIED, json.dumps(lines), str(folder)]
    subprocess.run(command, check=True, timeout=300)
    read = [[(folder / f"{n}.{part}").read_text() for part in ("status", "1", "2")] for n in range(len(lines))]
    return [one_line(int(status), out, err) for status, out, err in read]


def test_help_is_short_and_lists_only_our_flags():
    status, out, err = train("--help")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) < 20
    assert all(flag in out for flag in ("--config", "--workdir", "--print_config"))
    assert "verbosity" not in out


@pytest.mark.slow
def test_the_command_topojax_trains_by_the_same_code():
    arguments = ("--config", TINY, "--config.seed=7", "--print_config")
    ended = subprocess.run(
        [sys.executable, "-m", "topojax", "train", *arguments], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["seed"] == 7
    assert ended.stdout == train(*arguments)[1]


@pytest.mark.parametrize("name", ["speed", *(pytest.param(n, marks=pytest.mark.slow) for n in ("control", "simple"))])
def test_the_help_of_a_benchmark_is_short(name):
    command = [sys.executable, "-m", f"topojax.benchmarks.{name}", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) <= 25
    assert f"python -m topojax.benchmarks.{name}" in ended.stdout


def test_print_config_shows_what_the_flags_make():
    arguments = (
        "--config",
        TINY,
        "--config.seed=7",
        "--noconfig.supervised.enabled",
        "--config.data.noise=1",
        "--config.data.num_examples=None",  # tiny_config sets it
        "--config.data.test_fraction=None",
        "--config.data.label=none",  # a value of it
        "--config.data.test_fraction=0.5",
    )
    status, out, _ = train("--print_config", *arguments)
    assert status == 0
    config = json.loads(out)
    assert (config["seed"], config["name"], config["data"]["noise"]) == (7, "tiny", 1.0)
    assert config["supervised"]["enabled"] is False
    assert (config["data"]["num_examples"], config["data"]["test_fraction"]) == (None, 0.5)
    assert config["data"]["label"] == "none"


BAD = {
    "--config.train.epochz=3": "unknown field config.train.epochz: did you mean --config.train.epochs?",
    "--config.train=3": "config.train is a block",
    "--config.=3": "unknown field config.",
    "--workdir=gs://bucket/run": "runs live on file systems",
    "--workdir=\udcff": "its name is not UTF-8",
    "--config.train.epochs=1.5": "--config.train.epochs=1.5: must be an integer",
    "--config.supervised.enabled=maybe": "--config.supervised.enabled=maybe: must be true or false",
    "--workdi=x": "unknown flag --workdi: did you mean --workdir?",
    "digits": "unexpected argument 'digits'",
    "--config=no/such.py": "--config=no/such.py: there is no file 'no/such.py'",
    "--config.contracts.windo.target=0.3": "did you mean --config.contracts.window.target?",
    "--config.contracts.window.signal=H_K": "unknown field config.contracts.window.signal",
    "--config.contracts.window.target=0.9": "config.contracts.window asks for I(X;K) >= 2.07 nats",
    "--config.monitor.on_saturation=stop": "choose one of warn, freeze, halt",
    "--config.model.num_charts=1": "config.model.num_charts = 1: must lie in [2, inf)",
}


def test_a_bad_command_is_one_line(tmp_path):
    run = tmp_path / "run"
    lines = [[word, "--config.seed=1" if word.startswith("--workdi") else f"--workdir={run}"] for word in BAD]
    for word, expected, said in zip(BAD, BAD.values(), refused(tmp_path, *lines), strict=True):
        assert expected in said, word
    assert not run.exists()


BAD_FILES = [
    ("def get_config(:\n", "", "line 1: invalid syntax"),
    ("\nimport no_such_module\n", "", "line 2: No module named 'no_such_module'"),
    (
        "def get_config(v=''):\n    raise ValueError(f'unknown variant {v!r}')\n",
        ":b",
        "line 2: unknown variant 'b'",
    ),
    ("def get_config():\n    return 1\n", "", "get_config() returns int, not a ConfigDict"),
]


def test_a_bad_configuration_file_is_one_line(tmp_path):
    lines = []
    for n, (text, suffix, said) in enumerate(BAD_FILES):
        file = tmp_path / f"bad{n}.py"
        file.write_text(text)
        lines.append((f"--config={file}{suffix}", f"--config={file}{suffix}: {said}"))
    assert refused(tmp_path, *([word] for word, _ in lines)) == [said for _, said in lines]


def test_a_workdir_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written: Not a directory" in one_line(
        *train("--config", TINY, f"--workdir={tmp_path / 'file' / 'run'}")
    )


def test_an_interrupt_says_how_to_go_on(tmp_path):
    """Interrupted by a signal of its own, while it reads the data."""
    program = (
        "import os, signal\n"
        "from topojax import commands\n"
        "from topojax.data import sets\n"
        "sets.load = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
        "commands.entry('train')\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program, f"--config={TINY}", f"--workdir={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert ended.returncode == 130
    assert ended.stderr == f"topojax: interrupted: the same command goes on from epoch 0 of {tmp_path}\n"
