"""Own data from one end to the other: each kind trains by one line, and comes back in its own units."""

import json
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_config import get_config

import topojax
from topojax.analysis import explore, export
from topojax.config.defaults import default_config
from topojax.errors import UserError
from topojax.scoring.split import evaluate, load_splits
from topojax.training.loop import train_and_evaluate

RNG = np.random.default_rng(0)


def table(place, load):
    data = load()
    path = place / f"{load.__name__}.csv"
    rows = [",".join([*data.feature_names, "target"]).replace(" ", "_")]
    for x, y in zip(data.data, data.target, strict=True):
        rows.append(",".join([*map(repr, map(float, x)), str(data.target_names[y])]))
    path.write_text("\n".join(rows))
    return path


def wine(place):
    from sklearn.datasets import load_wine

    return table(place, load_wine)


def cancer(place):
    from sklearn.datasets import load_breast_cancer

    return table(place, load_breast_cancer)


def idx_files(place):
    """Digits as MNIST's files have them."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    image, label = (digits.images * 15.9).astype(np.uint8), digits.target.astype(np.uint8)
    for split, part in (("train", slice(0, 1500)), ("t10k", slice(1500, None))):
        for what, array in (("images", image[part]), ("labels", label[part])):
            sizes = b"".join(side.to_bytes(4, "big") for side in array.shape)
            name = f"{split}-{what}-idx{array.ndim}-ubyte"
            (place / name).write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return place


def folder(place, each=200):
    """600 PNGs in three classes: bars that lie, stand, and fill the corner."""
    for name in ("lying", "standing", "corner"):
        (place / name).mkdir()
        for i in range(each):
            pixels = RNG.integers(0, 60, (10, 10, 3)).astype(np.uint8)
            at = RNG.integers(2, 7)
            spot = {"lying": np.s_[at : at + 2], "standing": np.s_[:, at : at + 2], "corner": np.s_[:at, :at]}[name]
            pixels[spot] += 180
            Image.fromarray(pixels).save(place / name / f"{i}.png")
    return place


def floats(place):
    """An .npz of floats in [−1, 1]."""
    x = RNG.uniform(-1, 1, (300, 6, 6)).astype(np.float32)
    y = RNG.integers(0, 2, 300)
    x[y == 1, :3] = -1
    np.savez(place / "floats.npz", x=x, y=y)
    return place / "floats.npz"


def trained(name, place, epochs=2, data=None):
    config = default_config()
    if data is None:
        config.data.name = str(name)
    config.train.epochs, config.log.progress = epochs, False
    train_and_evaluate(config, place, data=data)
    return json.loads((place / "result.json").read_text()), json.loads((place / "found.json").read_text())["fields"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, charts, image",
    [
        (wine, 3, None),
        pytest.param(cancer, 2, None, marks=pytest.mark.campaign),
        pytest.param(idx_files, None, (8, 8, 1), marks=pytest.mark.campaign),
        pytest.param(folder, 3, (10, 10, 3), marks=pytest.mark.campaign),
        pytest.param(floats, 2, (6, 6, 1), marks=pytest.mark.campaign),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_file_trains_with_no_other_field_set(make, charts, image, tmp_path):
    (tmp_path / "data").mkdir()
    place = make(tmp_path / "data")
    result, fields = trained(place, tmp_path / "run")
    assert result["labels_used"]
    assert np.isfinite(result["test/mse"])
    assert result["test/ami"] is not None
    assert fields.get("model.num_charts", [10, None])[1] == charts  # None: there are ten, as the default is
    run = topojax.restore(tmp_path / "run")
    assert run.image_shape == image
    moved = place.rename(tmp_path / f"moved{place.suffix}")
    again = evaluate(tmp_path / "run", data=moved)
    assert again.named()["test/mse"] == result["test/mse"]
    assert topojax.restore(tmp_path / "run").epoch == run.epoch
    with pytest.raises(UserError, match="there is no such file or folder; data that have moved"):
        evaluate(tmp_path / "run")


@pytest.mark.campaign
@pytest.mark.parametrize(
    "n, labelled",
    [pytest.param(12, True, marks=pytest.mark.slow), pytest.param(60, False, marks=pytest.mark.campaign)],
)
def test_few_examples_and_none_with_a_label(n, labelled, tmp_path):
    x, y = RNG.normal(size=(n, 5)), np.arange(n) % 2
    result, fields = trained(None, tmp_path / "run", data=(x, y if labelled else None))
    assert result["labels_used"] == labelled
    assert np.isfinite(result["test/mse"])
    assert (result["test/ami"] is None) == (not labelled)
    assert fields["data.name"][1] == "data="
    with pytest.raises(UserError, match="hand them over again, as data= in Python"):
        evaluate(tmp_path / "run")
    assert evaluate(tmp_path / "run", data=(x, y if labelled else None)).named()["test/mse"] == result["test/mse"]


@pytest.mark.slow
def test_the_line_of_the_readme_trains_and_says_what_it_found(tmp_path):
    path = wine(tmp_path)
    command = [sys.executable, "-m", "topojax", "train", f"--config.data.name={path.name}", "--config.train.epochs=1"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env={**os.environ})
    assert ended.returncode == 0, ended.stderr
    assert "data: 142 examples to train on, 36 to test; 13 columns, one scale a column" in ended.stderr
    assert (tmp_path / "runs" / "load_wine" / "result.json").exists()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env={**os.environ})
    assert "is finished: 1 epochs" in again.stdout


def small(**fields):
    """The tiny run's sizes and contracts."""
    c = get_config()
    c.log.every_epochs, c.data.num_examples = 1, None
    c.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return c


IMAGES = RNG.integers(0, 256, (96, 3, 6, 6)).astype(np.uint8)
IMAGES[:, :, 0, 0], IMAGES[:, :, 0, 1] = 0, 255
LABELS = np.array(["cat", "dog", None])[np.arange(96) % 3]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run on images with the channel first, of which a third has no label; and what its callbacks were told."""
    told = []

    def note(epoch):
        told.append((epoch.epoch, epoch.metrics["loss/recon"], len(epoch.test()["chart"])))
        return epoch.epoch == 3

    workdir = tmp_path_factory.mktemp("own") / "run"
    config = small(train__epochs=6, data__auto=True)
    train_and_evaluate(config, workdir, data=(IMAGES, LABELS), callbacks=[note])
    return workdir, told


def test_a_callback_is_told_every_epoch_and_may_stop(own):
    workdir, told = own
    assert [epoch for epoch, *_ in told] == [1, 2, 3]
    assert all(np.isfinite(loss) and rows == 19 for _, loss, rows in told)
    result = json.loads((workdir / "result.json").read_text())
    assert result["epochs"] == 3
    assert topojax.restore(workdir).epoch == 3


def test_examples_without_a_label_train_without(own):
    workdir, _ = own
    result = json.loads((workdir / "result.json").read_text())
    assert result["labels_used"]
    assert result["test/acc_matched"] is not None
    run = topojax.restore(workdir)
    assert run.num_classes == 2
    assert list(run.classes([1, 0])) == ["dog", "cat"]


def test_one_example_or_many_in_any_of_its_shapes(own):
    run = topojax.restore(own[0])
    many = run.encode(IMAGES)
    assert many.chart.shape == (96,)
    for same in (IMAGES.reshape(96, -1), IMAGES.transpose(0, 2, 3, 1), IMAGES.astype(np.float64), jnp.asarray(IMAGES)):
        np.testing.assert_array_equal(run.encode(same).z_geo, many.z_geo)
    one = run.encode(IMAGES[5])
    assert one.chart.shape == ()
    np.testing.assert_allclose(one.z_geo, many.z_geo[5], atol=1e-5)
    decoded = run.decode(many.z_geo, many.z_tex)
    assert decoded.x_hat.shape == IMAGES.shape
    assert decoded.x_hat.max() > 20  # in the units of the data, not in [0, 1]
    assert run.decode(one.z_geo, dtype=np.uint8).x_hat.dtype == np.uint8
    with pytest.raises(UserError, match=r"inputs have shape \[96, 3, 6\]"):
        run.encode(IMAGES[..., 0])


@pytest.mark.campaign
@pytest.mark.slow
def test_a_run_is_used_within_traced_functions_first(own):
    """Weights that are first asked for inside jit are no tracers afterwards."""
    run = topojax.restore(own[0])
    x = IMAGES.astype(np.float32)
    traced = jax.jit(lambda x: run.encode(x).z_geo)(x)
    np.testing.assert_allclose(traced, run.encode(x).z_geo, atol=1e-5)
    gradient = jax.grad(lambda x: run.decode(run.encode(x).z_geo).x_hat.sum())(jnp.asarray(x[0]))
    assert gradient.shape == x[0].shape
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(jax.vmap(lambda x: run.encode(x).chart)(x[:4]), run.encode(x[:4]).chart)
    exported = jax.export.export(jax.jit(run.encode))(jax.ShapeDtypeStruct((2, *x.shape[1:]), jnp.float32))
    again = jax.export.deserialize(exported.serialize()).call(x[:2])
    np.testing.assert_allclose(again.z_geo, traced[:2], atol=1e-5)


def test_a_run_pickles(own):
    run = topojax.restore(own[0])
    again = pickle.loads(pickle.dumps(run))
    np.testing.assert_array_equal(again.encode(IMAGES).z_geo, run.encode(IMAGES).z_geo)
    assert again.units.classes == run.units.classes


def test_the_encoder_alone_says_the_same(own):
    encoder, run = topojax.restore_encoder(own[0]), topojax.restore(own[0])
    np.testing.assert_allclose(encoder.encode(IMAGES).z_geo, run.encode(IMAGES).z_geo, atol=1e-5)
    assert set(encoder.weights) == {"encoder"}


def test_exploring_speaks_the_units_of_the_data(own):
    run = topojax.restore(own[0])
    one = explore.rotate(run, IMAGES[0], degrees=90)
    assert one.after.image.shape == (1, 3, 6, 6)
    np.testing.assert_allclose(one.before.image[0], IMAGES[0], atol=1e-3)
    covered = explore.occlude(run, IMAGES[:2], top=0, left=0, size=3, value=255)
    assert (np.abs(covered.after.image[:, :, :3, :3] - 255) < 1e-2).all()
    assert explore.grid(run, chart=0, size=3).image.shape == (3, 3, 3, 6, 6)


@pytest.mark.slow
def test_programs_run_without_topojax(own, tmp_path):
    folder = export.export(own[0], tmp_path / "programs", format="stablehlo")
    np.save(tmp_path / "x.npy", IMAGES.astype(np.float32))
    code = (
        "import sys, jax, jax.export, numpy as np\n"
        "x = np.load('x.npy')\n"
        "load = lambda name: jax.export.deserialize(open(f'programs/{name}.stablehlo', 'rb').read())\n"
        "for n in (1, 7): out = load('encoder').call(x[:n]); assert out['chart'].shape == (n,)\n"
        "back = load('decoder').call(out['z_geo'], out['z_tex'])['x_hat']\n"
        "assert 'topojax' not in sys.modules and back.shape == (7, 3, 6, 6)\n"
        "np.save('out.npy', out['z_geo'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    assert ended.returncode == 0, ended.stderr
    run = topojax.restore(own[0])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), run.encode(IMAGES[:7]).z_geo, atol=1e-4)
    assert json.loads((folder / "about.json").read_text())["classes"] == ["cat", "dog"]


def test_parquet_is_as_embedding_atlas_has_it(own, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with pytest.raises(UserError, match="as data="):
        export.export(own[0], tmp_path / "a.parquet")
    path = export.export(own[0], tmp_path / "a.parquet", data=(IMAGES, LABELS))
    table = parquet.read_table(path)
    assert {"x", "y", "chart", "code", "class"} <= set(table.column_names)
    assert table.schema.field("image").type == pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    near = table["neighbors"].to_pylist()
    assert all(len(row["ids"]) == len(row["distances"]) == 15 for row in near)
    assert all(i not in row["ids"] for i, row in enumerate(near))
    run = topojax.restore(own[0])
    test = load_splits(run, (IMAGES, LABELS))[1]
    from topojax.data.readers.image_folder import decode

    pixels = decode(table["image"][0].as_py()["bytes"], "here")
    np.testing.assert_array_equal(pixels, run.units.images(np.asarray(test.image))[0])


def test_h5ad_is_as_scanpy_has_it(own, tmp_path):
    anndata = pytest.importorskip("anndata")
    data = anndata.read_h5ad(export.export(own[0], tmp_path / "a.h5ad", data=(IMAGES, LABELS)))
    assert data.obsm["X_topojax"].shape == (19, 2)
    assert data.obsp["distances"].shape == data.obsp["connectivities"].shape == (19, 19)
    assert {"chart", "code", "label"} <= set(data.obs.columns)
    assert data.uns["neighbors"]["params"]["use_rep"] == "X_topojax"
    assert data.X.max() > 200


def test_other_data_are_refused(own):
    with pytest.raises(UserError, match="are not those the run was trained on"):
        evaluate(own[0], data=(IMAGES[::-1].copy(), LABELS))
    with pytest.raises(UserError, match="are not those"):
        train_and_evaluate(small(train__epochs=6, data__auto=True), own[0], data=(IMAGES[::-1].copy(), LABELS))


@pytest.mark.slow
def test_a_run_begins_with_another_s_parameters(own, tmp_path, capsys):
    config = small(train__epochs=1, init_from=str(own[0]))
    config.optim.learning_rate = config.optim.learning_rate_max = config.optim.learning_rate_min = 1e-12
    config.optim.average = 0.0
    train_and_evaluate(config, tmp_path / "next", data=(IMAGES, LABELS))
    assert "begins with" in capsys.readouterr().err
    old, new = topojax.restore(own[0]), topojax.restore(tmp_path / "next")
    for one, other in zip(jax.tree.leaves(old.state.params), jax.tree.leaves(new.state.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    with pytest.raises(UserError, match="no run in"):
        train_and_evaluate(small(init_from=str(tmp_path / "none")), tmp_path / "c", data=(IMAGES, LABELS))


def test_the_live_figure_is_drawn(own):
    from topojax.analysis.live import Live
    from topojax.training.callbacks import Epoch

    pictures = []
    live = Live(every=2, show=pictures.append)
    for epoch in range(1, 6):
        metrics = {"loss/recon": 1 / epoch, "weight/window": 0.1 * epoch, "weight/still": 1.0}
        test = {"chart": np.arange(9) % 3, "z_geo": RNG.normal(size=(9, 2))}
        live(Epoch(epoch, 5, None, metrics, lambda test=test: test, np.zeros(9, int)))
    assert len(pictures) == 3  # of epochs 2 and 4, and the last
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert live._moving() == ["weight/window"]
