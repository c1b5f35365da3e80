"""Own data made ready: what is found out, what is refused, and that units lead there and back."""

import types

import numpy as np
import pytest
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topojax.data import classes, sets, units
from topojax.errors import UserError

FEW = settings(max_examples=40, deadline=None)
RNG = np.random.default_rng(0)


def config(**fields):
    """What `load` reads of `config.data`."""
    defaults = {"name": "data=", "num_examples": None, "data_dir": None, "test_fraction": None, "noise": 0.0}
    own = dict.fromkeys(("label", "columns", "resize", "shape"))
    more = {"cache": True, "neighbours": 0, "missing": "refuse", "scale": "found", **own}
    return types.SimpleNamespace(**{**defaults, **more, **fields})


def load(data, **fields):
    return sets.load(config(**fields), seed=0, data=data)


def pictures(n, *shape, dtype=np.uint8, low=0, high=255):
    return (RNG.uniform(low, high, (n, *shape))).astype(dtype)


@pytest.mark.parametrize(
    "shape, image_shape",
    [((8, 8), (8, 8, 1)), ((8, 9, 1), (8, 9, 1)), ((3, 8, 9), (8, 9, 3)), ((8, 9, 3), (8, 9, 3)), ((8, 9, 5), None)],
)
def test_the_shape_of_images_is_found_out_and_given_back(shape, image_shape):
    x = pictures(20, *shape)
    x[0, ...] = 0
    x[1, ...] = 255
    found = load((x, np.arange(20) % 2))
    assert found.image_shape == image_shape
    rows, single = found.units.rows(x)
    assert not single
    np.testing.assert_allclose(found.units.back(rows), x, atol=1e-4)
    one, single = found.units.rows(x[3])
    assert single
    np.testing.assert_array_equal(one[0], rows[3])
    if image_shape == (8, 9, 3):  # pixel by pixel, whichever axis came first
        last = x if shape[-1] == 3 else np.moveaxis(x, 1, -1)
        np.testing.assert_array_equal(rows.reshape(20, 8, 9, 3), last.astype(np.float32) / 255)


@pytest.mark.parametrize(
    "low, high, dtype, scale",
    [
        (0, 255, np.uint8, (0, 255)),
        (0, 16, np.uint8, (0, 16)),
        (0, 1, np.float32, (0, 1)),
        (-1, 1, np.float32, (-1, 1)),
        (0, 255, np.float64, (0, 255)),
        (-3, 5, np.float32, None),
        (0, 65535, np.uint16, None),
    ],
)
def test_one_scale_for_images_a_habit_where_it_is_filled(low, high, dtype, scale):
    x = pictures(40, 6, 6, dtype=dtype, low=low + 0.05 * (high - low), high=high - 0.02 * (high - low))
    if dtype == np.uint8:
        x[:, 0, 0], x[:, 0, 1] = low, high
    found = load((x, None)).units
    assert found.low.shape == (1,)
    if scale:
        assert (found.low[0], found.low[0] + found.width[0]) == scale
    rows = found.rows(x)[0]
    assert rows.min() >= -0.1
    assert rows.max() <= 1.1


TABLES = hnp.arrays(np.float64, (30, 4), elements=st.integers(-1000, 1000).map(float))


@FEW
@given_(table=TABLES, factor=st.sampled_from([1e-20, 1.0, 1e30]))
def test_a_column_has_its_own_scale_fitted_on_train_alone_and_undone(table, factor):
    table = table * factor
    table[::2] += factor  # so that the training split varies
    found = load((table, None))
    train = found.train.image
    assert train.min() == 0
    assert train.max() == 1
    back = found.units.back(found.units.rows(table)[0]) if np.abs(found.units.rows(table)[0]).max() < 1e3 else None
    if back is not None:
        live = found.units.width > 0
        reach = np.abs(table).max(axis=0) + found.units.width
        assert (np.abs(back - table)[:, live] <= 1e-4 * reach[live]).all()
        np.testing.assert_allclose(back[:, ~live], np.broadcast_to(found.units.low, back.shape)[:, ~live], rtol=1e-6)


def test_units_survive_json():
    import json

    frame = {"a": np.arange(10.0), "b": np.array(["u", "v"] * 5, object)}
    found = load({**frame, "label": np.arange(10) % 2}).units
    again = units.from_json(json.loads(json.dumps(found.to_json())))
    for one, other in zip(found.rows(frame), again.rows(frame), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.classes == ("0", "1")
    back = again.back(again.rows(frame)[0])
    assert list(back["b"]) == list(frame["b"])
    np.testing.assert_allclose(back["a"], frame["a"], atol=1e-5)


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((3, 5)), r"inputs have shape \[3, 5\], this model takes \[n, 36\] or \[n, 6, 6\]"),
        (np.full((6, 6), 1e38), r"row 0 of the inputs holds 1e\+38, far from \[0, 255\]"),
        (np.full((2, 6, 6), np.nan), "not finite, the first in row 0"),
        (pictures(5, 6, 6) / 255.0, "inputs lie in .*, this model was trained on 0 to 255"),
        ((pictures(5, 6, 6) / 255.0).astype(np.float32), "inputs lie in .*, this model was trained on 0 to 255"),
        (np.full((2, 6, 6), 0.7), "inputs lie in .*, this model was trained on 0 to 255"),
        (np.full((6, 6), "a"), "inputs must be numbers"),
        (np.zeros((2, 6, 6), complex), "inputs are complex128"),
    ],
)
def test_what_does_not_fit_the_units_is_refused_by_shape_place_and_value(x, message):
    image = pictures(20, 6, 6)
    image[:, 0, 0], image[:, 0, 1] = 0, 255
    with pytest.raises(UserError, match=message):
        load((image, None)).units.rows(x)


def test_built_in_images_are_taken_as_pixels_or_in_the_unit_interval_and_nothing_else():
    digits = sets.load(config(name="digits"), seed=0)
    image = digits.test.image[:5]
    np.testing.assert_array_equal(digits.units.rows((image * 16).astype(np.uint8))[0], image)
    np.testing.assert_array_equal(digits.units.rows(image.reshape(5, 8, 8))[0], image)
    with pytest.raises(UserError, match=r"row 0 of the inputs holds .*, far from \[0, 1\]"):
        digits.units.rows(image * 255)


def test_digits_given_flat_are_the_built_in_digits():
    from sklearn.datasets import load_digits

    own, built_in = load(load_digits(return_X_y=True)), sets.load(config(name="digits"), seed=0)
    assert own.image_shape == (8, 8, 1)
    for one, other in ((own.train, built_in.train), (own.test, built_in.test)):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


@pytest.mark.parametrize(
    "label, names, coded",
    [
        (["b", "a", "b", "a"], ("a", "b"), [1, 0, 1, 0]),
        ([10, 9, 10, 9], ("9", "10"), [1, 0, 1, 0]),
        (["10", "9", "10", "9"], ("9", "10"), [1, 0, 1, 0]),
        ([3, 7, 3, -1], ("3", "7"), [0, 1, 0, -1]),
        ([1.0, np.nan, 2.0, 1.0], ("1", "2"), [0, -1, 1, 0]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        (["a", None, "", "a"], ("a",), [0, -1, -1, 0]),
        ([[0, 1], [1, 0], [0, 0], [0, 1]], ("0", "1"), [1, 0, -1, 1]),
        ([[2], [2], [5], [5]], ("2", "5"), [0, 0, 1, 1]),
    ],
)
def test_labels_of_any_kind_are_classes(label, names, coded):
    found = classes.encode(np.array(label, object if None in label else None), 4, "here")
    assert found.names == names
    np.testing.assert_array_equal(found.label, coded)


@FEW
@given_(label=st.lists(st.sampled_from(["x", "y", "z", None]), min_size=8, max_size=20))
def test_class_names_lead_back_to_the_labels(label):
    known = [each for each in label if each]
    if len(set(known)) == len(known) > 2:
        return
    found = classes.encode(np.array(label, object), len(label), "here")
    assert [None if i < 0 else found.names[i] for i in found.label] == label


X = np.random.default_rng(1).normal(size=(20, 3))
HALVES = np.arange(20) % 2


def broken(value, *at):
    out = X.copy()
    out[at] = value
    return out


@pytest.mark.parametrize(
    "data, fields, message",
    [
        ((X[:3], HALVES[:3]), {}, "data: 3 examples; at least 8 are needed"),
        ((X, HALVES[:5]), {}, "x and y differ in length: 20 and 5"),
        ((X, X[:, 0]), {}, "labels hold .*, which names no class"),
        ((X, np.arange(20)), {}, "20 labelled examples in 20 classes, no two of one class"),
        ((X, np.eye(20)[:, :3] + 0.5), {}, "row 0 is not one-hot"),
        ((X[:8], np.eye(9)[:8]), {}, "9 classes for 8 examples: more classes than examples"),
        (
            (broken(np.nan, 4, 1), HALVES),
            {},
            "data: 1 values are NaN, the first in example 4: config.data.missing=drop",
        ),
        ((broken(np.inf, 6, 1), HALVES), {"missing": "drop"}, "data: 1 values are infinite, the first in example 6"),
        ((X, HALVES, X[:4], np.array([0, 1, 2, 0])), {}, "data test split: class '2' is not among those to train on"),
        ((X, HALVES, X[:4, :2], HALVES[:4]), {}, r"to train on have shape \[3\], those to test \[2\]"),
        ((np.ones((20, 3)), HALVES), {}, "data: all training examples are equal"),
        ((np.ones((20, 3, 0)), HALVES), {}, r"data: examples have shape \[20, 3, 0\]: there is nothing in them"),
        ((np.ones((20, 0)), HALVES), {}, r"data: examples have shape \[20, 0\]: there is nothing in them"),
        ((X, HALVES, X[:4, :0], HALVES[:4]), {}, r"data test: examples have shape \[4, 0\]: there is nothing in them"),
        ((X, X[:, :0]), {}, r"20 examples, but labels have shape \[20, 0\]"),
        ({"a": 3.0}, {}, "data: the column 'a' is one value: one cell an example"),
        ((X, HALVES), {"shape": "5x5"}, "config.data.shape = '5x5' does not fit examples of 3"),
        ((X, HALVES), {"missing": "ignore"}, "config.data.missing = 'ignore': choose one of refuse, drop, mean"),
        ((X[0], HALVES), {}, r"x has shape \[3\]: one row an example"),
        ((X, HALVES, X), {}, "data has 3 parts"),
        (7, {}, "int is no data"),
        (([[1, 2], [3]] * 10, HALVES), {}, "x has rows of different lengths"),
        ({"a": np.array(["u"] * 20, object)}, {"columns": "b"}, "config.data.columns names 'b', there are a"),
        ({"a": np.array([None, *"u" * 19], object)}, {}, r"empty cells in a \(1\): config.data.missing=drop"),
    ],
)
def test_bad_data_are_one_line(data, fields, message):
    with pytest.raises(UserError, match=message) as error:
        load(data, **fields)
    assert "\n" not in str(error.value)


def test_what_is_found_is_said():
    x = np.concatenate([X, X])
    x[:, 2] = 7.0
    columns = {"a": x[:, 0], "b": x[:, 1], "same": x[:, 2], "kind": np.array(["u", "v"] * 20, object)}
    columns["free"] = np.array([f"text {i}" for i in range(40)], object)
    found = load({**columns, "label": np.array([0] * 37 + [1] * 3)})
    said = "\n".join(found.notes)
    for words in (
        "32 examples to train on, 8 to test; 4 columns, one scale a column",
        "labels are the column 'label'",
        "column 'kind' is text, one number for each of u, v",
        "column 'free' is left out: 32 different texts",
        "constant: same",
        "classes are unequal",
        "duplicates: ",
    ):
        assert words in said
    assert found.units.size == 5


def test_missing_cells_are_dropped_or_filled_by_the_training_mean():
    holes = broken(np.nan, [1, 5], 2)
    dropped = load((holes, HALVES), missing="drop")
    assert len(dropped.train.label) + len(dropped.test.label) == 18
    filled = load((holes, HALVES), missing="mean")
    assert len(filled.train.label) + len(filled.test.label) == 20
    rows = np.concatenate([filled.train.image, filled.test.image])
    assert np.isfinite(rows).all()
    counts = {float(value): n for value, n in zip(*np.unique(rows[:, 2], return_counts=True), strict=True)}
    assert sorted(counts.values())[-1] == 2  # both holes hold one value


def test_some_labels_may_be_missing_and_one_class_is_none():
    some = load((X, np.where(np.arange(20) < 15, HALVES, -1)))
    assert (some.train.label < 0).any()
    assert some.num_classes == 2
    assert any("have no label" in note for note in some.notes)
    few = load((X, np.array([0, 1, 2, *[-1] * 17])))  # one label a class is enough to be one
    assert few.num_classes == 3
    one = load((X, np.zeros(20, int)))
    assert (one.train.label == -1).all()
    assert any("one class, '0'" in note for note in one.notes)


def test_every_class_of_the_test_split_is_one_to_train_on():
    """However rare: its only example is trained on."""
    for seed in range(10):
        label = np.array([0] * 12 + [1] * 7 + [2])
        found = sets.load(config(), seed=seed, data=(X, label))
        assert set(found.test.label) <= set(found.train.label)


@pytest.mark.parametrize("kind", ["torch", "jax", "pandas", "list", "examples", "dictionaries"])
def test_anything_with_the_protocol_is_taken(kind):
    if kind == "torch":
        torch = pytest.importorskip("torch")
        data = torch.tensor(X), torch.tensor(HALVES)
    elif kind == "jax":
        import jax.numpy as jnp

        data = jnp.asarray(X), jnp.asarray(HALVES)
    elif kind == "pandas":
        pandas = pytest.importorskip("pandas")
        data = pandas.DataFrame(X, columns=list("abc")).assign(label=HALVES)
    elif kind == "list":
        data = X.tolist(), HALVES.tolist()
    elif kind == "examples":
        data = _Source(list(zip(X, HALVES, strict=True)))
    else:
        data = _Source([{"x": row, "label": label} for row, label in zip(X, HALVES, strict=True)])
    found, plain = load(data), load((X, HALVES))
    np.testing.assert_allclose(found.train.image, plain.train.image, atol=1e-6)
    np.testing.assert_array_equal(found.train.label, plain.train.label)


class _Source:
    """grain's protocol and nothing more."""

    def __init__(self, examples):
        self._examples = examples

    def __len__(self):
        return len(self._examples)

    def __getitem__(self, index):
        return self._examples[index]


def saved(folder, name, arrays):
    if name.endswith(".npz"):
        np.savez(folder / name, **arrays)
    elif name.endswith(".npy"):
        np.save(folder / name, arrays["x"])
    else:
        (folder / name).mkdir()
        for key, array in arrays.items():
            np.save(folder / name / key, array)
    return str(folder / name)


ONE = np.float32(3)


@pytest.mark.parametrize(
    "name, arrays, message",
    [
        ("f.npz", {"x": ONE}, "f.npz: examples have shape []: one row an example"),
        ("f.npy", {"x": ONE}, "f.npy: examples have shape []: one row an example"),
        ("f", {"x": ONE}, "f/x.npy: examples have shape []: one row an example"),
        ("f.npz", {"x_train": X, "x_test": ONE}, "f.npz test: examples have shape []"),
        ("f", {"x_train": X, "x_test": ONE}, "f/x_test.npy: examples have shape []"),
        ("f.npz", {"x": X, "y": np.int32(1)}, "f.npz: 20 examples, but labels have shape []"),
        ("f.npz", {"x_train": X, "y_train": HALVES, "x_test": X, "y_test": np.int32(1)}, "but labels have shape []"),
        ("f.npy", {"x": X[:, 0]}, "f.npy: examples have shape [20]: one row an example is wanted, [n, …], and reshape"),
        ("f.npz", {"x": X[:, :, None][:, :, :0]}, "f.npz: examples have shape [20, 3, 0]: there is nothing in them"),
        ("f", {"x": broken(np.nan, 4, 1)}, "f/x.npy: 1 values are NaN, the first in example 4"),
        ("f", {"x_train": X, "x_test": broken(np.inf, 4, 1)}, "f/x_test.npy: 1 values are infinite"),
        ("f", {"x": np.ones((20, 3))}, "f/x.npy: all training examples are equal"),
        ("f.npz", {"x": np.ones((20, 3))}, "f.npz: all training examples are equal"),
    ],
)
def test_bad_arrays_of_files_are_one_line_that_names_the_file(name, arrays, message, tmp_path):
    with pytest.raises(UserError) as error:
        sets.load(config(name=saved(tmp_path, name, arrays)), seed=0)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_no_data(name, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"config\.data\.name is empty: choose one of digits"):
        sets.load(config(name=name), seed=0)
    with pytest.raises(UserError, match="names no file"):
        sets.load(config(name="file://"), seed=0)
    assert sets.load(config(name="."), seed=0).train.image.shape == (16, 3)  # where it is asked for


def test_a_numpy_array_is_not_copied():
    from topojax.data import given, raw

    image = pictures(20, 4, 4)
    found = given.raw((image, None), raw.Options())
    assert np.shares_memory(found.train.inputs, image)


def test_a_file_gives_what_its_arrays_give(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=X, y=HALVES)
    plain = load((X, HALVES))
    monkeypatch.chdir(tmp_path)
    for name in ("a.npz", str(tmp_path / "a.npz"), (tmp_path / "a.npz").as_uri(), "../" + tmp_path.name + "/a.npz"):
        found = sets.load(config(name=name), seed=0)
        np.testing.assert_array_equal(found.train.image, plain.train.image)
        assert found.own
    assert sets.locate("a.npz") == str(tmp_path / "a.npz")


def test_a_scale_of_none_takes_examples_as_they_are():
    half = np.clip(X, -2, 2).astype(np.float32) / 8 + 0.5
    found = load((half, HALVES), scale="none", shape="none")
    rows = np.concatenate([found.train.image, found.test.image])
    assert {row.tobytes() for row in rows} == {row.tobytes() for row in half}
    with pytest.raises(UserError, match=r"outside \[0, 1\]: rescale them"):
        load((X, HALVES), scale="none")
