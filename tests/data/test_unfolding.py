"""Files of a few bytes that claim to be gigabytes: refused in a line before anything of that size is allocated."""

import gzip
import io
import pathlib
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from topojax.data import readers, unfolding
from topojax.data.raw import Options
from topojax.errors import UserError
from topojax.storage import named_tensors

SMALL = 2**16
"""What any file may unfold to, here."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(unfolding, "UNFOLDED", SMALL)


def head(shape, kind="<f8"):
    """The beginning of a .npy file, without its numbers."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
    return out.getvalue()


def packed(**members):
    """A zip file, deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return out.getvalue()


def png(width, height):
    """An image of one colour, by its head alone and a row."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    begun = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + begun + chunk(b"IDAT", zlib.compress(bytes(1 + 3 * width))) + chunk(b"IEND", b"")


ZEROS = bytes(2**22)
BOMBS = {
    "a.npy": head((2**40,)),
    "a.npz": packed(x__npy=head((2**40, 2))),
    "b.npz": packed(x__npy=head((2**19,)) + ZEROS),
    "a.zip": packed(a__png=ZEROS),
    "b.zip": packed(a__png=png(4000, 4000)),
    "train-images-idx3-ubyte.gz": gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", 2**10, 64, 64) + ZEROS),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_unfolds_to_far_more_than_it_is_is_refused_before_it_does(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    read = tmp_path if "idx" in name else path
    tracemalloc.start()
    with pytest.raises(UserError, match="more than 200 times as many: refused") as refused:
        readers.read(read, Options())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert most < 2**21 + unfolding.LARGEST_FACTOR * len(BOMBS[name]) + SMALL


def test_what_is_as_large_as_it_says_is_read(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 20, 20), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=image)
    np.save(tmp_path / "a.npy", image)
    for name in ("a.npz", "a.npy"):
        np.testing.assert_array_equal(readers.read(tmp_path / name, Options()).train.inputs, image)


def test_what_this_machine_does_not_hold_is_refused(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros((1000, 10)))
    monkeypatch.setattr(unfolding, "available", lambda: 10_000)
    with pytest.raises(UserError, match=r"a\.npy: 80000 bytes, and this machine has 10000"):
        readers.read(tmp_path / "a.npy", Options())


def test_a_column_of_one_long_text_is_not_unpacked(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"a": ["x" * 2000] * 20_000}), path)  # 40 MB of a few kB
    with pytest.raises(UserError, match=r"a\.parquet: \d+ bytes that claim to be"):
        readers.read(path, Options())
    parquet.write_table(pyarrow.table({"a": [0] * 10**7}), path)
    with pytest.raises(UserError, match=r"a\.parquet: \d+ bytes that claim to be"):
        readers.read(path, Options())


def test_a_matrix_without_numbers_is_not_filled(tmp_path):
    pytest.importorskip("anndata")
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5ad"
    for sparse in (False, True):
        with h5py.File(path, "w") as file:
            if sparse:
                file.create_group("X").attrs["shape"] = [10**6, 10**6]
            else:
                file.create_dataset("X", (10**6, 10**6), "f4", chunks=(100, 100))
        with pytest.raises(UserError, match="claim to be 4000000000000"):
            readers.read(path, Options())


def test_a_checkpoint_of_the_original_is_held_to_the_same(tmp_path):
    path = pathlib.Path(tmp_path, "a.npz")
    path.write_bytes(packed(x__npy=head((2**19,)) + ZEROS))
    with pytest.raises(UserError, match="more than 200 times as many"):
        named_tensors.load(path)
