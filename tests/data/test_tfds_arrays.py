"""Prepared data sets: finding them, the cache, the commands; with TFDS_DATA_DIR set, the real files too."""

import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from topojax.commands import main
from topojax.data import sets, tfds_arrays
from topojax.errors import UserError

needs_files = pytest.mark.skipif(
    not os.environ.get("TFDS_DATA_DIR"), reason="TFDS_DATA_DIR does not say where tfds' data sets are"
)
INFO = {"splits": [{"name": "train", "shardLengths": ["3", "4"]}, {"name": "test", "shardLengths": ["2"]}]}


def config(name, **fields):
    """What `load` reads of `config.data`."""
    defaults = {"num_examples": None, "data_dir": None, "test_fraction": None, "noise": 0.0, "cache": True}
    return types.SimpleNamespace(name=name, neighbours=0, **{**defaults, **fields})


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """An empty cache, so that no test reads what another, or the user, left there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def decoded_once(tmp_path_factory):
    """A cache that the tests of real files share: each of these is decoded once."""
    return tmp_path_factory.mktemp("decoded")


@pytest.fixture
def directory(tmp_path):
    """What a prepared data set looks like from outside."""
    path = tmp_path / "tfds" / "mnist" / "3.0.1"
    path.mkdir(parents=True)
    (path / "dataset_info.json").write_text(json.dumps(INFO))
    (path / "mnist-train.tfrecord-00000-of-00001").write_bytes(b"not really")
    return path


@pytest.fixture
def decoder(monkeypatch):
    """Replaces decoding by tfds: random images; `calls` lists what was decoded."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 4, 4, 1), dtype=np.uint8)
    splits = tfds_arrays.Splits(images[:7], np.arange(7, dtype=np.int32), images[7:], np.arange(2, dtype=np.int32))
    calls = []

    def decode(directory):
        calls.append(directory)
        return splits

    monkeypatch.setattr(tfds_arrays, "decode", decode)
    return types.SimpleNamespace(calls=calls, splits=splits)


def _equal(one, other):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def _python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        cwd=pathlib.Path(__file__).parents[2],
        timeout=120,
    )


def test_root_follows_the_rule_of_tfds(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/from/env")
    assert tfds_arrays.root("/told") == pathlib.Path("/told")
    assert tfds_arrays.root(None) == pathlib.Path("/from/env")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds_arrays.root(None) == pathlib.Path.home() / "tensorflow_datasets"


def test_find_takes_the_newest_complete_version(directory):
    place = str(directory.parents[1])
    assert tfds_arrays.find("mnist", place) == directory
    for version in ("3.0.10", "3.0.2", "4.0.0.incompleteXYZ", "notes"):
        (directory.parent / version).mkdir()
        (directory.parent / version / "dataset_info.json").write_text(json.dumps(INFO))
    (directory.parent / "9.0.0").mkdir()  # without dataset_info.json: not prepared
    assert tfds_arrays.find("mnist", place).name == "3.0.10"


def test_missing_data_set_is_refused_with_the_command_that_fetches_it(tmp_path):
    with pytest.raises(UserError) as error:
        sets.load(config("cifar10", data_dir=str(tmp_path)), seed=0)
    assert str(error.value) == (
        f"data set cifar10 not found in {tmp_path}; fetch it with: topojax data fetch cifar10 --data_dir={tmp_path}"
    )


def test_split_sizes_come_from_dataset_info(directory):
    assert tfds_arrays.split_sizes(directory) == {"train": 7, "test": 2}
    for broken in ("{", "[]", '{"splits": [{"name": "train"}]}'):
        (directory / "dataset_info.json").write_text(broken)
        with pytest.raises(UserError, match=r"cannot read .*dataset_info\.json"):
            tfds_arrays.split_sizes(directory)


def test_second_load_comes_from_the_cache(directory, decoder, cache_home):
    first, second = (tfds_arrays.load(directory) for _ in range(2))
    assert decoder.calls == [directory]
    assert _equal(first, decoder.splits)
    assert _equal(second, decoder.splits)
    files = list((cache_home / "topojax" / "data").iterdir())
    assert files == [tfds_arrays.cache_path(directory)]  # and no temporary file stays behind
    assert files[0].name.startswith("mnist-3.0.1-")


def test_cache_is_off_when_told(directory, decoder, cache_home):
    for _ in range(2):
        tfds_arrays.load(directory, cache=False)
    assert len(decoder.calls) == 2
    assert not cache_home.exists()


def test_changed_source_files_are_decoded_anew(directory, decoder):
    tfds_arrays.load(directory)
    record = directory / "mnist-train.tfrecord-00000-of-00001"
    record.write_bytes(b"another size")
    tfds_arrays.load(directory)
    record.rename(directory / "mnist-train.tfrecord-00000-of-00002")
    tfds_arrays.load(directory)
    assert len(decoder.calls) == 3


def _flip(raw, at):
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"no archive at all",
        lambda raw: _flip(raw, len(raw) // 2),
    ],
    ids=["truncated", "empty", "foreign", "bit flip"],
)
def test_damaged_cache_is_decoded_again_and_mended(directory, decoder, damage):
    tfds_arrays.load(directory)
    path = tfds_arrays.cache_path(directory)
    path.write_bytes(damage(path.read_bytes()))
    assert _equal(tfds_arrays.load(directory), decoder.splits)
    assert len(decoder.calls) == 2
    tfds_arrays.load(directory)
    assert len(decoder.calls) == 2


def test_cache_with_a_wrong_checksum_is_not_believed(directory, decoder):
    path = tfds_arrays.cache_path(directory)
    path.parent.mkdir(parents=True)
    forged = decoder.splits._replace(train_image=decoder.splits.train_image[::-1])
    checksum = np.array(tfds_arrays.digest(*decoder.splits))
    with path.open("wb") as file:
        np.savez(file, sha256=checksum, **forged._asdict())
    assert _equal(tfds_arrays.load(directory), decoder.splits)
    assert len(decoder.calls) == 1


def test_unwritable_cache_is_passed_over(directory, decoder, cache_home):
    cache_home.write_text("a file where the folder should be")
    assert _equal(tfds_arrays.load(directory), decoder.splits)


def test_failed_write_leaves_nothing(directory, decoder, cache_home, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert _equal(tfds_arrays.load(directory), decoder.splits)
    assert list((cache_home / "topojax" / "data").iterdir()) == []


def test_digest_tells_contents_shapes_and_dtypes_apart():
    zeros = np.zeros((2, 3), np.int32)
    others = [np.ones_like(zeros), zeros.reshape(3, 2), zeros.astype(np.float32)]
    assert len({tfds_arrays.digest(array) for array in (zeros, *others)}) == 4
    assert tfds_arrays.digest(zeros) == tfds_arrays.digest(zeros.copy(order="F"))


def test_cached_load_imports_no_tensorflow(directory, decoder, cache_home):
    tfds_arrays.load(directory)
    done = _python(
        "import sys, types; from topojax.data import sets;"
        f"c = types.SimpleNamespace(name='mnist', num_examples=None, data_dir={str(directory.parents[1])!r},"
        " neighbours=0, test_fraction=None, noise=0.0, cache=True);"
        "d = sets.load(c, seed=0); assert d.train.image.shape == (7, 16), d.train.image.shape;"
        "print(sorted(set(sys.modules) & {'tensorflow', 'tensorflow_datasets', 'sklearn'}))",
        XDG_CACHE_HOME=str(cache_home),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_without_tensorflow_the_extra_is_named(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # makes the import fail
    with pytest.raises(UserError, match=r"pip install 'topojax\[tf\]'"):
        tfds_arrays.load(directory)


def test_list_shows_sizes_and_what_is_missing(directory, capsys):
    assert main(["data", "list", f"--data_dir={directory.parents[1]}"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(sets.NAMES)
    assert lines["mnist"] == "7 train / 2 test examples, 28×28×1, 10 classes"
    assert lines["cifar10"].startswith(f"not in {directory.parents[1]}: fetch it first")
    assert lines["digits"] == "1797 examples, 8×8×1, 10 classes"
    assert lines["sphere_3d"] == "2000 points unless told, 3 numbers, 8 classes"


def test_listed_shapes_hold():
    for name in ("digits", "swiss_roll_2d", "sphere_3d"):
        loaded = sets.load(config(name), seed=0)
        total = len(loaded.train.label) + len(loaded.test.label)
        described = sets.describe(name, None)
        assert described.startswith(f"{total} ")
        assert described.endswith(f"{loaded.num_classes} classes")


def test_fetch_of_what_is_there_downloads_nothing(directory, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("went to the network")

    monkeypatch.setattr(tfds_arrays.urllib.request, "urlopen", refuse)
    assert main(["data", "fetch", "mnist", f"--data_dir={directory.parents[1]}"]) == 0
    assert capsys.readouterr().out.strip() == f"mnist is in {directory}"


@pytest.mark.slow
def test_fetch_without_network_is_one_line_and_status_2(tmp_path):
    # A proxy at a closed port: no connection, wherever the test runs.
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    env = {**os.environ, **closed, "no_proxy": "", "NO_PROXY": ""}
    command = [sys.executable, "-m", "topojax", "data", "fetch", "mnist", f"--data_dir={tmp_path}"]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, cwd=pathlib.Path(__file__).parents[2]
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "topojax: error: cannot fetch mnist: no connection to https://storage.googleapis.com/"
    )


def test_fetch_prepares_by_tfds_and_reports_its_failure(tmp_path, monkeypatch, capsys):
    class Builder:
        def __init__(self, name, data_dir):
            self.place = pathlib.Path(data_dir) / name / "3.0.1"

        def download_and_prepare(self):
            if fails:
                raise RuntimeError("checksum differs\nand a long story")
            self.place.mkdir(parents=True)
            (self.place / "dataset_info.json").write_text(json.dumps(INFO))

    monkeypatch.setattr(
        tfds_arrays.urllib.request, "urlopen", lambda *a, **k: types.SimpleNamespace(close=lambda: None)
    )
    monkeypatch.setattr(tfds_arrays, "_import_tfds", lambda: types.SimpleNamespace(builder=Builder))
    fails = True
    assert main(["data", "fetch", "mnist", f"--data_dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"topojax: error: cannot fetch mnist into {tmp_path}: checksum differs\n"
    fails = False
    assert main(["data", "fetch", "mnist", f"--data_dir={tmp_path}"]) == 0
    assert capsys.readouterr().out == f"mnist is in {tmp_path / 'mnist' / '3.0.1'}\n"


def test_fetch_of_what_needs_no_fetching_is_refused(capsys):
    assert main(["data", "fetch", "digits"]) == 2
    assert "'digits'" in capsys.readouterr().err


@pytest.mark.tf
@pytest.mark.slow  # its process has TensorFlow in memory from then on
def test_undecodable_files_are_refused_with_the_way_out(directory):
    with pytest.raises(UserError, match=r"cannot decode .*3\.0\.1 .*fetch mnist --data_dir="):
        tfds_arrays.load(directory)


@pytest.mark.tf
@needs_files
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.slow
def test_prepared_files_decode_and_come_back_from_the_cache(name, decoded_once, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(decoded_once))
    directory = tfds_arrays.find(name, None)
    sizes = tfds_arrays.split_sizes(directory)
    fresh, cached = (sets.load(config(name), seed=0) for _ in range(2))
    assert tfds_arrays.cache_path(directory).exists()
    assert fresh.manifest == cached.manifest
    assert (len(fresh.train.label), len(fresh.test.label)) == (sizes["train"], sizes["test"])
    assert fresh.image_shape == tfds_arrays.SOURCES[name].image_shape
    assert fresh.train.image.shape[1] == np.prod(fresh.image_shape)
    assert set(fresh.train.label) == set(range(10))
    np.testing.assert_array_equal(fresh.test.image, cached.test.image)


@pytest.mark.tf
@needs_files
@pytest.mark.slow
def test_mean_image_of_the_mnist_test_split_has_the_known_error(decoded_once, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(decoded_once))
    # Pixels in [0, 1], predicting the mean image: MSE 0.0675.
    test = sets.load(config("mnist"), seed=0).test.image
    error = np.mean((test - test.mean(axis=0, keepdims=True)) ** 2)
    assert error == pytest.approx(0.0675, abs=1e-4)
