"""Checkpoints of former layouts still restore, to the same numbers: one small run of each, as it was written."""

import pathlib
import tarfile

import numpy as np
import pytest

import topojax

LAYOUTS = pathlib.Path(__file__).parents[1] / "layouts"


@pytest.mark.parametrize("archive", sorted(LAYOUTS.glob("*.tar.gz")), ids=lambda path: path.name)
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
