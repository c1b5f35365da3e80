"""The folder of a run: where it is, who holds it, and which configuration its checkpoints were trained with."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from topojax.config.defaults import default_config
from topojax.config.io import flat
from topojax.errors import UserError
from topojax.scoring import audit
from topojax.scoring.encoder import restore_encoder
from topojax.scoring.run import restore
from topojax.storage import workdir


def test_a_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir.located("~/x") == tmp_path / "x"
    assert workdir.located(pathlib.Path("~/x")) == tmp_path / "x"
    assert workdir.located("runs/x") == pathlib.Path("runs/x")


@pytest.mark.parametrize(
    "name", ["gs://b/r", "s3://b", "file:///x", "hdfs://n:1/x", os.fsdecode(b"\xff"), "a\0b", "~no_one/x"]
)
def test_what_is_no_folder_of_this_machine_is_refused_at_once(name):
    with pytest.raises(UserError) as refused:
        workdir.located(name)
    assert "\n" not in str(refused.value)
    str(refused.value).encode()


HOLDS = """
import pathlib, sys, time
from topojax.storage.workdir import claim
with claim(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(importlib.util.find_spec("fcntl") is None, reason="no locks on Windows")
def test_a_lock_names_its_owner_and_goes_with_it(tmp_path):
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "JAX_PLATFORMS": "cpu"}) as owner:
        assert owner.stdout.readline() == b"held\n"
        (tmp_path / ".config.json.1.part").write_text("left by somebody who was killed")
        with pytest.raises(UserError, match=rf"another process is training there \(process {owner.pid} on"):
            workdir.claim(tmp_path).__enter__()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with workdir.claim(tmp_path):
            assert not list(tmp_path.glob("*.part"))


def test_a_checkpoint_is_read_with_the_configuration_it_was_trained_with(tmp_path, capsys):
    config = default_config()
    workdir.write_config(tmp_path, config)
    meta = {"epoch": 3, "config": config.to_dict()}
    config.name = "another name changes nothing"
    assert workdir.config_of(tmp_path, meta).seed == 0
    assert capsys.readouterr().err == ""
    config.contracts.window.target = 0.3
    workdir.write_config(tmp_path, config)
    assert workdir.config_of(tmp_path, meta).contracts.window.target == default_config().contracts.window.target
    (line,) = capsys.readouterr().err.splitlines()
    assert "contracts.window.target 0.3" in line


@pytest.mark.slow
def test_any_flipped_byte_of_a_configuration_is_one_line_or_a_valid_configuration(tmp_path):
    workdir.write_config(tmp_path, default_config())
    path = tmp_path / "config.json"
    content = path.read_bytes()
    for at in range(0, len(content), 97):
        for bit in (1, 16, 128):
            path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            said = ""
            try:
                assert dict(flat(workdir.read_config(tmp_path))).keys() == dict(flat(default_config())).keys()
            except UserError as error:
                said = str(error)
            assert not said or ("config.json" in said and "\n" not in said)


@pytest.mark.parametrize("text", ["[" * 100_000, "5", "null", json.dumps({"model": 5}), json.dumps({"seed": [[]]})])
def test_other_json_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        workdir.read_config(tmp_path)


@pytest.mark.parametrize("files", [{"metrics.jsonl": "{}"}, {"result.json": "[]"}, {"config.json": '{"a": 1}'}])
def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(files, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"holds {next(iter(files))}, but no configuration.*name another folder"):
        workdir.own(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_of_a_run_whose_configuration_is_damaged_the_way_out_is_named(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"name another folder, or remove config\.json, which is then written again"):
        workdir.own(tmp_path)


def test_an_output_is_no_file_of_a_run(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("config.json", "result.json"):
        assert workdir.output(tmp_path / name) == tmp_path / name
    workdir.write_config(tmp_path, default_config())
    with pytest.raises(UserError, match=r"--out=\S*config\.json is a file of a run: name another"):
        workdir.output("~/config.json")
    assert workdir.output("~/scores.json") == tmp_path / "scores.json"
    with pytest.raises(UserError, match=r"--out .a.x00b.: no name holds a zero byte"):
        workdir.output("a\0b")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"fields": []}', '{"fields": {"seed": 5}}', "null"])
def test_what_was_found_is_left_where_it_cannot_be_read(text, tmp_path):
    (tmp_path / "found.json").write_text(text)
    config = default_config()
    assert dict(flat(workdir.adopted(tmp_path, config))) == dict(flat(config))


def test_an_empty_folder_and_a_run_are_ones_own(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    workdir.own(tmp_path)
    workdir.write_config(tmp_path, default_config())
    (tmp_path / "metrics.jsonl").write_text("")
    workdir.own(tmp_path)


def test_a_population_where_one_run_is_asked_for_names_a_member(tmp_path):
    workdir.require_single(tmp_path)
    for number in range(3):
        (tmp_path / f"member_00{number}").mkdir()
    with pytest.raises(UserError, match=r"is a population: --workdir=\S*/member_000 is one of its 3 runs"):
        audit.show(tmp_path)
    (tmp_path / "population.json").write_text('{"best": 1}')
    for asks in (audit.show, restore, restore_encoder):
        with pytest.raises(UserError, match=r"--workdir=\S*/member_001 is one"):
            asks(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    workdir.require_single(tmp_path)
