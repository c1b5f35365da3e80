"""Sets that tfds has prepared otherwise than usual: other contents, ArrayRecords, floats, other folders."""

import json
import os
import stat

import numpy as np
import pytest

from topojax.data import sets, tfds_arrays
from topojax.errors import UserError


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """(place, content) → a directory as tfds leaves it; decoding gives labels that its content says."""

    def make(place, content, dtype=np.uint8):
        path = tmp_path / place / "mnist" / "3.0.1"
        path.mkdir(parents=True)
        (path / "dataset_info.json").write_text(json.dumps({"splits": []}))
        (path / "mnist-train.tfrecord-00000-of-00001").write_bytes(content)
        return path

    def decode(directory):
        first = (directory / "mnist-train.tfrecord-00000-of-00001").read_bytes()[0]
        image = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
        if first == 2:
            image = image.astype(np.float32) / 255
        label = np.arange(40, dtype=np.int32) % 10
        label = 9 - label if first == 1 else label
        return tfds_arrays.Splits(image[:20], label[:20], image[20:], label[20:])

    monkeypatch.setattr(tfds_arrays, "decode", decode)
    return make


def test_the_cache_is_of_the_contents_not_of_names_and_sizes(prepared):
    one, other = prepared("a", b"\0same"), prepared("b", b"\1same")
    first, second = (tfds_arrays.load(directory) for directory in (one, other))
    np.testing.assert_array_equal(second.train_label, 9 - first.train_label)
    np.testing.assert_array_equal(tfds_arrays.load(other).train_label, second.train_label)


@pytest.mark.parametrize("part", ["", "mnist", "mnist/3.0.1"])
def test_any_of_the_three_levels_is_a_data_dir(part, prepared, tmp_path):
    path = prepared("a", b"\0")
    assert tfds_arrays.find("mnist", str(tmp_path / "a" / part)) == path
    assert tfds_arrays.prepared("mnist", str(tmp_path / "a" / part))
    with pytest.raises(UserError, match="data set cifar10 not found"):
        tfds_arrays.find("cifar10", str(tmp_path / "a" / part))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_cached_file_has_the_umask_s_mode(prepared):
    path = prepared("a", b"\0")
    before = os.umask(0o022)
    try:
        tfds_arrays.load(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(tfds_arrays.cache_path(path).stat().st_mode) == 0o644


def test_floats_are_scaled_by_what_they_hold_and_that_is_said(prepared, tmp_path):
    from topojax.config.defaults import default_config

    prepared("a", b"\0")
    prepared("b", b"\2")
    c = default_config().data
    c.name, c.data_dir = "mnist", str(tmp_path / "a")
    usual = sets.load(c, seed=0)
    c.data_dir = str(tmp_path / "b")
    floats = sets.load(c, seed=0)
    np.testing.assert_array_equal(usual.train.image, floats.train.image)
    assert not usual.notes
    assert "float32, taken as they are" in floats.notes[0]


@pytest.mark.tf
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_either_kind_of_record_is_read(kind, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    tf = pytest.importorskip("tensorflow")
    image = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8)
    label = np.arange(12) % 3
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(4, 4, 1)), "label": tfds.features.ClassLabel(num_classes=3)}
    )
    rows = {"image": image, "label": label}
    split = tf.data.Dataset.from_tensor_slices(rows)
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mine",
        version="1.0.0",
        features=features,
        split_datasets={"train": split, "test": split},
        data_dir=str(tmp_path),
        disable_shuffling=True,
        file_format=kind,
    )
    found = tfds_arrays.decode(tfds_arrays.find("mine", str(tmp_path)))
    np.testing.assert_array_equal(found.train_image, image)
    np.testing.assert_array_equal(found.test_label, label)
