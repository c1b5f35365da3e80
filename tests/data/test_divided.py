"""A training split in parts, one on each device, gives the rows that it gives in one; devices forced, in a process."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np

from topojax.data.divided import columns, looked_up, placed
from topojax.types import Batch

SCRIPT = """
import jax
import numpy as np

from topojax.data import divided
from topojax.data.mesh import make_mesh
from topojax.types import Batch

mesh = make_mesh(8)
rng = np.random.default_rng(0)
for number in (37, 40, 3):
    image = rng.standard_normal((number, 5)).astype(np.float32)
    image[0, 0] = -0.0
    train = Batch(image, np.arange(number, dtype=np.int32), rng.integers(0, number, (number, 2)).astype(np.int32))
    held = divided.placed(train, mesh)
    each = -(-number // 8)
    assert [shard.data.shape for shard in held.image.addressable_shards] == [(each, 5)] * 8
    for size in (16, 7):
        index = rng.integers(0, number, size).astype(np.int32)

        @jax.jit
        def taken(data, index):
            data = divided.looked_up(data, mesh, number)
            return data.image[index], data.label[index], data.image[data.neighbours[index, 1]]

        rows, label, near = taken(held, index)
        assert np.asarray(rows).tobytes() == (image[index] + 0.0).tobytes()
        np.testing.assert_array_equal(label, train.label[index])
        np.testing.assert_array_equal(near, image[train.neighbours[index, 1]])
        assert rows.sharding.is_fully_replicated == (size == 7)
    share = divided.Share(image, mesh)
    assert share.shape == image.shape
    np.testing.assert_array_equal(share[0:number], image)
print("alike")
"""


def test_rows_that_lie_on_eight_devices_are_found():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ended.stdout.split() == ["alike"], ended.stderr[-2000:]


def test_on_one_device_a_split_lies_whole():
    train = Batch(np.ones((6, 2), np.float32), np.zeros(6, np.int32))
    held = placed(train, None)
    assert isinstance(held.image, jnp.ndarray)
    assert looked_up(held, None, 6) is held
    assert columns(6, None) == slice(0, 6)
