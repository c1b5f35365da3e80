"""Looking at a run over time, at the baselines' latents, and down the tree of charts and codes."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from topojax import commands
from topojax.errors import UserError
from topojax.report import baseline_latents, confidence, over_time, tree, usage_history
from topojax.report.embedding import embed
from topojax.report.history import read
from topojax.scoring.run import restore
from topojax.scoring.split import load_splits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(digits_run):
    return restore(digits_run)


@pytest.fixture(scope="module")
def embedding(run):
    return embed(run, load_splits(run)[1], load_splits(run)[0])


@pytest.fixture(scope="module")
def frames(run, digits_run):
    return over_time.frames(run, digits_run, load_splits(run)[1], every=2)


def test_a_frame_for_each_checkpoint_and_the_last_is_the_runs_own(frames, embedding):
    assert [frame.epoch for frame in frames] == [2, 4]
    np.testing.assert_array_equal(frames[-1].chart, embedding.chart)
    assert frames[-1].numbers["mse"] == pytest.approx(embedding.evaluation.numbers["mse"])
    assert not np.array_equal(frames[0].z, frames[1].z)


def test_the_slider_has_a_picture_of_each_of_one_size(frames, embedding):
    (block,) = over_time.slider(frames, embedding.label, embedding.charts)
    assert set(block.pngs) == {"epoch_00002.png", "epoch_00004.png"}
    sizes = {Image.open(io.BytesIO(data)).size for data in block.pngs.values()}
    assert len(sizes) == 1
    assert len(re.findall("<img ", block.html)) == 2
    assert len(re.findall(r"<img [^>]* hidden>", block.html)) == 1
    assert 'max="1"' in block.html
    assert "http" not in block.html


@pytest.mark.parametrize(("every", "message"), [(0, "1 or more"), (-3, "1 or more")])
def test_a_number_of_epochs_that_is_none(run, digits_run, every, message):
    with pytest.raises(UserError, match=message):
        over_time.frames(run, digits_run, load_splits(run)[1], every=every)


def test_too_many_pictures(run, digits_run, monkeypatch):
    monkeypatch.setattr(over_time, "MOST", 1)
    with pytest.raises(UserError, match="2 pictures, at most 1"):
        over_time.frames(run, digits_run, load_splits(run)[1], every=1)


def test_latents_of_all_models_share_their_examples(embedding):
    (block,) = baseline_latents.side_by_side(embedding)
    points = {}
    for trace in block.plot.data:
        points[trace.xaxis or "x"] = points.get(trace.xaxis or "x", 0) + len(trace.x)
    assert len(points) == 3
    assert set(points.values()) == {len(embedding.drawn)}


def test_without_baselines_nothing_is_beside(points_run):
    run = restore(points_run)
    assert baseline_latents.side_by_side(embed(run, load_splits(run)[1], None)) == []


def test_a_plane_of_many_dimensions_keeps_most_of_the_spread():
    z = np.random.default_rng(0).normal(size=(50, 5)) * [5, 4, 0.1, 0.1, 0.1]
    plane = baseline_latents.planar(z)
    assert plane.shape == (50, 2)
    assert plane.var(axis=0).sum() > 0.99 * z.var(axis=0).sum()


def test_usage_is_logged_and_drawn(digits_run):
    lines = [json.loads(line) for line in (digits_run / "usage.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert sum(line["charts"]) == pytest.approx(1, abs=1e-5)
        assert 1 <= line["codes_used"] <= 12
    (block,) = usage_history.usage(read(digits_run))
    np.testing.assert_allclose([trace.y[-1] for trace in block.plot.data[:4]], lines[-1]["charts"])
    (block,) = usage_history.usage(read(digits_run, until=2))
    assert list(block.plot.data[0].x) == [1, 2]


def test_a_run_of_a_former_version_logged_no_usage(digits_run, tmp_path):
    copy = shutil.copytree(digits_run, tmp_path / "run")
    (copy / "usage.jsonl").unlink()
    assert usage_history.usage(read(copy)) == []


def test_the_tree_holds_every_example_once(embedding):
    (block,) = tree.tree(embedding)
    counts = [int(n) for n in re.findall(r"<summary>chart \d+ \((\d+) example", block.html)]
    codes = [int(n) for n in re.findall(r"code \d+ \((\d+) example", block.html)]
    assert sum(counts) == sum(codes) == len(embedding.image)
    assert counts == sorted(counts, reverse=True)
    assert block.html.count("<img") == len(codes)


def test_sets_by_chart_count_the_tested_half(embedding):
    (block,) = confidence.conformal_sets(embedding)
    assert np.sum(block.plot.data[0].customdata) == len(embedding.image) - len(embedding.image) // 2
    (block,) = confidence.abstaining(embedding)
    answered = block.plot.data[0]
    predicted = embedding.evaluation.predictions["class_probability"].argmax(axis=1)
    assert answered.y[-1] == pytest.approx((predicted == embedding.label).mean())


@pytest.mark.slow
def test_the_command_draws_a_picture_of_each(digits_run, tmp_path, capsys):
    copy = shutil.copytree(digits_run, tmp_path / "run")
    assert commands.main(["report", f"--workdir={copy}", "--every=2"]) == 0
    page = (copy / "report" / "index.html").read_text()
    assert 'id="figure-over_time"' in page
    assert 'id="figure-tree"' in page
    assert (copy / "report" / "epoch_00002.png").exists()
    assert commands.main(["report", f"--workdir={copy}", "--every=0"]) == 2
    assert "1 or more" in capsys.readouterr().err
