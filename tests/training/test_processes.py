"""Several processes that train one run are one process; real ones, on loopback."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from controller_runs import bits

import topojax
from topojax.config.defaults import default_config
from topojax.config.validate import validate
from topojax.errors import UserError
from topojax.storage import workdir as workdirs
from topojax.storage.checkpoint import last_epoch

TESTS = pathlib.Path(__file__).parents[1]
RICH = {
    "model.discs": True,
    "model.bounded": True,
    "contracts.orbit.enabled": True,
    "view.noise_std": 0.1,
    "augment.rotation": 0.2,
    "baselines.vq": True,
    "log.every_epochs": 1,
    "checkpoint.every_epochs": 5,
}
OTHER_VERSIONS = """
from topojax.__main__ import entry
from topojax.training import processes

processes.versions = lambda: {"jax": "0.0.1"}
entry("train")
"""
# What a process reads of the examples, and keeps of them, goes into a file; nothing on the console.
WATCHED = """
import atexit
import json
import pathlib
import sys

from topojax.__main__ import entry
from topojax.data.rows import Given
from topojax.training.handed import Handed

index = next(flag.rpartition("=")[2] for flag in sys.argv if flag.startswith("--config.mesh.process="))
seen = {"read": 0, "on devices": 0, "kept": 0}


def watched(of, name, tell):
    before = getattr(of, name)

    def after(self, *given, **named):
        out = before(self, *given, **named)
        tell(self, out)
        return out

    setattr(of, name, after)


watched(Given, "__getitem__", lambda self, out: seen.update({"read": seen["read"] + len(out)}))


def resident(self, out):
    rows = [shard.data.shape[0] for shard in out.image.addressable_shards]
    seen.update({"on devices": sum(rows), "kept": len(self.dataset.train.image.rows)})


watched(Handed, "resident", resident)
watched(Handed, "feed", lambda self, out: seen.update({"read": 0}))  # what is found out before is of all examples
atexit.register(lambda: pathlib.Path(f"FOLDER.{index}.json").write_text(json.dumps(seen)))
entry("train")
"""
FAILS_TO_SAVE = """
from topojax.__main__ import entry
from topojax.errors import Stopped
from topojax.storage.joint import Joint

save = Joint.save


def fails(self, epoch, *given, **named):
    if epoch == 4:
        raise Stopped("cannot save epoch 4: No space left on device")
    save(self, epoch, *given, **named)


Joint.save = fails
entry("train")
"""


def start(path, number, *, programs=(), own=(), **fields):
    """The processes of a run; `own`: fields of each, `programs`: of those that are another program."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"mesh.data": number, "mesh.processes": number, "train.until": "epochs", **fields}
    if number > 1:
        given["mesh.coordinator"] = f"127.0.0.1:{port}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XLA_FLAGS", None)
    started = []
    for index in range(number):
        program = programs[index] if programs else ["-m", "topojax.train"]
        mine = {**given, "mesh.process": index, **(own[index] if own else {})}
        flags = [f"--workdir={path}", f"--config={TESTS / 'tiny_config.py'}"]
        flags += [f"--config.{name}={value}" for name, value in mine.items()]
        command = [sys.executable, *program, *flags]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **streams))
    return started


def ended(started, timeout=600):
    """(status, lines on stderr without what is said of the data) of each."""
    found, until = [], time.monotonic() + timeout
    try:
        for process in started:
            said = process.communicate(timeout=max(1.0, until - time.monotonic()))[1]
            lines = [line for line in said.splitlines() if not line.startswith("data: ")]
            found.append((process.returncode, lines))
    finally:
        for process in started:
            with contextlib.suppress(OSError):
                process.kill()
    return found


def trained(path, number, **fields):
    assert ended(start(path, number, **fields)) == [(0, [])] * number


def until_saved(path, epoch, started):
    for _ in range(3000):
        if (path / "checkpoints" / str(epoch)).is_dir():
            return
        assert all(process.poll() is None for process in started), ended(started)
        time.sleep(0.1)
    raise AssertionError("nothing was saved")


def state_of(path):
    state = topojax.restore(path).state
    return state.replace(key=jax.random.key_data(state.key))


def alike(one, other, tolerance):
    rows = [[json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (one, other)]
    for a, b in zip(*rows, strict=True):
        for name in a:
            # The governor stands at the cap of the update ratio: which of the two holds is a matter of the last bit.
            told = name == "lr" or name.startswith(("loss/", "weight/", "signal/", "baseline/"))
            if told and name != "signal/update_ratio" and a[name] is not None:
                assert b[name] == pytest.approx(a[name], rel=tolerance, abs=tolerance), (a["epoch"], name)
    states = [state_of(path) for path in (one, other)]
    for a, b in zip(*(jax.tree.leaves((s.params, s.average, s.baselines)) for s in states), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


@pytest.mark.campaign  # seven processes that compile
def test_two_processes_are_one_and_a_run_goes_on_with_one(tmp_path):
    alone, two = tmp_path / "alone", tmp_path / "two"
    trained(alone, 1, **RICH, **{"train.epochs": 10})  # 50 steps
    trained(two, 2, **RICH, **{"train.epochs": 10})
    alike(alone, two, 1e-4)
    assert workdirs.read_result(two)["epochs"] == 10
    trained(two, 1, **RICH, **{"train.epochs": 12})
    trained(alone, 2, **RICH, **{"train.epochs": 12})
    alike(alone, two, 1e-3)


def watched(path, **fields):
    """What each of two processes has read and kept of the training split of a run."""
    programs = [["-c", WATCHED.replace("FOLDER", str(path))]] * 2
    assert ended(start(path, 2, programs=programs, **fields)) == [(0, [])] * 2
    return [json.loads(pathlib.Path(f"{path}.{index}.json").read_text()) for index in range(2)]


@pytest.mark.campaign  # seven processes
def test_each_process_holds_or_reads_its_share_and_both_are_one(tmp_path):
    """160 images to train on, batches of 32; from the host one of a pair is a neighbour."""
    found = watched(tmp_path / "memory", **{"train.epochs": 2})
    assert [(each["on devices"], each["kept"]) for each in found] == [(80, 80)] * 2
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8)
    given = tmp_path / "given"
    given.mkdir()
    np.save(given / "x.npy", images)
    np.save(given / "y.npy", np.arange(200) % 4)
    fields = {"data.name": str(given), "data.auto": False, "data.num_examples": None, **RICH, "train.epochs": 10}
    for mode, neighbours in (("host", 3), ("stream", 0)):
        more = {"data.mode": mode, "data.neighbours": neighbours}
        found = watched(tmp_path / f"two_{mode}", **fields, **more)
        # What one process would read at least; grain reads up to half as much again ahead, of the share too.
        whole = 10 * 160 * (2 if neighbours else 1)
        assert all(0.5 * whole <= each["read"] < whole for each in found), (found, whole)
        trained(tmp_path / f"one_{mode}", 1, **fields, **more)
        alike(tmp_path / f"one_{mode}", tmp_path / f"two_{mode}", 1e-4)


@pytest.mark.campaign  # four processes
def test_a_process_that_cannot_save_says_why_and_the_last_checkpoint_is_whole(tmp_path):
    path = tmp_path / "run"
    programs = (["-m", "topojax.train"], ["-c", FAILS_TO_SAVE])
    found = ended(start(path, 2, programs=programs, **{"train.epochs": 6}), timeout=300)
    assert [status for status, _ in found] == [1, 1], found
    assert "No space left on device" in found[1][1][0]
    assert len(found[0][1]) == 1
    assert "process 1" in found[0][1][0]
    assert last_epoch(path) == 2
    assert int(topojax.restore(path).state.step) == 10
    trained(path, 2, **{"train.epochs": 6})
    assert workdirs.read_result(path)["epochs"] == 6


@pytest.mark.campaign  # four processes
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_is_killed_the_other_stops_and_both_go_on(tmp_path, killed):
    path = tmp_path / "run"
    started = start(path, 2, **{"train.epochs": 100_000})
    until_saved(path, 4, started)
    started[killed].send_signal(signal.SIGKILL)
    since = time.monotonic()
    status, lines = ended([started[1 - killed]], timeout=90)[0]
    assert time.monotonic() - since < 60
    assert status == 1, lines
    saved = last_epoch(path)
    assert len(lines) == 1, lines
    assert f"process {killed} has ended or cannot be reached; the same command goes on from epoch {saved}" in lines[0]
    assert int(topojax.restore(path).state.step) == 5 * saved
    ended(started)
    trained(path, 2, **{"train.epochs": saved + 2})
    assert workdirs.read_result(path)["epochs"] == saved + 2


@pytest.mark.campaign  # six processes
def test_where_one_is_terminated_all_save_and_go_on_bit_for_bit(tmp_path):
    path, whole = tmp_path / "run", tmp_path / "whole"
    started = start(path, 2, **{"train.epochs": 100_000})
    until_saved(path, 2, started)
    started[1].send_signal(signal.SIGTERM)
    found = ended(started, timeout=120)
    saved = last_epoch(path)
    line = f"topojax: terminated: the same command goes on from epoch {saved} of {path}"
    assert found == [(143, [line]), (143, [line])]
    for each in (path, whole):
        trained(each, 2, **{"train.epochs": saved + 3})
    assert bits(state_of(path)) == bits(state_of(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"own": ({}, {"seed": 1})}, "processes 0 and 1 differ in seed: 0 → 1: start all with the same flags"),
        ({"programs": (["-m", "topojax.train"], ["-c", OTHER_VERSIONS])}, "install the same everywhere"),
    ],
)
def test_processes_that_differ_refuse_in_one_line_each(tmp_path, more, said):
    found = ended(start(tmp_path / "run", 2, **more), timeout=300)
    assert [status for status, _ in found] == [2, 2], found
    for _, lines in found:
        assert len(lines) == 1
        assert said in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_that_is_held_is_refused_by_all(tmp_path):
    path = tmp_path / "run"
    with workdirs.claim(path):
        found = ended(start(path, 2), timeout=300)
    assert [status for status, _ in found] == [2, 2], found
    assert all(len(lines) == 1 and "another process is training there" in lines[0] for _, lines in found), found


STUCK = """
import os, sys, threading, time
from topojax.training import aborted

aborted._PATIENCE_S = float(sys.argv[1])
aborted.watch(lambda words: "process 1 is gone")
aborted.leaving()
threading.Thread(target=os.abort).start()
if sys.argv[1] != "0":
    print("its own line", file=sys.stderr, flush=True)
    os._exit(1)
time.sleep(60)
"""


@pytest.mark.parametrize(("patience", "said"), [("0", "topojax: error: process 1 is gone\n"), ("60", "its own line\n")])
@pytest.mark.skipif(os.name != "posix", reason="no such signal")
def test_whoever_is_aborted_while_it_leaves_has_one_line(patience, said):
    ended = subprocess.run(
        [sys.executable, "-c", STUCK, patience], capture_output=True, text=True, timeout=50, check=False
    )
    assert (ended.returncode, ended.stderr) == (1, said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mesh.process": 1}, r"config\.mesh\.process = 1: must be less than config\.mesh\.processes = 1"),
        ({"mesh.processes": 3}, r"config\.mesh\.processes = 3: must divide config\.train\.batch_size = 128"),
        ({"mesh.processes": 2}, r"config\.mesh\.data = 1: counts the devices of all, a multiple of .*processes = 2"),
        ({"mesh.processes": 2, "mesh.data": 2, "mesh.coordinator": None}, r"set config\.mesh\.coordinator to the host"),
        ({"mesh.processes": 2, "mesh.data": 2, "mesh.coordinator": "here"}, "must be host:port"),
        ({"mesh.processes": 2, "mesh.data": 2, "population.size": 4}, "a population is trained by one process"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(fields, said):
    config = default_config()
    config.mesh.coordinator = "127.0.0.1:4321"
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=said):
        validate(config)


def test_an_address_that_is_none_or_taken_is_refused(tmp_path):
    config = default_config()
    config.mesh.update(data=2, processes=2, coordinator="no-such-host.invalid:4321")
    with pytest.raises(UserError, match="name the host of process 0"):
        topojax.train_and_evaluate(config, tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.mesh.coordinator = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match="Address already in use; name an address of process 0"):
            topojax.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
