"""Readers of files: what is written comes back, whatever it is; what is damaged or of another kind is one line."""

import csv
import errno
import gzip
import io
import json
import os
import pathlib
import tempfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from topojax.data import readers
from topojax.data.raw import Options
from topojax.data.readers import idx
from topojax.errors import UserError

FEW = settings(max_examples=25, deadline=None)
NAMES = st.text("abcdefgh", min_size=1, max_size=6)
CELLS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def read(path, **options):
    return readers.read(pathlib.Path(path), Options(**options))


def temporary():
    return tempfile.TemporaryDirectory()


def arrays(dtype, **kwargs):
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4), **kwargs)


@FEW
@given(
    image=st.sampled_from([np.uint8, np.float32, np.float64, np.int16]).flatmap(arrays),
    keys=st.sampled_from([("x", "y"), ("image", "label"), ("X", "Y"), ("images", "labels"), ("data", "target")]),
    compressed=st.booleans(),
)
def test_an_npz_comes_back(image, keys, compressed):
    label = np.arange(len(image))
    with temporary() as folder:
        path = pathlib.Path(folder, "a.npz")
        (np.savez_compressed if compressed else np.savez)(path, **{keys[0]: image, keys[1]: label})
        found = read(path)
    np.testing.assert_array_equal(found.train.inputs, image)
    np.testing.assert_array_equal(found.train.label, label)
    assert found.train.inputs.dtype == image.dtype
    assert found.test is None


@pytest.mark.parametrize("pattern", ["x_train y_train x_test y_test", "train_image train_label test_image test_label"])
def test_an_npz_of_two_splits_has_both(pattern, folder):
    train, test = np.zeros((3, 2)), np.ones((2, 2))
    parts = (train, np.arange(3), test, np.arange(2))
    np.savez(folder / "a.npz", **dict(zip(pattern.split(), parts, strict=True)))
    found = read(folder / "a.npz")
    np.testing.assert_array_equal(found.test.inputs, test)
    np.testing.assert_array_equal(found.test.label, [0, 1])
    assert len(found.train.label) == 3


@FEW
@given(image=arrays(np.uint8))
def test_an_npy_comes_back(image):
    with temporary() as folder:
        np.save(pathlib.Path(folder, "a.npy"), image)
        np.testing.assert_array_equal(read(pathlib.Path(folder, "a.npy")).train.inputs, image)


def idx_bytes(array):
    code = next(code for code, kind in idx._TYPES.items() if np.dtype(kind) == array.dtype.newbyteorder(">"))
    head = bytes([0, 0, code, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@FEW
@given(
    image=st.sampled_from([np.uint8, np.int16, np.int32, np.float32, np.float64]).flatmap(
        lambda kind: arrays(kind, elements=None)
    ),
    zipped=st.booleans(),
    separator=st.sampled_from(["-", "."]),
)
def test_idx_files_come_back(image, zipped, separator):
    label = np.arange(len(image), dtype=np.uint8)
    pack, ending = (gzip.compress, ".gz") if zipped else (bytes, "")
    with temporary() as folder:
        for split in ("train", "t10k"):
            for what, array in (("images", image), ("labels", label)):
                name = f"{split}-{what}{separator}idx{array.ndim}-ubyte{ending}"
                pathlib.Path(folder, name).write_bytes(pack(idx_bytes(array)))
        found = read(folder)
    for split in (found.train, found.test):
        np.testing.assert_array_equal(split.inputs, image)
        np.testing.assert_array_equal(split.label, label)


IMAGES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3])))


@FEW
@given(image=IMAGES, zipped=st.booleans(), classes=st.lists(NAMES, min_size=1, max_size=3, unique=True))
def test_a_folder_of_images_comes_back(image, zipped, classes):
    with temporary() as place:
        root = pathlib.Path(place, "root")
        for name in classes:
            (root / name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(root / name / f"{i}.png")
        path = root
        if zipped:
            path = pathlib.Path(place, "a.zip")
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted(root.rglob("*.png")):
                    archive.write(file, file.relative_to(root))
        found = read(path)
    assert list(found.train.label) == [name for name in sorted(classes) for _ in range(2)]
    np.testing.assert_array_equal(found.train.inputs, np.stack([image] * 2 * len(classes)))


def test_a_flat_folder_has_no_labels_and_train_and_test_are_splits(folder):
    for name in ("a.png", "b.png"):
        Image.new("L", (3, 2), 7).save(folder / name)
    assert read(folder).train.label is None
    assert read(folder).train.inputs.shape == (2, 2, 3, 1)
    (folder / "split" / "train" / "cat").mkdir(parents=True)
    (folder / "split" / "test" / "dog").mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(folder / "split" / "train" / "cat" / "1.png")
    Image.new("RGB", (3, 2)).save(folder / "split" / "test" / "dog" / "1.jpg")
    found = read(folder / "split")
    assert (list(found.train.label), list(found.test.label)) == (["cat"], ["dog"])


def test_images_with_alpha_palettes_and_sixteen_bits_are_of_one_kind(folder):
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    clear.save(folder / "a.png")
    Image.new("RGB", (2, 2), (0, 0, 255)).convert("P").save(folder / "b.gif")
    Image.fromarray(np.full((2, 2), 65535, np.uint16)).save(folder / "c.png")
    pixels = read(folder).train.inputs
    np.testing.assert_array_equal(pixels[:, 0, 0], [(255, 255, 255), (0, 0, 255), (255, 255, 255)])


TABLES = st.integers(1, 6).flatmap(
    lambda n: st.dictionaries(NAMES, st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=4)
)


def columns_of(found, table):
    for name, values in table.items():
        np.testing.assert_array_equal(found.train.inputs[name], np.array(values))


@FEW
@given(table=TABLES, delimiter=st.sampled_from(",;\t|"))
def test_a_csv_comes_back(table, delimiter):
    with temporary() as folder:
        path = pathlib.Path(folder, "a.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow([*table, "label"])
            writer.writerows([*(repr(c) for c in row), "ä"] for row in zip(*table.values(), strict=True))
        found = read(path)
    columns_of(found, table)
    assert set(found.train.label) == {"ä"}


@FEW
@given(table=TABLES)
def test_lines_of_json_come_back(table):
    with temporary() as folder:
        path = pathlib.Path(folder, "a.jsonl")
        rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        path.write_text("\n".join(json.dumps({**row, "label": i}) for i, row in enumerate(rows)))
        found = read(path)
    columns_of(found, table)
    np.testing.assert_array_equal(found.train.label, np.arange(len(rows)))


@settings(max_examples=10, deadline=None)
@given(table=TABLES)
def test_parquet_comes_back(table):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    n = len(next(iter(table.values())))
    with temporary() as folder:
        path = pathlib.Path(folder, "a.parquet")
        parquet.write_table(pyarrow.table({**table, "label": ["a"] * n}), path)
        found = read(path)
    columns_of(found, table)
    assert set(found.train.label) == {"a"}


def test_parquet_with_images_has_their_pixels(folder):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    image = [{"bytes": file.getvalue(), "path": None}] * 3
    parquet.write_table(pyarrow.table({"image": image, "label": [0, 1, 1], "x": [0.0] * 3}), folder / "a.parquet")
    found = read(folder / "a.parquet")
    np.testing.assert_array_equal(found.train.inputs, np.stack([pixels] * 3))
    np.testing.assert_array_equal(found.train.label, [0, 1, 1])


@settings(max_examples=5, deadline=None)
@given(matrix=hnp.arrays(np.float32, (4, 3), elements=st.floats(-10, 10, width=32)), sparse=st.booleans())
def test_h5ad_comes_back(matrix, sparse):
    anndata = pytest.importorskip("anndata")
    import pandas
    import scipy.sparse

    obs = pandas.DataFrame({"cell_type": ["a", "b", "a", "b"]}, index=[f"c{i}" for i in range(4)])
    var = pandas.DataFrame(index=["g0", "g1", "g2"])
    with temporary() as folder:
        path = pathlib.Path(folder, "a.h5ad")
        anndata.AnnData(scipy.sparse.csr_matrix(matrix) if sparse else matrix, obs=obs, var=var).write_h5ad(path)
        found = read(path)
    for i in range(3):
        np.testing.assert_array_equal(found.train.inputs[f"g{i}"], matrix[:, i])
    assert list(found.train.label) == ["a", "b", "a", "b"]


def test_a_data_set_of_hugging_face_comes_back(folder):
    datasets = pytest.importorskip("datasets")
    pixels = [np.full((3, 4, 3), i, np.uint8) for i in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [Image.fromarray(p) for p in pixels]
    made = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(folder / "set"))
    found = read(folder / "set")
    np.testing.assert_array_equal(found.train.inputs, np.stack(pixels))
    np.testing.assert_array_equal(found.test.label, [0, 1, 0, 1])
    assert found.names == ("cat", "dog")


def test_columns_are_chosen_and_numbered_rows_left_out(folder):
    (folder / "a.csv").write_text("id,a,b,kind\n1,0.5,2,x\n2,,3,y\n3,1.5,4,x\n")
    found = read(folder / "a.csv", label="kind")
    assert list(found.train.inputs) == ["a", "b"]
    np.testing.assert_array_equal(found.train.inputs["a"], [0.5, np.nan, 1.5])
    assert any("'id'" in note for note in found.notes)
    assert list(read(folder / "a.csv", label="kind", columns=("b",)).train.inputs) == ["b"]
    assert read(folder / "a.csv", label="none").train.label is None


def png(width=2, height=3):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as found:
        for name, data in members.items():
            found.writestr(name.replace("__", "/"), data)
    return file.getvalue()


def npy(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.npz", b"", "a.npz: the file is empty"),
        ("a.csv", b"", "a.csv: the file is empty"),
        ("a.csv", b"a,b\n", "no rows in it"),
        ("a.csv", b"a,b\n1,2\n3\n", "row 3 has 1 cells, the first has 2"),
        ("a.csv", b"a,a\n1,2\n", "two columns are called 'a'"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\0\0", "not text"),
        ("a.csv", "a,b\n1,ä\n".encode("latin-1"), "not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', "line 2 is no JSON object"),
        ("a.jsonl", b'{"a": 1\n', "line 1 is no JSON"),
        ("a.npz", b"PK no archive", "damaged, or not a file of NumPy's arrays"),
        ("a.npz", png(), "damaged, or not a file of NumPy's arrays"),
        ("a.npy", npy(np.array([{}, {}], object)), "damaged, or not a file of NumPy's arrays: Object arrays"),
        ("a.npz", archive(**{"x.npy": npy(np.array([{}], object))}), "Object arrays cannot be loaded"),
        ("a.npz", archive(**{"z.npy": npy(np.zeros(3))}), "no key x, image, x_train, image_train"),
        (
            "a.npz",
            archive(**{"x.npy": npy(np.zeros((3, 2))), "y_train.npy": npy(np.zeros(3))}),
            "in two manners, x, y_tr",
        ),
        ("a.npz", archive(**{"..__..__x.npy": npy(np.zeros((3, 2)))}), "a path out of the archive: refused"),
        ("a.zip", archive(**{"..__a.png": png()}), "a path out of the archive: refused"),
        ("a.zip", archive(**{"a.txt": b"words"}), "no images in it"),
        ("a.zip", archive(**{"a.png": png(), "b.png": png(4, 4)}), "images differ in size: a.png is 3×2, b.png is 4×4"),
        ("a.zip", archive(**{"a.png": png()[:40]}), "a.png: not an image that can be read"),
        ("a.zip", archive(**{"a.png": b"no picture"}), "a.png: not an image that can be read: mend it, or take it out"),
        ("a.zip", archive(**{"a.png": b""}), "a.png: the file is empty"),
        ("a.parquet", b"a,b\n1,2\n", "damaged, or not a Parquet file"),
        ("a.h5ad", b"\x89HDF\r\n\x1a\n", "damaged, or not a file of anndata"),
        ("a.xlsx", b"PK", "no reader for '.xlsx'"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_file(name, data, message, folder):
    if name.endswith(("h5ad", "parquet")):
        pytest.importorskip("anndata" if name.endswith("h5ad") else "pyarrow")
    (folder / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        read(folder / name)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_of_nothing_and_a_path_of_nothing(folder):
    with pytest.raises(UserError, match="no images, no IDX files"):
        read(folder)
    with pytest.raises(UserError, match="there is no such file or folder"):
        read(folder / "none.npz")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.npy", npy(np.zeros((30, 8)))[:-100], "damaged, or not a file of NumPy's arrays"),
        ("x.npy", npy(np.zeros((30, 8), np.uint8))[:-100], "damaged, or not a file of NumPy's arrays"),
        ("x.npy", b"", "damaged, or not a file of NumPy's arrays"),
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(100))[:-9], "damaged, or not IDX files"),
        ("0.png", b"no picture", "not an image that can be read"),
    ],
)
def test_a_damaged_file_of_a_folder_is_named(name, content, message, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(folder)
    assert str(error.value).startswith(f"{folder / name}: {message}")
    assert "BytesIO" not in str(error.value)


@pytest.mark.parametrize("name", ["f.npz", "f.npy", "f.csv", "x.npy"])
def test_a_pipe_is_no_file(name, folder):
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=rf"{name}: no regular file"):
        read(folder if name == "x.npy" else folder / name)


def test_what_is_called_as_an_image_and_is_no_file_is_none(folder):
    (folder / "a.png").mkdir()
    os.mkfifo(folder / "b.png")
    with pytest.raises(UserError, match="no images, no IDX files"):
        read(folder)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EIO])
def test_a_folder_that_vanishes_or_is_closed_is_named(number, folder, monkeypatch):
    (folder / "a" / "deep").mkdir(parents=True)
    (folder / "z").mkdir()
    (folder / "z" / "0.png").write_bytes(png())
    scandir = os.scandir

    def failing(place):
        if str(place).endswith("deep"):
            raise OSError(number, os.strerror(number), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(UserError) as error:
        read(folder)
    assert str(error.value).startswith(f"{folder / 'a' / 'deep'}: cannot be read: {os.strerror(number)}")


def test_a_folder_that_cannot_be_listed_is_named(folder, monkeypatch):
    def closed(place):
        raise PermissionError(errno.EACCES, "Permission denied", str(place))

    monkeypatch.setattr(os, "listdir", closed)
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError) as error:
        read(folder)
    assert str(error.value).startswith(f"{folder}: cannot be read: Permission denied")


def test_a_name_too_long_for_a_file_is_one_line():
    with pytest.raises(UserError, match="cannot be looked at"):
        read(pathlib.Path("a" * 5000 + ".npy"))


def test_images_of_other_sizes_are_brought_to_one_where_that_is_asked_for(folder):
    (folder / "a.zip").write_bytes(archive(**{"a.png": png(), "b.png": png(4, 4)}))
    assert read(folder / "a.zip", resize=(5, 6)).train.inputs.shape == (2, 5, 6, 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One good file of each kind that is read without an extra, and Parquet: name → bytes."""
    rng = np.random.default_rng(0)
    place = tmp_path_factory.mktemp("whole")
    image, label = rng.integers(0, 256, (20, 4, 4), dtype=np.uint8), np.arange(20) % 2
    np.savez_compressed(place / "a.npz", x=image, y=label)
    np.save(place / "a.npy", image)
    rows = [f"{a},{b:.3f},{'uv'[i % 2]}" for i, (a, b) in enumerate(rng.normal(size=(20, 2)))]
    (place / "a.csv").write_text("\n".join(["a,b,label", *rows]))
    (place / "a.jsonl").write_text("\n".join(json.dumps({"a": i, "label": i % 2}) for i in range(20)))
    members = {f"{'cd'[i % 2]}__{i}.png": png() for i in range(20)}
    (place / "a.zip").write_bytes(archive(**members))
    (place / "train-images-idx3-ubyte").write_bytes(idx_bytes(image))
    try:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"a": list(range(20)), "label": ["u", "v"] * 10}), place / "a.parquet")
    except ImportError:
        pass
    return {path.name: path.read_bytes() for path in place.iterdir()}


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(data, whole):
    """Cut off, or with bits flipped: 500 of them. What reads all the same has examples."""
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for at in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=8)):
            content[at // 8] ^= 1 << at % 8
    with temporary() as folder:
        path = pathlib.Path(folder, name)
        path.write_bytes(content)
        try:
            found = read(folder if "idx" in name else path)
        except UserError as error:
            said = str(error)
        else:
            said = f"{name}: {found.source}"
    assert "\n" not in said
    assert name in said or folder in said
