"""TensorBoard: what a run writes is read back from its event files."""

import io
import json
import os
import pathlib
import struct
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from tiny_config import get_config

from topojax.config.io import telling
from topojax.data import sets
from topojax.errors import UserError
from topojax.scoring import run
from topojax.tracking import event_files, tensorboard_writer

TINY = str(pathlib.Path(__file__).parents[1] / "tiny_config.py")


def made(config, workdir, **going_on):
    """A sink, the model's program and its data set."""
    dataset = sets.load(config.data, seed=config.seed)
    about = {"num_train": len(dataset.train.label), "input_dim": 64, "num_classes": 10, "image_shape": (8, 8, 1)}
    model, program = run.build(config, about)
    board = tensorboard_writer.TensorBoard(workdir / "tensorboard", config, model, dataset, **going_on)
    return board, program, dataset


@pytest.mark.slow
def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "clu", None)
    with pytest.raises(UserError, match=r"config\.log\.tensorboard needs .*topojax\[tf\]"):
        made(get_config(), tmp_path)
    assert not (tmp_path / "tensorboard").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, accumulator, its metrics) of a real run with labels, images and a per-chart contract."""
    pytest.importorskip("tensorflow")
    workdir = tmp_path_factory.mktemp("board") / "run"
    flags = ["--config.log.tensorboard=true", "--config.log.every_epochs=1", "--config.train.epochs=3"]
    ended = subprocess.run(
        [sys.executable, "-m", "topojax.train", "--config", TINY, f"--workdir={workdir}", *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0})
    board.Reload()
    return workdir, board, [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def tensors(board, name):
    """(steps, arrays) of a tag."""
    from tensorboard.util import tensor_util

    events = board.Tensors(name)
    return [event.step for event in events], [tensor_util.make_ndarray(event.tensor_proto) for event in events]


def plugin(board, name):
    return board.SummaryMetadata(name).plugin_data.plugin_name


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.tf
@pytest.mark.slow
def test_every_finite_metric_is_a_scalar_with_its_value_at_its_step(trained):
    _, board, metrics = trained
    for name in {name for row in metrics for name in row} - {"epoch", "step"}:
        expected = [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
        points = board.Scalars(name) if name in board.Tags()["scalars"] else []
        assert [point.step for point in points] == [step for step, _ in expected], name
        np.testing.assert_allclose([point.value for point in points], [float(v) for _, v in expected], rtol=1e-6)


@pytest.mark.tf
@pytest.mark.slow
def test_images_are_the_atlas_and_reconstructions_that_the_state_makes(trained):
    import matplotlib.image

    workdir, board, metrics = trained
    for name in ("atlas", "reconstructions"):
        steps, images = tensors(board, name)
        assert plugin(board, name) == "images"
        assert (steps[0], steps[-1]) == (metrics[0]["step"], metrics[-1]["step"])  # others only where there is time
        assert len(images[-1]) == 3  # width, height, one PNG
    _, images = tensors(board, "reconstructions")
    drawn = matplotlib.image.imread(io.BytesIO(images[-1][2]))
    restored = run.restore(workdir)
    dataset = sets.load(restored.config.data, seed=0)
    first = np.unique(dataset.test.label, return_index=True)[1]
    x = dataset.test.image[first]
    encoding = restored.encode(x)
    x_hat = restored.decode(encoding.z_geo, encoding.z_tex).x_hat
    both = np.concatenate([np.concatenate(list(rows.reshape(-1, 8, 8)), axis=1) for rows in (x, x_hat)])
    np.testing.assert_allclose(drawn.reshape(16, -1), np.clip(both, 0, 1), atol=1.5 / 255)


@pytest.mark.tf
@pytest.mark.slow
def test_histograms_hold_the_weights_in_force(trained):
    _, board, metrics = trained
    for name, count in (("contracts/weight", 6 + 4), ("contracts/weight/per_chart_code_entropy", 4)):
        assert plugin(board, name) == "histograms"
        _, (*_, last) = tensors(board, name)
        assert last[:, 2].sum() == count  # rows of (left, right, count)
    weights = [v for k, v in metrics[-1].items() if k.startswith("weight/")]
    _, (*_, last) = tensors(board, "contracts/weight")
    assert last[0, 0] <= min(weights) <= max(weights) <= last[-1, 1] + 1e-6
    assert plugin(board, "contracts/error") == "histograms"


@pytest.mark.tf
@pytest.mark.slow
def test_hyperparameters_are_the_telling_fields(trained):
    from tensorboard.plugins.hparams import metadata

    _, board, _ = trained
    (tag,) = [name for name in board.Tags()["tensors"] if plugin(board, name) == "hparams"]
    content = metadata.parse_session_start_info_plugin_data(board.SummaryMetadata(tag).plugin_data.content)
    config = get_config()
    assert content.hparams["optim.learning_rate_max"].number_value == config.optim.learning_rate_max
    assert content.hparams["name"].string_value == "tiny"
    assert set(content.hparams) == set(telling(config))


@pytest.mark.tf
@pytest.mark.slow
def test_a_run_that_goes_on_has_each_step_once_and_none_missing(tmp_path):
    """Killed after the row of step 15; that of step 10 waited to be written. The checkpoint is of step 10."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = [{"epoch": n, "step": 5 * n, "signal/task": float(n), "none": None} for n in (1, 2, 3)]
    board, _, _ = made(get_config(), tmp_path)
    for row in (rows[0], rows[2]):
        board.metrics(row["epoch"], row["step"], {"signal/task": row["signal/task"]})
    board.close()
    board, _, _ = made(get_config(), tmp_path, step=10, rows=rows)
    board.metrics(3, 15, {"signal/task": 3.5})
    board.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("signal/task")] == [(5, 1.0), (10, 2.0), (15, 3.5)]


class Value(NamedTuple):
    kind: str

    def HasField(self, name):  # as protocol buffers have it
        return name == self.kind


@pytest.mark.tf
@pytest.mark.slow
def test_what_fails_in_its_thread_is_raised_and_not_printed_as_a_traceback(tmp_path, caplog):
    pytest.importorskip("tensorflow")
    writer = tensorboard_writer._writer(tmp_path / "board")
    writer.write_images(1, {"none": np.zeros(3)})  # no image
    with pytest.raises(Exception, match=r"\S"):
        writer.close()
    assert "Traceback" not in caplog.text
    assert "producer" not in caplog.text


def parsed(content):
    step, *kinds = json.loads(content)
    return SimpleNamespace(step=step, summary=SimpleNamespace(value=[Value(kind) for kind in kinds]))


def record(*told):
    content = json.dumps(told).encode()
    return struct.pack("<Q", len(content)) + b"sum." + content + b"sum."


def test_event_files_are_cut_after_a_step_and_where_they_break_off(tmp_path):
    kept = record(0) + record(5, "simple_value") + record(5, "image") + record(10, "image")
    (tmp_path / "events.out.tfevents.1").write_bytes(kept + record(15, "simple_value") + record(20)[:-1])
    whole = record(0) + record(8, "simple_value")
    (tmp_path / "events.out.tfevents.2").write_bytes(whole)
    (tmp_path / "events.out.tfevents.3").write_bytes(struct.pack("<Q", 2**60) + b"sum." + b"short")
    assert event_files.cut(tmp_path, 10, parsed) == {5, 8}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "events.out.tfevents.1": kept,
        "events.out.tfevents.2": whole,
        "events.out.tfevents.3": b"",
    }
    assert event_files.cut(tmp_path / "none", 10, parsed) == set()


def test_telling_fields_leave_out_contracts_as_they_are():
    config = get_config()
    names = set(telling(config))
    assert "seed" in names
    assert "contracts.window.target" not in names
    config.contracts.window.target = 0.3
    assert telling(config)["contracts.window.target"] == 0.3
    assert "contracts.separation.enabled" in names  # switched off here


def test_points_and_a_line_are_drawn_too():
    z = np.linspace(-1, 1, 30, dtype=np.float32)[:, None]
    picture = tensorboard_writer.draw_atlas(z, z[:3], np.arange(30) % 3, np.arange(30) % 2)
    assert (picture.ndim, picture.dtype, picture.shape[2]) == (3, np.uint8, 3)
    assert picture.min() < 100 < picture.max()


def test_pairs_are_two_rows_in_range():
    x = np.array([[0.0, 1.0, 2.0, -1.0]] * 3)
    out = tensorboard_writer.pairs(x, x / 2, (2, 2, 1))
    assert out.shape == (4, 6, 1)
    assert out[:, :2, 0].tolist() == [[0, 1], [1, 0], [0, 0.5], [1, 0]]
