"""Exports: what stands in the files is what the run says, in the formats that others read."""

import sys

import numpy as np
import pytest
from matplotlib.image import imread

import topojax
from topojax.analysis import export
from topojax.commands import main
from topojax.errors import UserError
from topojax.scoring.split import evaluate_run, load_splits
from topojax.storage import logs


@pytest.fixture(scope="module")
def evaluation(digits_run):
    run = topojax.restore(digits_run)
    return evaluate_run(run, load_splits(run)[1])


def test_npz_holds_the_rows_of_the_evaluation(digits_run, evaluation, tmp_path):
    path = export.export(digits_run, tmp_path / "rows.npz")
    with np.load(path) as found:
        for name, value in evaluation.predictions.items():
            np.testing.assert_array_equal(found[name.replace("/", "_")], value)
        run = topojax.restore(digits_run)
        _, test = load_splits(run)
        np.testing.assert_array_equal(found["label"], test.label)
        np.testing.assert_array_equal(found["z_tex"], run.encode(test.image).z_tex)
        assert (found["centers"].shape, found["codebook"].shape) == ((4, 2), (4, 3, 2))
        assert (found["split"], found["epoch"]) == ("test", "4")


@pytest.mark.slow
def test_parquet_has_a_column_a_number(digits_run, evaluation, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(export.export(digits_run, tmp_path / "rows.parquet", step=2, split="train"))
    assert table.num_rows == 160
    assert {"z_geo_0", "z_geo_1", "router_3", "chart", "label", "vq_code"} <= set(table.column_names)
    assert (table.schema.metadata[b"epoch"], table.schema.metadata[b"split"]) == (b"2", b"train")
    router = np.stack([table[f"router_{i}"].to_numpy() for i in range(4)], axis=1)
    np.testing.assert_array_equal(table["chart"].to_numpy(), router.argmax(axis=1))


def test_parquet_without_pyarrow_is_one_line_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["export", f"--workdir={tmp_path}", f"--out={tmp_path / 'rows.parquet'}"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'topojax[parquet]'" in error
    assert error.count("\n") == 1


def test_an_export_that_fails_leaves_what_was_there(digits_run, tmp_path, monkeypatch, capsys):
    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "rows.npz").write_text("old")
    monkeypatch.setattr(export.np, "savez_compressed", full)
    assert main(["export", f"--workdir={digits_run}", f"--out={tmp_path / 'rows.npz'}"]) == 2
    assert capsys.readouterr().err.endswith("rows.npz cannot be written: No space left on device\n")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"rows.npz": "old"}


@pytest.mark.parametrize("format", [[], ["--format=stablehlo"]])
def test_a_folder_that_is_exported_is_replaced_whole_or_stays(digits_run, tmp_path, monkeypatch, capsys, format):
    command = ["export", f"--workdir={digits_run}", f"--out={tmp_path / 'folder'}", *format]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    kept, calls = logs._kept, []

    def full(file):
        calls.append(file)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        kept(file)

    monkeypatch.setattr(logs, "_kept", full)
    assert main([*command, "--step=2"]) == 2
    assert capsys.readouterr().err.endswith("folder cannot be written: No space left on device\n")
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == before


def test_the_projector_s_files(digits_run, evaluation, tmp_path):
    folder = export.export(digits_run, tmp_path / "projector")
    vectors = np.loadtxt(folder / "vectors.tsv", delimiter="\t", dtype=np.float32)
    np.testing.assert_array_equal(vectors, evaluation.predictions["z_geo"])
    metadata = [line.split("\t") for line in (folder / "metadata.tsv").read_text().splitlines()]
    assert metadata[0][:4] == ["index", "label", "chart", "code"]
    assert [int(row[2]) for row in metadata[1:]] == evaluation.predictions["chart"].tolist()
    config = (folder / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 2
    # Read as TensorBoard reads it.
    text_format = pytest.importorskip("google.protobuf.text_format")
    projector = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2")
    parsed = text_format.Parse(config, projector.ProjectorConfig())
    assert [e.tensor_path for e in parsed.embeddings] == ["vectors.tsv", "router.tsv"]
    assert list(parsed.embeddings[0].sprite.single_image_dim) == [8, 8]
    # 40 images in a square of 7 × 7; the ninth is the third of the second row.
    sprite = imread(folder / "sprite.png")
    assert sprite.shape[:2] == (56, 56)
    run = topojax.restore(digits_run)
    image = np.asarray(load_splits(run)[1].image[9]).reshape(8, 8)
    np.testing.assert_allclose(sprite[8:16, 16:24, 0], image, atol=0.003)


@pytest.mark.slow
def test_points_have_no_sprite(points_run, tmp_path):
    folder = export.export(points_run, tmp_path / "projector")
    assert not (folder / "sprite.png").exists()
    assert "sprite" not in (folder / "projector_config.pbtxt").read_text()
    assert "class_prediction" not in (folder / "metadata.tsv").read_text()


def test_a_sprite_that_the_projector_would_not_take_is_left_out():
    assert export.sprite_sheet(np.zeros((5, 4000, 2, 1))) is None
    colour = export.sprite_sheet(np.ones((2, 3, 4, 3)))
    assert colour.shape == (6, 8, 3)
    assert (colour[:3] == 255).all()
    assert (colour[3:] == 0).all()


@pytest.mark.parametrize(
    "out, said",
    [("rows.csv", r"ends in \.npz, \.parquet, \.h5ad, or has no suffix"), ("no/rows.npz", r"no does not exist")],
)
def test_where_it_cannot_go(digits_run, tmp_path, out, said):
    with pytest.raises(UserError, match=said):
        export.export(digits_run, tmp_path / out)


def test_a_folder_that_is_a_file_is_told(digits_run, tmp_path):
    (tmp_path / "projector").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be written: File exists"):
        export.export(digits_run, tmp_path / "projector")
    assert (tmp_path / "projector").read_text() == "mine"
