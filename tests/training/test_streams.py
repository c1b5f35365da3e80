"""A run on files that are streamed: one that ends within an epoch goes on there, bit for bit."""

import json
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from controller_runs import bits
from prepared import prepared
from tiny_config import get_config

from topojax.data import feed
from topojax.errors import exit_status
from topojax.training import loop

LABEL = np.arange(400) % 4
IMAGES = np.random.default_rng(0).integers(0, 60, (400, 8, 8, 1), dtype=np.uint8)
IMAGES[:, :, :4] += (50 * LABEL).astype(np.uint8)[:, None, None, None]


def parquet_folder(place):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    place.mkdir()
    for i, part in enumerate(np.split(np.arange(400), 4)):
        x = pyarrow.array(IMAGES[part, ..., 0].tolist(), pyarrow.list_(pyarrow.list_(pyarrow.uint8())))
        parquet.write_table(pyarrow.table({"x": x, "label": LABEL[part]}), place / f"{i}.parquet", row_group_size=30)
    return {"name": str(place)}


def tfds_set(place, kind):
    pytest.importorskip("tensorflow")
    prepared(place, IMAGES, LABEL, kind)
    return {"name": "mine", "data_dir": str(place)}


def config(data):
    c = get_config()
    c.data.update({"mode": "stream", "num_examples": None, **data})
    c.contracts.orbit.enabled, c.view.noise_std = True, 0.1
    c.train.epochs, c.log.every_epochs = 3, 1
    return c


def trained(path, c):
    """(bits of the state, rows of metrics without times)"""
    state = loop.train_and_evaluate(c, path)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    told = [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]
    return bits(state.replace(key=jax.random.key_data(state.key))), told


class Lost(Exception):
    """As if the process had been killed."""


def lose():
    raise Lost


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["parquet", *(pytest.param(kind, marks=pytest.mark.tf) for kind in ("array_record", "tfrecord"))]
)
def test_a_run_that_ends_within_an_epoch_goes_on_there_bit_for_bit(kind, tmp_path, monkeypatch):
    """Ten steps an epoch, in chunks of two: ended by SIGTERM in the second epoch, and killed in the third."""
    monkeypatch.setattr(feed, "BYTES", 2 * 32 * 64)
    place = tmp_path / "data"
    c = config(parquet_folder(place) if kind == "parquet" else tfds_set(place, kind))
    whole = trained(tmp_path / "whole", c)
    c.checkpoint.every_steps = 4
    chunks, gathered, ends = [], feed.Feed.epoch, {}

    def ending(self):
        for chunk in gathered(self):
            chunks.append(int(chunk.number))
            ends.pop(len(chunks), lambda: None)()
            yield chunk

    monkeypatch.setattr(feed.Feed, "epoch", ending)
    left = tmp_path / "left"
    ends[7] = lambda: signal.raise_signal(signal.SIGTERM)
    assert exit_status(lambda: loop.train_and_evaluate(c, left) and 0) == 143
    assert sum(chunks) == 14
    ends[14] = lose  # after steps 21 … 26 and two more that were handed over; 24 are saved
    with pytest.raises(Lost):
        loop.train_and_evaluate(c, left)
    assert trained(left, c) == whole
    assert sum(chunks) == 34


@pytest.mark.slow
def test_the_command_refuses_a_folder_in_one_line(tmp_path):
    data = parquet_folder(tmp_path / "data")["name"]
    command = [sys.executable, "-m", "topojax", "train", f"--workdir={tmp_path / 'run'}", f"--config.data.name={data}"]
    command += ["--config.data.mode=stream", "--config.data.label=kind"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "config.data.label = 'kind' is no column of it: x, label" in line
