"""Checkpoints that two processes write together: whole, and read by any number; real processes, on loopback."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.storage.checkpoint import Checkpoints, digest, last_epoch

SCRIPT = """
import pathlib
import sys

import jax

index, path, last, differs = int(sys.argv[1]), pathlib.Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    f"127.0.0.1:{sys.argv[2]}", 2, index, cluster_detection_method="deactivate", heartbeat_timeout_seconds=10
)
from jax._src import distributed

from test_joint import state_of
from topojax.storage.checkpoint import digest
from topojax.storage.joint import Joint
from topojax.training.processes import Peers

peers = Peers(distributed.global_state.client, index, 2)
joint = Joint(path, keep=2, gathered=peers.gathered)
done = max(joint.epochs(), default=0)
if done:
    found, meta = joint.restore(jax.eval_shape(lambda: state_of(0)), done)
    assert digest(found) == digest(state_of(done)), done
    assert found["key"].dtype == state_of(done)["key"].dtype
    assert meta["epoch"] == done
for epoch in range(done + 1, last + 1):
    state = state_of(epoch)
    state["w"] = state["w"] + differs * index
    joint.save(epoch, state, {"epoch": epoch}, loss=-float(epoch % 3))
    assert max(joint.epochs()) == epoch
joint.close()
peers.agreed(False)
jax.distributed.shutdown()
"""


def state_of(epoch):
    """A state of many sizes and kinds, a function of the epoch."""
    w = jnp.arange(4096.0).reshape(64, 64) * epoch
    return {"w": w, "odd": jnp.arange(5.0) + epoch, "step": jnp.int32(epoch), "key": jax.random.key(epoch)}


def start(path, last, differs=0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XLA_FLAGS", None)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    arguments = [str(port), str(path), str(last), str(differs)]
    return [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(index), *arguments], env=environment, **streams)
        for index in range(2)
    ]


def ended(started, timeout=300):
    try:
        return [(process.communicate(timeout=timeout)[1][-2000:], process.returncode) for process in started]
    finally:
        for process in started:
            with contextlib.suppress(OSError):
                process.kill()


def read(path, epoch):
    with contextlib.closing(Checkpoints(path, read_only=True)) as held:
        return held.restore(jax.eval_shape(lambda: state_of(0)), epoch)[0]


@pytest.mark.slow
def test_each_process_writes_its_part_and_one_process_reads_the_whole(tmp_path):
    path = tmp_path / "run"
    found = ended(start(path, 3))
    assert [status for _, status in found] == [0, 0], found
    with contextlib.closing(Checkpoints(path, read_only=True)) as held:
        assert held.epochs() == [2, 3]  # the latest two, of which one is the best
        assert held.best() == 2
    assert digest(read(path, 3)) == digest(state_of(3))
    parts = path / "checkpoints" / "3" / "state"
    written = [sum(file.stat().st_size for file in (parts / f"ocdbt.process_{i}").rglob("*")) for i in range(2)]
    assert min(written) > 0.3 * max(written)
    # One process goes on, and both go on from that.
    with contextlib.closing(Checkpoints(path)) as held:
        held.save(4, state_of(4), {"epoch": 4}, loss=0.0)
    found = ended(start(path, 5))
    assert [status for _, status in found] == [0, 0], found
    assert digest(read(path, 5)) == digest(state_of(5))
    assert read(path, 5)["key"].dtype == state_of(5)["key"].dtype  # its bytes do not tell a key from numbers


@pytest.mark.slow
def test_where_processes_hold_other_bits_those_of_the_first_are_saved(tmp_path):
    path = tmp_path / "run"
    found = ended(start(path, 1, differs=1))
    assert [status for _, status in found] == [0, 0], found
    np.testing.assert_array_equal(read(path, 1)["w"], state_of(1)["w"])


@pytest.mark.campaign  # 22 processes
def test_a_kill_at_any_moment_leaves_the_last_checkpoint_whole(tmp_path):
    path, chance, seen = tmp_path / "run", random.Random(100), []
    for turn in range(10):
        before = last_epoch(path)
        started = start(path, 100_000)
        until = time.monotonic() + 120
        while last_epoch(path) < before + 2 and time.monotonic() < until:
            assert all(process.poll() is None for process in started), ended(started)
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.6))  # about as long as a save takes
        started[turn % 2].kill()
        time.sleep(chance.uniform(0, 0.3))
        started[1 - turn % 2].kill()
        ended(started)
        seen.append(last_epoch(path))
        assert seen[-1] >= before + 2
        assert digest(read(path, seen[-1])) == digest(state_of(seen[-1]))
    found = ended(start(path, seen[-1] + 1))
    assert [status for _, status in found] == [0, 0], found
