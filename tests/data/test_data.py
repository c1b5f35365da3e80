"""Loading, splitting, checking and ordering data sets; test_tfds_arrays.py has those that tfds prepares."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.data import sets, tfds_arrays
from topojax.errors import UserError
from topojax.types import Batch


def config(**fields):
    """What `load` reads of `config.data`."""
    defaults = {
        "name": "digits",
        "num_examples": None,
        "data_dir": None,
        "test_fraction": None,
        "noise": 0.02,
        "cache": True,
    }
    return types.SimpleNamespace(**{"neighbours": 0, **defaults, **fields})


@pytest.fixture(scope="module")
def digits():
    return sets.load(config(), seed=0)


@pytest.fixture
def prepared(monkeypatch):
    """A stand-in for a prepared MNIST: 60 training and 20 test images of 2×3 pixels, no two alike."""
    image = np.random.default_rng(0).integers(0, 256, (80, 2, 3, 1), dtype=np.uint8)
    splits = tfds_arrays.Splits(
        image[:60],
        np.arange(60, dtype=np.int32) % 10,
        image[60:],
        np.arange(20, dtype=np.int32) % 10,
    )
    monkeypatch.setattr(tfds_arrays, "find", lambda name, data_dir: types.SimpleNamespace(name="3.0.1"))
    monkeypatch.setattr(tfds_arrays, "load", lambda directory, *, cache: splits)
    return splits


def _rows(*images):
    return {row.tobytes() for image in images for row in np.asarray(image)}


def test_digits_are_split_scaled_and_typed(digits):
    # 0.2 · 1797 = 359.4.
    assert digits.train.image.shape == (1438, 64)
    assert digits.test.image.shape == (359, 64)
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    for batch in (digits.train, digits.test):
        assert batch.image.dtype == np.float32
        assert batch.label.dtype == np.int32
        assert batch.image.min() == 0
        assert batch.image.max() == 1
    # Sixteenths, as sklearn has them.
    np.testing.assert_array_equal(digits.train.image * 16, np.round(digits.train.image * 16))


def test_train_and_test_partition_the_digits(digits):
    from sklearn.datasets import load_digits

    raw = load_digits()
    rows = np.concatenate([digits.train.image, digits.test.image]) * 16
    labels = np.concatenate([digits.train.label, digits.test.label])
    ours = sorted((row.tobytes(), label) for row, label in zip(rows.astype(int), labels, strict=True))
    theirs = sorted((row.tobytes(), label) for row, label in zip(raw.data.astype(int), raw.target, strict=True))
    assert ours == theirs


def test_digits_split_keeps_the_shares_of_the_classes(digits):
    train, test = (np.bincount(batch.label, minlength=10) for batch in (digits.train, digits.test))
    assert np.abs(test - (train + test) * 359 / 1797).max() < 1


@pytest.mark.parametrize("name", ["digits", "moons_2d"])
def test_loading_is_a_function_of_the_seed(name):
    one, again, other = (sets.load(config(name=name, num_examples=100), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.train.image, again.train.image)
    np.testing.assert_array_equal(one.test.label, again.test.label)
    assert one.manifest == again.manifest
    assert _rows(one.train.image) != _rows(other.train.image)
    assert one.manifest["train"]["sha256"] != other.manifest["train"]["sha256"]


def test_manifest_is_json_and_tells_the_splits(digits):
    assert json.loads(json.dumps(digits.manifest)) == digits.manifest
    assert digits.manifest["name"] == "digits"
    assert digits.manifest["source"] == "sklearn.datasets.load_digits"
    assert digits.manifest["train"]["examples"] == 1438
    assert digits.manifest["test"]["examples"] == 359
    assert digits.manifest["train"]["sha256"] != digits.manifest["test"]["sha256"]


def test_manifolds_have_points_of_the_size_asked_for():
    default = sets.load(config(name="swiss_roll_3d"), seed=0)
    assert default.train.image.shape == (1600, 3)
    assert default.test.image.shape == (400, 3)
    assert default.image_shape is None
    assert default.num_classes == 10
    assert len(sets.load(config(name="moons_2d", num_examples=50, test_fraction=0.5), seed=0).test.label) == 25


def test_without_a_fraction_the_official_test_split_is_used_whole(prepared):
    whole = sets.load(config(name="mnist"), seed=0)
    np.testing.assert_array_equal(whole.train.image, prepared.train_image.reshape(60, 6).astype(np.float32) / 255)
    np.testing.assert_array_equal(whole.train.label, prepared.train_label)
    part = sets.load(config(name="mnist", num_examples=30), seed=0)
    for loaded in (whole, part):
        np.testing.assert_array_equal(loaded.test.label, prepared.test_label)
        np.testing.assert_array_equal(loaded.test.image, prepared.test_image.reshape(20, 6).astype(np.float32) / 255)
    assert len(part.train.label) == 30
    assert _rows(part.train.image) < _rows(whole.train.image)
    np.testing.assert_array_equal(np.bincount(part.train.label), np.full(10, 3))  # half of six each
    assert whole.image_shape == (2, 3, 1)
    assert whole.manifest["source"] == "tfds mnist 3.0.1"


def test_a_fraction_is_held_out_of_the_training_pool_alone(prepared):
    loaded = sets.load(config(name="mnist", num_examples=50, test_fraction=0.2), seed=0)
    assert (len(loaded.train.label), len(loaded.test.label)) == (40, 10)
    np.testing.assert_array_equal(np.bincount(loaded.test.label), np.ones(10))
    pool = _rows(prepared.train_image.reshape(60, 6).astype(np.float32) / 255)
    assert _rows(loaded.train.image, loaded.test.image) <= pool
    assert not _rows(loaded.train.image) & _rows(loaded.test.image)


def test_stored_labels_out_of_range_stop_the_load(prepared):
    prepared.train_label[7] = 12
    with pytest.raises(UserError, match=r"mnist train split: example 7 has label 12, outside \[0, 10\)"):
        sets.load(config(name="mnist"), seed=0)


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"name": "mnits"},
            "unknown data set 'mnits': did you mean 'mnist'? choose one of digits, mnist, cifar10",
        ),
        ({"num_examples": 1798}, "data.num_examples = 1798, but digits has 1797"),
        ({"num_examples": 1}, "data.num_examples = 1: needs at least 2"),
        ({"num_examples": -5}, "data.num_examples = -5"),
        ({"test_fraction": 0.0}, "data.test_fraction = 0.0 of 1797 examples leaves nothing"),
        ({"test_fraction": 1.0}, "data.test_fraction = 1.0"),
        ({"test_fraction": float("nan")}, "data.test_fraction = nan"),
        ({"num_examples": 10, "test_fraction": 0.01}, "data.test_fraction = 0.01 of 10 examples"),
        ({"name": "moons_2d", "noise": -1.0}, "data.noise = -1.0"),
    ],
)
def test_what_cannot_be_loaded_is_named(fields, message):
    with pytest.raises(UserError) as error:
        sets.load(config(**fields), seed=0)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_negative_seed_is_named():
    with pytest.raises(UserError, match="seed = -1"):
        sets.load(config(), seed=-1)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_stratified_draw_is_a_subset_with_the_shares_of_the_whole(labels, share, seed):
    labels = np.array(labels)
    count = max(1, round(share * len(labels)))
    drawn = sets.stratified(labels, count, np.random.default_rng(seed))
    assert len(drawn) == count
    assert (np.diff(drawn) > 0).all()
    assert drawn[0] >= 0
    assert drawn[-1] < len(labels)
    expected = np.bincount(labels, minlength=5) * count / len(labels)
    assert np.abs(np.bincount(labels[drawn], minlength=5) - expected).max() < 1 + 1e-9


def test_stratified_draw_favours_no_example():
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    rng = np.random.default_rng(0)
    counts = sum(np.bincount(sets.stratified(labels, 3, rng), minlength=7) for _ in range(4000))
    # Each is drawn with probability 3/7; the standard error of a share is √(3/7 · 4/7 / 4000) = 0.0078.
    np.testing.assert_allclose(counts / 4000, 3 / 7, atol=4 * 0.0078)


def _good():
    return Batch(np.full((4, 3), 0.5, np.float32), np.array([0, 1, 2, 1], np.int32))


def _with(image=None, label=None):
    image_, label_ = _good()[:2]
    for (row, column), value in (image or {}).items():
        image_[row, column] = value
    for row, value in (label or {}).items():
        label_[row] = value
    return Batch(image_, label_)


@pytest.mark.parametrize(
    "batch, message",
    [
        (_with(label={2: 3}), r"here: example 2 has label 3, outside \[0, 3\)"),
        (_with(label={1: -1, 3: 9}), r"here: example 1 has label -1, outside \[0, 3\)"),
        (
            _with(image={(2, 1): np.nan, (3, 0): np.inf}),
            "here: 2 values are not finite, the first in example 2",
        ),
        (_with(image={(1, 0): -np.inf}), "here: 1 values are not finite, the first in example 1"),
        (_with(image={(3, 2): 1.5}), r"here: example 3 holds 1.5, outside \[0, 1\]"),
        (_with(image={(0, 1): -0.25, (3, 2): 2.0}), r"here: example 0 holds -0.25, outside \[0, 1\]"),
        (Batch(np.zeros((0, 3)), np.zeros(0, np.int32)), "here: empty"),
        (Batch(np.zeros((2, 0)), np.zeros(2, np.int32)), "here: empty"),
        (Batch(np.zeros((2, 3)), np.zeros(3, np.int32)), r"here: images \(2, 3\) and labels \(3,\)"),
        (Batch(np.zeros((2, 3, 1)), np.zeros(2, np.int32)), r"should be \[n, X\]"),
        (Batch(np.zeros((2, 3)), np.zeros(2)), "labels are float64, not integers"),
    ],
)
def test_bad_batches_are_refused(batch, message):
    with pytest.raises(UserError, match=message):
        sets.check(batch, 3, "here")


def test_good_batches_pass_on_host_and_device():
    sets.check(_good(), 3, "here")
    sets.check(_with(image={(0, 0): 0.0, (1, 1): 1.0}), 3, "here")
    sets.check(jax.tree.map(jnp.asarray, _good()), 3, "here")


@pytest.fixture(scope="module")
def order():
    return jax.jit(sets.permutation, static_argnums=2)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 2**31 - 1))
def test_permutation_has_every_example_once(order, seed, epoch):
    drawn = order(seed, epoch, 37)
    assert drawn.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(drawn), np.arange(37))


def test_order_depends_on_seed_and_epoch_alone(order):
    base = np.asarray(order(0, 5, 100))
    np.testing.assert_array_equal(base, sets.permutation(0, 5, 100))  # traced = not traced
    np.testing.assert_array_equal(base, jax.vmap(lambda e: sets.permutation(0, e, 100))(jnp.arange(7))[5])
    assert not np.array_equal(base, order(0, 6, 100))
    assert not np.array_equal(base, order(1, 5, 100))
    assert not np.array_equal(order(5, 0, 100), order(0, 5, 100))


def test_every_position_is_as_likely_for_an_example():
    # Where example 0 lands in 4,000 epochs of 8: 500 each, standard error √(4000 · 1/8 · 7/8) = 21.
    orders = jax.vmap(lambda epoch: sets.permutation(3, epoch, 8))(jnp.arange(4000))
    landed = np.bincount(np.argmin(np.asarray(orders), axis=1), minlength=8)
    assert np.abs(landed - 500).max() < 4 * 21


def test_padding_follow_the_permutation_and_drop_the_remainder():
    batches = jax.jit(lambda epoch: sets.batch_indices(2, epoch, 23, 5))(4)
    assert batches.shape == (4, 5)
    assert batches.dtype == jnp.int32
    np.testing.assert_array_equal(batches.reshape(-1), sets.permutation(2, 4, 23)[:20])
    assert sets.batch_indices(0, 0, 5, 5).shape == (1, 5)


@pytest.mark.parametrize("batch_size", [0, -1, 24])
def test_bad_batch_size_is_named(batch_size):
    with pytest.raises(UserError, match=f"batch_size = {batch_size} must lie between 1 and the 23"):
        sets.batch_indices(0, 0, 23, batch_size)
