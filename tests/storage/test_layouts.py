"""Checkpoints of former layouts still restore, to the same numbers: one small run of each, as it was written."""

import pathlib
import re
import tarfile

import jax.numpy as jnp
import numpy as np
import pytest

import topojax
from topojax.config.io import from_json
from topojax.storage import layouts

ROOT = pathlib.Path(__file__).parents[2]
ARCHIVES = sorted((ROOT / "tests" / "layouts").glob("*.tar.gz"))


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_a_run_of_a_former_layout_restores_and_says_the_same(archive, tmp_path):
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    (workdir,) = tmp_path.iterdir()
    expected = np.load(archive.with_name(archive.name.removesuffix(".tar.gz") + ".npz"))
    run = topojax.restore(workdir)
    encoding = run.encode(expected["x"])
    decoding = run.decode(encoding.z_geo)
    np.testing.assert_array_equal(encoding.chart, expected["chart"])
    np.testing.assert_array_equal(encoding.code, expected["code"])
    np.testing.assert_allclose(encoding.z_geo, expected["z_geo"], atol=1e-5)
    np.testing.assert_allclose(decoding.x_hat, expected["x_hat"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_a_run_of_a_former_layout_trains_on(archive, tmp_path):
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    (workdir,) = tmp_path.iterdir()
    config = from_json((workdir / "config.json").read_text(), "config.json")
    done, config.train.epochs = config.train.epochs, config.train.epochs + 1
    before = topojax.restore(workdir).state
    after = topojax.train_and_evaluate(config, workdir)
    assert int(after.step) * done == int(before.step) * (done + 1)
    assert after.sound()
    assert topojax.restore(workdir).epoch == done + 1


def test_every_release_has_one():
    """The last of each is of the version under way: what changes it later keeps it readable."""
    told = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sorted(told) == [archive.name.removesuffix(".tar.gz") for archive in ARCHIVES]


def test_a_baseline_without_an_average_begins_one_at_its_parameters():
    saved = {"step": "int32[]", "baselines.ae.params.body.kernel": "float32[2]"}
    wanted = saved | {"baselines.ae.average.body.kernel": "float32[2]"}
    assert layouts.differences(saved, wanted) == []
    assert layouts.differences(wanted, saved) == [
        "baselines.ae.average.body.kernel: saved float32[2], wanted nothing",
    ]
    lacking = {"step": "int32[]"}
    assert len(layouts.differences(lacking, wanted)) == 2
    leaves = {"baselines.ae.params.body.kernel": jnp.array([1.0, 2.0])}
    leaf = layouts.begun("baselines.ae.average.body.kernel", jnp.zeros(2), leaves)
    np.testing.assert_array_equal(leaf, [1.0, 2.0])
