"""Members over rows of devices and their batches along them: each is the run that it would be on one device."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_mesh import alike

import topojax
from topojax.config.defaults import default_config
from topojax.config.validate import validate
from topojax.errors import UserError
from topojax.step.device_grid import grid, rows_of

SCRIPT = """
import sys

import jax
from tiny_config import get_config

import topojax
from topojax.training import population

path, seed, rows, each, chunk, epochs = sys.argv[1], *map(int, sys.argv[2:])
assert jax.device_count() == 8
c = get_config()
c.model.discs = c.model.bounded = c.model.covariant = True
c.model.num_charts, c.contracts.orbit.enabled, c.contracts.consistency.enabled = 5, True, True
c.view.noise_std, c.augment.rotation, c.baselines.vq = 0.1, 0.2, True
c.train.until, c.train.epochs, c.log.every_epochs, c.checkpoint.every_epochs = "epochs", epochs, 1, 5
if rows:
    c.population.sweep, c.population.chunk = "seed=100,101; losses.recon_weight=1.0,2.0", chunk
    c.mesh.members, c.mesh.data = rows, each
    placed = []
    compiled = population.compile_epoch

    def noted(program, numbers, state, data, **how):
        found = compiled(program, numbers, state, data, **how)

        def run(*given):
            out = found.run(*given)
            placed.append(jax.tree.leaves(out[0].params)[0].sharding)
            return out

        return found._replace(run=run)

    population.compile_epoch = noted
    topojax.train_population(c, path)
    assert placed
    assert all(len(where.device_set) == rows * each for where in placed)
else:
    c.seed, c.losses.recon_weight = seed, 2.0
    topojax.train_and_evaluate(c, path)
"""


def trained(path, *, seed=0, rows=0, each=1, chunk=0, epochs=10):
    tests = os.path.dirname(os.path.dirname(__file__))
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", SCRIPT, str(path), *map(str, (seed, rows, each, chunk, epochs))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]


def told(path):
    """(rows of metrics.jsonl, parameters and average) of a run."""
    state = topojax.restore(path).state
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.average, state.baselines["vq"].params))]
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()], leaves


@pytest.mark.campaign  # three processes that compile, two of them for eight devices
def test_two_rows_of_four_are_one_device_and_go_on_otherwise(tmp_path):
    """Four members, two in a row, one at a time; 50 steps."""
    spread, one, alone = tmp_path / "spread", tmp_path / "one", tmp_path / "alone"
    trained(spread, rows=2, each=4, chunk=1)
    trained(one, rows=1, each=1)
    for i in range(4):
        alike(told(spread / f"member_{i:03d}"), told(one / f"member_{i:03d}"), 1e-4)
    trained(alone, seed=101)
    alike(told(spread / "member_003"), told(alone), 1e-4)
    for path, rows, each in ((spread, 1, 2), (one, 1, 1)):
        trained(path, rows=rows, each=each, epochs=12)
    alike(told(spread / "member_002"), told(one / "member_002"), 1e-3)


def test_a_grid_is_as_asked_or_as_large_as_it_can_be():
    devices = jax.devices() * 8  # the shapes are what is looked at
    assert rows_of(grid(6, devices)) == 6
    assert rows_of(grid(6, devices, each=2)) == 3
    assert grid(6, devices[:1]) is None
    assert grid(4, devices, rows=1) is None
    made = grid(4, devices, rows=2, each=4)
    assert dict(made.shape) == {"members": 2, "data": 4}
    for asked, words in (
        ({"rows": 3, "each": 1}, r"config\.mesh\.members = 3: must divide the 4 members"),
        (
            {"rows": 4, "each": 4},
            r"config\.mesh\.members = 4 times config\.mesh\.data = 4: 16 devices, but there are 8",
        ),
        ({"each": 16}, r"config\.mesh\.data = 16: 16 devices, but there are 8"),
    ):
        with pytest.raises(UserError, match=words):
            grid(4, devices, **asked)


def test_a_batch_that_cannot_be_spread_and_rows_without_members_are_refused():
    config = default_config()
    config.population.size, config.mesh.data = 4, 3
    with pytest.raises(UserError, match=r"config\.mesh\.data = 3: must divide config\.train\.batch_size"):
        validate(config)
    config.mesh.data, config.mesh.members = 2, 2
    validate(config)
    config.population.size = 0
    with pytest.raises(UserError, match=r"config\.mesh\.members = 2: is of a population"):
        validate(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config.mesh.members=3"], "config.mesh.members = 3: must divide the 4 members"),
        (["--config.mesh.members=4", "--config.mesh.data=64"], "256 devices, but there are"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line(tmp_path, flags, said):
    command = [sys.executable, "-m", "topojax.train", f"--workdir={tmp_path / 'run'}", "--config.population.size=4"]
    ended = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=600, env={**os.environ})
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1
    assert said in ended.stderr
    assert not (tmp_path / "run").exists()
