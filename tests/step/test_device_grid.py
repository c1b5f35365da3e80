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
FEW_POINTS = """
import jax
import jax.numpy as jnp
import numpy as np
from tiny_program import data
from test_members import program_of, small

from topojax.config.numbers import pack, stack
from topojax.step import population as together
from topojax.step.device_grid import grid
from topojax.step.numbered import make_numbered

EPOCHS = 17  # of 3 steps


def configs(each):
    return [
        small(seed=seed, optim__learning_rate=rate, baselines__vq=True, mesh__data=each)
        for seed in (100, 101)
        for rate in (0.005, 0.01)
    ]


train, solo = data(), make_numbered(configs(1)[0], program_of)
alone = jax.jit(solo.epoch)
for chunk in (0, 1):
    spread = make_numbered(configs(4)[0], program_of)
    layout = together.lay_out(4, chunk=chunk, own_data=False, mesh=grid(4, jax.devices(), rows=2, each=4))
    assert (layout.devices, layout.local) == (8, 2)
    population = together.make_population(spread, layout)
    numbers = stack(configs(4))
    where = together.shardings(layout)
    numbers, held = jax.device_put(numbers, where[0]), jax.device_put(train, where[2])
    state = jax.jit(population.init)(numbers)
    epoch = jax.jit(population.epoch)
    compiled = epoch.lower(numbers, state, held).compile()
    sums = [line for line in compiled.as_text().splitlines() if " all-reduce(" in line]
    assert sums  # of a row, and never across rows
    assert all("{{0,1,2,3},{4,5,6,7}}" in line or "[2,4]<=[8]" in line for line in sums), sums[:3]
    rows = []
    for _ in range(EPOCHS):
        state, metrics = compiled(numbers, state, held)
        rows.append(np.asarray(metrics))
    here = jax.device_put(state, jax.devices()[0])
    for i, config in enumerate(configs(1)):
        own = jax.jit(solo.init)(pack(config))
        for row in rows:
            own, expected = alone(pack(config), own, train)
            for name, one, other in zip(solo.metric_names(), np.asarray(expected), row[i], strict=True):
                if name.startswith(("loss/", "weight/", "lr", "baseline/")):
                    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4, err_msg=name)
        member = together.member(here, i)
        assert int(member.step) == int(own.step) == 51
        for a, b in zip(jax.tree.leaves(member.params), jax.tree.leaves(own.params), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
print("alike")
"""


def on_eight(script, *arguments):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # all compile alike, and sooner
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", script, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def trained(path, *, seed=0, rows=0, each=1, chunk=0, epochs=10):
    on_eight(SCRIPT, path, seed, rows, each, chunk, epochs)


@pytest.mark.slow
def test_members_of_a_few_points_are_one_device_and_rows_exchange_nothing():
    """Four members on two rows of four, both of a row together and one after the other: 51 steps."""
    assert on_eight(FEW_POINTS).split() == ["alike"]


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
