"""Training inputs on the host: read as in memory, mapped files let go, gathered in the order of memory."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import get_config

from topojax.config.changes import changes
from topojax.config.validate import validate
from topojax.data import feed, fit, modes, sets
from topojax.data.neighbours import partners
from topojax.data.order import batch_indices, probe_indices
from topojax.data.rows import Given, Rows
from topojax.data.stream import Stream
from topojax.data.tfds_arrays import digest
from topojax.errors import UserError
from topojax.types import Batch

BYTES = np.random.default_rng(0).integers(3, 200, (50, 4, 6, 1), dtype=np.uint8)


def folder(tmp_path, images=BYTES):
    """A folder of arrays, four classes."""
    tmp_path.mkdir(parents=True, exist_ok=True)
    np.save(tmp_path / "x_train.npy", images)
    np.save(tmp_path / "y_train.npy", np.arange(len(images)) % 4)
    return tmp_path


def loaded(name, mode, **fields):
    c = get_config().data
    c.update({"name": str(name), "mode": mode, "num_examples": None, **fields})
    return sets.load(c, seed=0, on_host=True)


def resident():
    """KiB of mapped files that this process holds."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))


@pytest.mark.parametrize("shape", [(24,), (4, 6, 1), (1, 4, 6), (4, 6), (3, 2, 4)])
def test_rows_are_those_of_memory(shape):
    images = BYTES.reshape(50, *shape)
    index = np.random.default_rng(1).permutation(50)[:30]
    units = fit.units(images[index], pictures=True, shape=None)
    rows, memory = Rows(Given(images, index), units), units.prepared(images[index])
    assert rows.shape == memory.shape
    for at in (slice(3, 9), np.array([5, 0, 5]), slice(None)):
        assert np.array_equal(rows[at], memory[at])
    assert np.array_equal(rows.table[rows.raw(slice(None))], memory)
    assert digest(rows, index) == digest(memory, index)
    assert np.array_equal(np.asarray(rows), memory)


@pytest.mark.parametrize("at", [slice(None), np.array([7, 3])])
def test_a_mapped_file_that_becomes_shorter_is_one_line(tmp_path, at):
    train = loaded(folder(tmp_path), "host").train
    assert train.image[at].any()
    with (tmp_path / "x_train.npy").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 1)
    with pytest.raises(UserError, match=r"x_train\.npy has become shorter while it was read"):
        train.image[at]


def test_a_folder_of_arrays_is_the_same_data_in_every_mode(tmp_path):
    memory, host = (loaded(folder(tmp_path), mode, neighbours=3) for mode in ("memory", "host"))
    assert (memory.mode, host.mode) == ("memory", "host")
    assert host.manifest == memory.manifest
    assert host.notes == memory.notes
    assert isinstance(host.train.image, Rows)
    assert np.array_equal(np.asarray(host.train.image), memory.train.image)
    assert np.array_equal(host.train.neighbours, memory.train.neighbours)
    assert memory.num_classes == 4


@pytest.mark.parametrize("name", ["digits", "moons_2d"])
def test_built_in_sets_too(name):
    memory, host = (loaded(name, mode) for mode in ("memory", "host"))
    assert host.train.image.given.dtype == (np.uint8 if name == "digits" else np.float32)
    assert np.array_equal(np.asarray(host.train.image), memory.train.image)
    assert host.manifest == memory.manifest


def test_what_is_mapped_is_let_go(tmp_path):
    """64 MiB are read, by blocks and at random, and less than half of them are ever resident."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (2**16, 1024), dtype=np.uint8))
    before = resident()
    host = loaded(tmp_path / "x.npy", "host", test_fraction=0.001, scale="found")
    assert resident() - before < 2**15
    for _ in range(8):
        host.train.image.raw(np.random.default_rng(1).permutation(2**13) * 7)
    assert resident() - before < 2**15


def test_auto_is_memory_while_a_quarter_of_the_device_holds_the_split(tmp_path, monkeypatch):
    place = folder(tmp_path)
    for there, mode in ((4 * 4 * 40 * 24, "memory"), (4 * 4 * 40 * 24 - 1, "host")):
        monkeypatch.setattr(modes, "device_bytes", lambda there=there: there)
        assert loaded(place, "auto").mode == mode
        assert sets.load(get_config().data, seed=0).mode == "memory"  # of a caller that wants arrays


def test_chunks_hold_the_batches_of_memory(tmp_path, monkeypatch):
    data = loaded(folder(tmp_path), "host", neighbours=3).train
    monkeypatch.setattr(feed, "BYTES", 2 * 8 * 24 * 2)  # two steps' of eight pairs
    made = feed.Feed(data, seed=3, batch_size=8, probe_size=16, pairs=True)
    key = jax.random.key(7)
    memory = Batch(np.asarray(data.image), data.label, data.neighbours)
    assert (made.steps, made.size) == (5, 2)
    made.begin(key, 1)
    for epoch in (1, 2):
        order = np.asarray(batch_indices(3, epoch, 40, 8))
        chunks = list(made.epoch())
        assert [int(chunk.number) for chunk in chunks] == [2, 2, 1]
        assert jax.tree.map(jnp.shape, chunks[0]) == jax.tree.map(lambda leaf: leaf.shape, made.shapes)
        for step, index in enumerate(order):
            chunk, place = chunks[step // 2], step % 2
            raw = chunk.batches.image[place], chunk.batches.partner[place]
            image, partner = (chunk.table[x] for x in raw)
            assert np.array_equal(image, memory.image[index])
            assert np.array_equal(chunk.batches.label[place], data.label[index])
            assert np.array_equal(partner, partners(key, epoch * 5 + step, memory, index))
    probe = np.asarray(probe_indices(3, 40, 16))
    assert np.array_equal(chunks[0].probe.label, data.label[probe])
    again = list(made.again(key, 2))
    assert jax.tree.all(jax.tree.map(np.array_equal, again, chunks))
    made.close()


def test_a_stream_takes_each_example_once_an_epoch_in_an_order_of_its_own(tmp_path, monkeypatch):
    data = loaded(folder(tmp_path), "stream", neighbours=3).train
    monkeypatch.setattr(feed, "BYTES", 2 * 8 * 24 * 2)
    settings = {"batch_size": 8, "probe_size": 16, "pairs": True}
    key, made = jax.random.key(7), Stream(data, seed=3, **settings)
    memory = Batch(np.asarray(data.image), data.label, data.neighbours)
    rows = {row.tobytes(): i for i, row in enumerate(memory.image)}
    orders = []
    made.begin(key, 0)
    for epoch in range(2):
        chunks = list(made.epoch())
        order = np.concatenate([chunk.batches.image[: int(chunk.number)] for chunk in chunks])
        index = np.array([[rows[chunks[0].table[x].tobytes()] for x in batch] for batch in np.asarray(order)])
        assert sorted(index.reshape(-1)) == list(range(40))
        for step, at in enumerate(index):
            chunk, place = chunks[step // 2], step % 2
            assert np.array_equal(chunk.batches.label[place], data.label[at])
            partner = chunk.table[chunk.batches.partner[place]]
            assert np.array_equal(partner, partners(key, epoch * 5 + step, memory, at))
        orders.append(index.tolist())
    assert orders[0] != orders[1]
    other = Stream(data, seed=3, **settings)  # another process, that begins within the second epoch
    other.begin(key, 1, 2)
    assert jax.tree.all(jax.tree.map(np.array_equal, next(other.epoch()), chunks[1]))
    assert other.state(1, 2) == {"next_index": 7}
    assert jax.tree.all(jax.tree.map(np.array_equal, list(other.again(key, 1)), chunks))
    made.close()
    other.close()


def test_without_grain_one_line_says_what_to_install(tmp_path, monkeypatch):
    data = loaded(folder(tmp_path), "stream").train
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(UserError, match=r"config\.data\.mode = 'stream' needs the extra 'stream' .*topojax\[stream\]"):
        Stream(data, seed=0, batch_size=8, probe_size=16)


def test_a_run_goes_on_in_memory_or_from_the_host_and_not_in_another_order():
    one, other = get_config(), get_config()
    for a, b, same in (("memory", "host", True), ("auto", "host", True), ("host", "stream", False)):
        one.data.mode, other.data.mode = a, b
        assert [change.field for change in changes(one, other)] == ([] if same else ["data.mode"])


def test_bad_modes_are_one_line():
    c = get_config()
    c.data.mode = "disk"
    with pytest.raises(UserError, match=r"config\.data\.mode = 'disk': choose one of auto, memory, host, stream"):
        validate(c)
    c.data.mode, c.population.size = "host", 4
    with pytest.raises(UserError, match=r"config\.data\.mode = 'host': a population trains from memory"):
        validate(c)
