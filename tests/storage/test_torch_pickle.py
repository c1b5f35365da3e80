"""Files of torch.save: read as they are, and harmless whatever they say."""

import contextlib
import json
import os
import pathlib
import pickle
import pickletools
import resource
import socket
import time
import zipfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import original_file
import pytest

from topojax.errors import UserError
from topojax.storage import named_tensors, torch_pickle


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "topo_epoch_00003.pt"
    original_file.save(path, original_file.tree())
    return path


def test_tensors_arrays_and_numbers_come_back(checkpoint):
    tree = original_file.tree()
    found = torch_pickle.load(checkpoint)
    assert found["config"] == tree["config"]
    assert found["metrics"]["adaptive_weight_state"] == tree["metrics"]["adaptive_weight_state"]
    wanted = original_file.flat(tree)
    got = dict(named_tensors.leaves(found))
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, name)
        assert got[name].shape == value.shape


def test_the_flat_formats_hold_the_same(tmp_path, checkpoint):
    tree = original_file.tree()
    wanted = dict(named_tensors.leaves(named_tensors.load(checkpoint)))
    for ending, save in ((".npz", original_file.save_npz), (".safetensors", original_file.save_safetensors)):
        path = tmp_path / f"file{ending}"
        save(path, tree)
        found = named_tensors.load(path)
        assert found["config"] == tree["config"]
        assert found["epoch"] == 3
        got = dict(named_tensors.leaves(found))
        assert got.keys() == wanted.keys()
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name], name)


class Calls:
    """Pickles to a call of anything."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def by_hand(*opcodes):
    return b"\x80\x02" + b"".join(opcodes) + b"."


def put(index):
    return b"r" + index.to_bytes(4, "little")


RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
EXPANDED = (  # one number, seen ten thousand million times
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    b"K\x01tQK\x00\x8a\x05\x00\xe4\x0b\x54\x02\x85K\x00\x85\x89ccollections\nOrderedDict\n)RtR"
)
BOMBS = {
    "10 GB by numpy": by_hand(RECONSTRUCT, b"cnumpy\nndarray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85X\x01\x00\x00\x00b\x87R"),
    "10 GB by an expanded tensor": by_hand(EXPANDED),
    "10 GB of memory cells": by_hand(b"]", put(0x7FFFFFFF)),
    "10 GB by a long length": b"\x80\x04\x8e" + (10**10).to_bytes(8, "little") + b"x.",
    "an array that is made": by_hand(b"cnumpy\nndarray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85\x85R"),
    "bytes of a codec": by_hand(b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R"),
    "lists in lists": by_hand(b"]" * 200_000, b"a" * 199_999),
    "doubled lists": by_hand(b"]q\x00", *(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 120))),
    "no end": b"\x80\x02}",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_nothing(tmp_path, name):
    path = tmp_path / "bomb.pt"
    original_file.save(path, original_file.Tensor(1.0), program=BOMBS[name])
    before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(UserError) as caught:
        named_tensors.load(path)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - since < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_tensor_larger_than_its_storage_is_told(tmp_path):
    path = tmp_path / "bomb.pt"
    original_file.save(path, original_file.Tensor(1.0), program=BOMBS["10 GB by an expanded tensor"])
    with pytest.raises(UserError, match="a tensor of 10000000000 numbers in a storage of 1"):
        named_tensors.load(path)


def test_a_name_that_is_not_on_the_list_is_told_and_not_called(tmp_path):
    marker = tmp_path / "marker"
    for protocol in (0, 1, 2, 4):
        for call in (Calls(os.system, f"touch {marker}"), Calls(eval, f"open({str(marker)!r}, 'w')")):
            path = tmp_path / "evil.pt"
            original_file.save(path, {}, program=pickle.dumps({"state": call}, protocol=protocol))
            with pytest.raises(UserError, match=r"names (posix\.system|builtins\.eval|__builtin__\.eval)"):
                named_tensors.load(path)
    assert not marker.exists()


def test_a_pickle_within_an_allowed_name_is_not_followed(tmp_path):
    """`collections.OrderedDict.fromkeys` and the like: a dotted name is another name."""
    path = tmp_path / "dotted.pt"
    program = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."
    original_file.save(path, {}, program=program)
    with pytest.raises(UserError, match=r"OrderedDict\.fromkeys"):
        named_tensors.load(path)


def test_nothing_is_imported(tmp_path, checkpoint):
    """The seven names are not those of the modules: numpy's own `_reconstruct` is not among what was found."""
    names = {
        str(argument) for opcode, argument, _ in pickletools.genops(_program(checkpoint)) if opcode.name == "GLOBAL"
    }
    assert len(names) == 7
    for name in names:
        assert torch_pickle._GLOBALS[tuple(name.split(" "))].__module__ == torch_pickle.__name__


def _program(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("archive/data.pkl")


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_refused_or_read(tmp_path_factory, checkpoint, data):
    content = bytearray(checkpoint.read_bytes())
    if data.draw(st.booleans(), label="truncated"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        program = _program(checkpoint)
        start = bytes(content).index(program)
        for _ in range(data.draw(st.integers(1, 5))):
            at = data.draw(st.integers(0, len(program) - 1)) if data.draw(st.booleans()) else None
            place = start + at if at is not None else data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "file.pt"
    path.write_bytes(bytes(content))
    with contextlib.suppress(UserError):
        assert isinstance(named_tensors.load(path), dict)


@hypothesis.given(st.binary(max_size=300))
@hypothesis.settings(max_examples=200, deadline=None)
def test_any_pickle_is_refused_or_read(tmp_path_factory, program):
    path = tmp_path_factory.mktemp("any") / "file.pt"
    original_file.save(path, original_file.Tensor(1.0), program=b"\x80\x02" + program)
    with contextlib.suppress(UserError):
        assert isinstance(named_tensors.load(path), dict)


def test_compressed_parts_are_refused(tmp_path):
    """A thousand million zeros are a megabyte, compressed."""
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(UserError, match="compressed"):
        named_tensors.load(path)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pt", ".txt"])
def test_files_that_are_none_of_these(tmp_path, ending):
    path = tmp_path / f"file{ending}"
    with pytest.raises(UserError, match=r"there is no file|ends in one of"):
        named_tensors.load(path)
    for content in (b"", b"PK\x03\x04", b"\xff" * 100, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "):
        path.write_bytes(content)
        if ending == ".safetensors" and content.endswith(b"{}      "):
            assert named_tensors.load(path) == {}
            continue
        with pytest.raises(UserError):
            named_tensors.load(path)


def test_an_npz_with_a_pickle_or_a_shape_that_lies_is_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, config=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"pickle|numbers"):
        named_tensors.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000,), }"
        header += b" " * (118 - len(header) - 1) + b"\n"
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(UserError, match="shorter than its shape"):
        named_tensors.load(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "its header is no table of tensors"),
        (None, "its header is no table of tensors"),
        ({"x": 5}, "its header is no table of tensors"),
        ({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, "x holds BF16, not one of F64, F32"),
        ({"x": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, "not one of F64, F32"),
        ({"x": {"dtype": "F32", "data_offsets": [0, 8]}}, "x has no shape"),
        ({"__metadata__": []}, "no texts"),
        ({"__metadata__": None}, "no texts"),
        ({"__metadata__": {"config": 5}}, "no texts"),
        ({"__metadata__": {"config": "{"}}, "not JSON"),
        ({"/".join("a" * 2000): {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, "2000 levels"),
        ({"x": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}, "lies outside the file"),
        ({"x": {"dtype": "U8", "shape": [2**40], "data_offsets": [0, 2**40]}}, "lies outside the file"),
        ({"x": {"dtype": "U8", "shape": [-1, -1], "data_offsets": [0, 1]}}, "no number"),
        ({n: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for n in "xy"}, "more bytes than the file"),
        ({"config": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "__metadata__": {"config": "{}"}}, "a text"),
    ],
)
def test_headers_of_safetensors_that_cannot_be(tmp_path, header, message):
    head = json.dumps(header).encode()
    (tmp_path / "file.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
    with pytest.raises(UserError, match=message) as caught:
        named_tensors.load(tmp_path / "file.safetensors")
    assert "\n" not in str(caught.value)


def test_names_of_an_npz_are_of_few_levels(tmp_path):
    np.savez(tmp_path / "file.npz", **{"/".join("a" * 3000): np.zeros(1)})
    with pytest.raises(UserError, match="3000 levels, at most 32"):
        named_tensors.load(tmp_path / "file.npz")


OTHERS = {
    "is empty": b"",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a gzip file": b"\x1f\x8b\x08" + bytes(100),
    "before 1.6": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2),
    "a bare pickle": pickle.dumps({"config": {}, "state": {}}),
    "not a whole zip file": b"epoch,loss\n1,0.5\n",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_of_other_programs_are_named(tmp_path, kind):
    path = tmp_path / "file.pt"
    path.write_bytes(OTHERS[kind])
    with pytest.raises(UserError, match=kind):
        named_tensors.load(path)


@pytest.mark.parametrize("ending", [".pt", ".npz", ".safetensors"])
def test_folders_pipes_and_sockets_are_not_opened(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    os.mkfifo(f"pipe{ending}")
    pathlib.Path(f"folder{ending}").mkdir()
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(f"socket{ending}")
        for name in ("pipe", "folder", "socket"):
            with pytest.raises(UserError, match="is no file"):
                named_tensors.load(pathlib.Path(f"{name}{ending}"))


def test_zip_files_of_other_programs(tmp_path):
    with zipfile.ZipFile(tmp_path / "book.pt", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    with pytest.raises(UserError, match=r"without a data\.pkl"):
        named_tensors.load(tmp_path / "book.pt")
    original_file.save(tmp_path / "list.pt", [original_file.Tensor(1.0)])
    with pytest.raises(UserError, match="it holds list"):
        named_tensors.load(tmp_path / "list.pt")


def test_a_part_that_claims_another_size_than_it_has_is_refused(tmp_path, checkpoint):
    """In the central directory, which is what is believed: size 4 bytes before, and size packed."""
    content = bytearray(checkpoint.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
    (tmp_path / "file.pt").write_bytes(bytes(content))
    with pytest.raises(UserError, match="claims another size"):
        named_tensors.load(tmp_path / "file.pt")


def test_a_storage_that_claims_10_gb_is_refused(tmp_path):
    program = EXPANDED.replace(b"K\x01tQ", b"\x8a\x05\x00\xe4\x0b\x54\x02tQ")
    original_file.save(tmp_path / "file.pt", original_file.Tensor(1.0), program=by_hand(program))
    with pytest.raises(UserError, match="storage 0 should have 40000000000 bytes, it has 4"):
        named_tensors.load(tmp_path / "file.pt")


def test_a_storage_that_is_not_there_is_missing(tmp_path):
    program = EXPANDED.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x007")
    assert program != EXPANDED
    original_file.save(tmp_path / "file.pt", original_file.Tensor(1.0), program=by_hand(program))
    with pytest.raises(UserError, match="storage 7 is missing"):
        named_tensors.load(tmp_path / "file.pt")


def test_a_pickle_cut_in_half_is_told_as_one(tmp_path, checkpoint):
    whole = _program(checkpoint)
    original_file.save(tmp_path / "file.pt", {}, program=whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"file\.pt cannot be read: its pickle is cut off or damaged"):
        named_tensors.load(tmp_path / "file.pt")


def test_one_storage_seen_as_thousands_of_tensors_is_refused(tmp_path):
    """Each is as large as the file: whoever copies them has thousands of files."""
    once = (
        b"ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpuM\xe8\x03tQK\x00M\xe8\x03\x85K\x01\x85\x89ccollections\nOrderedDict\n)Rtq\x01R"
    )
    path = tmp_path / "file.pt"
    for times, good in ((1, True), (500, False)):
        original_file.save(
            path,
            original_file.Tensor(np.zeros(1000)),
            program=by_hand(b"}K\x00](", once, b"h\x00h\x01R" * times, b"es"),
        )
        if good:
            assert len(named_tensors.load(path)[0]) == times + 1
        else:
            with pytest.raises(UserError, match="unfolds to more than the file"):
                named_tensors.load(path)
