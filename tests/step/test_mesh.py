"""A batch spread over devices: what N of them compute is what one does; real processes, with devices forced."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from topojax.config.defaults import default_config
from topojax.config.validate import validate
from topojax.errors import UserError

SCRIPT = """
import sys

import jax
import numpy as np
from tiny_config import get_config

import topojax

path, devices, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
assert jax.device_count() == 8
c = get_config()
c.model.discs = c.model.bounded = c.model.covariant = True
c.model.num_charts, c.contracts.orbit.enabled, c.contracts.consistency.enabled = 5, True, True
c.view.noise_std, c.augment.rotation, c.baselines.vq = 0.1, 0.2, True
c.train.epochs, c.mesh.data, c.log.every_epochs, c.checkpoint.every_epochs = epochs, devices, 1, 5
state = topojax.train_and_evaluate(c, path)
assert {d for leaf in jax.tree.leaves(state.params) for d in leaf.devices()} == {jax.devices()[0]}
leaves = jax.tree.leaves((state.params, state.average, state.baselines["vq"].params))
np.savez(path + ".npz", *map(np.asarray, leaves))
"""
FEW_POINTS = """
import jax
import numpy as np
from tiny_program import BATCH, data
from test_members import program_of, small

from topojax.config.numbers import pack
from topojax.data.divided import placed
from topojax.data.feed import Feed
from topojax.data.fit import units
from topojax.data.mesh import make_mesh
from topojax.data.rows import Given, Rows
from topojax.step.numbered import make_numbered
from topojax.storage.program_cache import compile_epoch
from topojax.training.fed import compile_fed

found = []
for devices, host in ((1, False), (8, False), (8, True)):
    config = small(seed=100, baselines__vq=True, mesh__data=devices)
    numbered, mesh, numbers = make_numbered(config, program_of), make_mesh(devices), pack(config)
    state = jax.jit(numbered.init)(numbers)
    if host:
        image = np.asarray(data().image)
        split = data()._replace(image=Rows(Given(image), units(image, pictures=False, shape="3x3")))
        train = Feed(split, seed=100, batch_size=BATCH, probe_size=config.probe.size, mesh=mesh)
        train.size = 2  # steps of a chunk, of 3 in an epoch
        train.begin(state.key, 0)
        epoch = compile_fed(numbered, numbers, state, train, described={}, cached=False, mesh=mesh)
    else:
        train = placed(data(), mesh)
        epoch = compile_epoch(numbered, numbers, state, train, described={}, cached=False, mesh=mesh)
    rows = []
    for _ in range(17):  # of 3 steps
        state, metrics = epoch.run(numbers, state, train)
        rows.append(dict(zip(epoch.names, np.asarray(metrics), strict=True)))
    if host:
        chunk = next(train.again(state.key, 0))
        assert chunk.batches.image.shape == (2, BATCH, 9)
        assert len(chunk.batches.image.devices()) == 1
        train.close()
    found.append((rows, jax.tree.leaves((state.params, state.average))))
for rows, leaves in found[1:]:
    for one, other in zip(found[0][0], rows, strict=True):
        for name in one:
            if name.startswith(("loss/", "weight/", "lr", "baseline/")):
                np.testing.assert_allclose(other[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)
    for a, b in zip(found[0][1], leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
print("alike")
"""


@pytest.mark.slow
def test_a_split_in_parts_and_one_on_the_host_train_as_one_device_does():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # all compile alike, and sooner
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", FEW_POINTS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert ended.stdout.split() == ["alike"], ended.stderr[-2000:]


def trained(path, devices, epochs):
    """(rows of metrics.jsonl, final parameters)."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", SCRIPT, str(path), str(devices), str(epochs)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    with np.load(f"{path}.npz") as saved:
        return rows, [saved[name] for name in saved.files]


def alike(one, other, tolerance):
    for a, b in zip(one[0], other[0], strict=True):
        for name in a:
            if name.startswith(("loss/", "weight/", "lr", "signal/", "baseline/")) and a[name] is not None:
                assert b[name] == pytest.approx(a[name], rel=tolerance, abs=tolerance), (a["epoch"], name)
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


@pytest.mark.campaign  # four processes that compile for eight devices: minutes
def test_eight_devices_are_one_and_a_run_goes_on_with_two(tmp_path):
    alone = trained(tmp_path / "one", 1, 10)  # 50 steps
    spread = trained(tmp_path / "eight", 8, 10)
    alike(alone, spread, 1e-4)
    further = trained(tmp_path / "eight", 2, 12)
    alike(trained(tmp_path / "one", 1, 12), further, 1e-3)


def test_sizes_that_do_not_divide_are_refused():
    config = default_config()
    config.mesh.data = 3
    with pytest.raises(UserError, match=r"config\.mesh\.data = 3: must divide config\.train\.batch_size = 128"):
        validate(config)


@pytest.mark.slow
def test_a_mesh_larger_than_the_devices_is_one_line(tmp_path):
    command = [sys.executable, "-m", "topojax.train", f"--workdir={tmp_path / 'run'}", "--config.mesh.data=64"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ})
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "config.mesh.data = 64, but there are" in ended.stderr
    assert not (tmp_path / "run").exists()
