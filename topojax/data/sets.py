"""Data sets as arrays in memory, and the order in which training sees them.

`topojax data list` shows what there is; only `topojax data fetch NAME` downloads.
"""

import difflib
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from topojax.data import classes, given, manifolds, own, readers, tfds_arrays
from topojax.data.fetched import fetched
from topojax.data.modes import chosen
from topojax.data.order import batch_indices, permutation, shuffled, stratified
from topojax.data.raw import Options, Raw, Split, taken
from topojax.data.rows import Given, Rows, blocks
from topojax.data.units import Units, unit_interval
from topojax.errors import UserError
from topojax.types import Array, Batch

NAMES = ("digits", *tfds_arrays.SOURCES, *manifolds.MANIFOLDS)
_DEFAULT_TEST_FRACTION = 0.2


__all__ = [
    "NAMES",
    "Dataset",
    "batch_indices",
    "built_in_units",
    "check",
    "describe",
    "load",
    "locate",
    "permutation",
    "shuffled",
    "stratified",
    "with_neighbours",
]


class Dataset(NamedTuple):
    """A data set, split and checked. Its arrays are numpy's: they live on the host."""

    name: str
    train: Batch  # image (n, X) float32 in [0, 1], in mode host `Rows`; label (n,) int32, −1 where own data have none
    test: Batch  # image (m, X), label (m,)
    image_shape: tuple[int, int, int] | None  # (H, W, C) with H·W·C = X; None for points of a manifold
    num_classes: int
    manifest: dict[str, Any]  # JSON-able: name, source, and per split the number of examples and their sha256
    units: Units  # of the examples as they are given
    notes: tuple[str, ...] = ()  # what was found out of own data, a line each
    own: bool = False  # whether it is a person's own, of which nothing was known before
    mode: str = "memory"  # where the training split lies (`modes`), never auto

    def sizes(self) -> dict[str, Any]:
        """What programs are built from: sizes, no values."""
        return {
            "num_train": len(self.train.label),
            "input_dim": self.train.image.shape[1],
            "image_shape": self.image_shape,
            "num_classes": self.num_classes,
        }


class _Pool(NamedTuple):
    """Everything there is to split; `image / divisor` lies in [0, 1]."""

    image: np.ndarray
    label: np.ndarray
    test: tuple[np.ndarray, np.ndarray] | None  # the official test split
    image_shape: tuple[int, int, int] | None
    num_classes: int
    divisor: int
    source: str


def load(config_data: Any, *, seed: int, data: Any = None, on_host: bool = False) -> Dataset:
    """Read or make the data set that `config.data` describes, split it, check it.

    Training pool: the official training split, all 1,797 digits, a manifold's points, or a person's own data.
    `num_examples` of it are drawn, and `test_fraction` of those held out; both draws keep the classes' shares
    (± 1 example).

    Args:
      config_data: fields name, num_examples, data_dir, test_fraction, noise, cache, neighbours; of own data also label,
        columns, missing, resize, shape. `test_fraction` None means the official test split whole, or 0.2 where there is
        none; a number leaves that split unused. `neighbours` > 0 gives the training split that many nearest neighbours
        of each example.
      seed: of the draws and of a manifold's points; the result is a function of it and of `config_data`.
      data: in place of what `config_data.name` says (`given.raw`).
      on_host: whether the caller takes a training split that stays on the host, where `config_data.mode` says so.

    Returns:
      A Dataset, in the pool's order.

    Raises:
      UserError: for an unknown name, sizes that do not fit, a data set that is not there, bad values.
    """
    name, num_examples = config_data.name, config_data.num_examples
    if seed < 0:
        raise UserError(f"seed = {seed} must not be negative")
    if num_examples is not None and num_examples < 2:
        raise UserError(f"data.num_examples = {num_examples}: needs at least 2, one to train on and one to test")
    if data is not None or name not in NAMES:
        return _own(config_data, _raw(config_data, data), seed, in_memory=data is not None, on_host=on_host)
    if name in tfds_arrays.SOURCES:
        directory = tfds_arrays.find(name, config_data.data_dir)
        splits = tfds_arrays.load(directory, cache=config_data.cache)
        if splits.train_image.dtype != np.uint8:  # not as the maker of the set has it
            return _own(config_data, tfds_arrays.raw(directory, splits), seed, on_host=on_host)
        pool = _official(name, directory.name, splits)
    else:
        pool = _made(config_data, seed)
    rng = np.random.default_rng(seed)
    train, test = _split(name, config_data, pool.label, pool.test is not None, rng)
    splits_of = {
        "train": (pool.image[train], pool.label[train]),
        "test": pool.test if test is None and pool.test is not None else (pool.image[test], pool.label[test]),
    }
    batches = {split: _batch(*raw, pool.divisor) for split, raw in splits_of.items()}
    for split, batch in batches.items():
        check(batch, pool.num_classes, f"{name} {split} split")
    sizes = {"input_dim": batches["train"].image.shape[1], "image_shape": pool.image_shape}
    units = built_in_units(name, sizes)
    manifest = _manifest(name, pool.source, splits_of)
    mode = _mode(config_data, batches["train"], on_host)
    if mode != "memory":
        image, label = splits_of["train"]
        kept = image if image.dtype == np.uint8 else np.asarray(batches["train"].image)
        batches["train"] = _held(Rows(Given(kept), units), label)
    return _finished(config_data, batches, pool.image_shape, pool.num_classes, manifest, units, mode=mode)


def locate(name: str, data_dir: str | None = None) -> str:
    """What a name stands for: itself where it is built in, or the absolute path of a person's own file or folder.

    Raises:
      UserError: neither, nor a data set that tfds has prepared.
    """
    if name in NAMES or name == given.NAME or "://" in name:
        return name
    path = pathlib.Path(name).expanduser()
    if path.exists():
        return str(path.absolute())
    if path.suffix.lower() in readers.SUFFIXES or len(path.parts) > 1:
        raise UserError(f"config.data.name = {name!r}: there is no such file or folder")
    if tfds_arrays.prepared(name, data_dir):
        return name
    close = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"config.data.name: unknown data set {name!r}: {hint}choose one of {', '.join(NAMES)}, "
        "or the path of a file or a folder"
    )


def built_in_units(name: str, sizes: Mapping[str, Any]) -> Units:
    """Units of a built-in set, for runs that have not kept them.

    Args:
      name: of the set.
      sizes: `Dataset.sizes`.
    """
    divisor = {"digits": 16.0, **dict.fromkeys(tfds_arrays.SOURCES, 255.0)}.get(name)
    return unit_interval(sizes["input_dim"], sizes["image_shape"], integers=divisor)


def _raw(config_data: Any, data: Any) -> Raw:
    """Own data as they were given, or as they lie there."""
    place = "" if data is not None or config_data.name == given.NAME else locate(config_data.name, config_data.data_dir)
    columns, resize = config_data.columns, config_data.resize
    options = Options(
        config_data.label,
        tuple(name.strip() for name in columns.split(",")) if columns else None,
        _size(resize) if resize else None,
    )
    if data is not None:
        return given.raw(data, options)
    if config_data.name == given.NAME:
        raise UserError(
            "this run was trained on arrays in memory: hand them over again, as data= in Python, or --data leads to a "
            "file of them"
        )
    if "://" in place:
        return readers.read(fetched(place), options)
    if pathlib.Path(place).exists():
        return readers.read(pathlib.Path(place), options)
    directory = tfds_arrays.find(place, config_data.data_dir)
    return tfds_arrays.raw(directory, tfds_arrays.load(directory, cache=config_data.cache))


def _size(resize: str) -> tuple[int, int]:
    """(height, width) of 64 or 64x48."""
    sides = [int(side) for side in resize.split("x") if side.isdigit()]
    if resize.count("x") != len(sides) - 1 or len(sides) > 2 or not all(0 < side <= 4096 for side in sides):
        raise UserError(f"config.data.resize = {resize!r}: a side in pixels, or height x width, as 64x48")
    return sides[0], sides[-1]


def _own(config_data: Any, raw: Raw, seed: int, *, in_memory: bool = False, on_host: bool = False) -> Dataset:
    """A person's own data: settled, split as the built-in sets are, scaled."""
    name = "data" if in_memory or config_data.name == given.NAME else pathlib.PurePath(config_data.name).name
    raw, _ = own.settle(raw, config_data.missing, name)
    counted = classes.encode(raw.train.label, own.count(raw.train), name, raw.names)
    pool = Split(raw.train.inputs, counted.label)
    rng = np.random.default_rng(seed)
    train, test = _split(name, config_data, counted.label, raw.test is not None, rng)
    if test is None:
        assert raw.test is not None
        label = classes.same(raw.test.label, own.count(raw.test), f"{name} test split", counted, raw.names)
        held = Split(raw.test.inputs, label)
    else:
        train, test = _each_class_to_train_on(counted.label, train, test)
        held = taken(pool, test)
    fitting = {"shape": config_data.shape, "scale": config_data.scale}
    inputs = pool.inputs
    size = len(inputs) if isinstance(inputs, dict) else int(np.prod(inputs.shape[1:]))
    mode = chosen(config_data.mode, len(train), size) if on_host else "memory"
    # A scale for each number is a table's: those are rows of floats on the host, too.
    some = taken(pool, train, on_host=mode != "memory" and config_data.shape != "none")
    made = own.ready(raw, some, held, **fitting, counted=counted, where=name)
    splits = {"train": made.train, "test": made.test}
    batches = {split: Batch(cast(Array, image), cast(Array, label)) for split, (image, label) in splits.items()}
    if mode != "memory" and not isinstance(made.train[0], Rows):
        batches["train"] = _held(Rows(Given(made.train[0]), made.units), made.train[1])
    if config_data.scale == "none":
        for split, batch in batches.items():
            for block in blocks(batch.image):
                in_unit_interval(np.asarray(block), f"{name} {split} split")
    manifest = _manifest(name, raw.source, splits)
    shape, units = made.units.image_shape, made.units
    about = {"notes": made.notes, "own": True, "mode": mode}
    return _finished(config_data, batches, shape, made.num_classes, manifest, units, **about)


def _mode(config_data: Any, train: Batch, on_host: bool) -> str:
    return chosen(config_data.mode, *train.image.shape) if on_host else "memory"


def _held(rows: Rows, label: np.ndarray) -> Batch:
    return Batch(cast(Array, rows), cast(Array, label))


def _each_class_to_train_on(label: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Examples of classes that only the test split would have go back."""
    back = ~np.isin(label[test], label[train])
    if back.all():
        raise UserError("the test split would hold nothing but classes that training has not: too few examples a class")
    return np.sort(np.concatenate([train, test[back]])), test[~back]


def _split(
    name: str, config_data: Any, label: np.ndarray, official: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """(rows to train on, rows held out; None where the official test split is used)."""
    num_examples, fraction = config_data.num_examples, config_data.test_fraction
    chosen = np.arange(len(label))
    if num_examples is not None:
        if num_examples > len(chosen):
            raise UserError(f"data.num_examples = {num_examples}, but {name} has {len(chosen)} to draw from")
        chosen = stratified(label, num_examples, rng)
    if fraction is None and official:
        return chosen, None
    fraction = _DEFAULT_TEST_FRACTION if fraction is None else fraction
    count = round(fraction * len(chosen)) if 0 < fraction < 1 else 0
    if not 0 < count < len(chosen):
        raise UserError(
            f"data.test_fraction = {fraction} of {len(chosen)} examples leaves nothing to train on or to test"
        )
    held = np.zeros(len(chosen), bool)
    held[stratified(label[chosen], count, rng)] = True
    return chosen[~held], chosen[held]


def _manifest(name: str, source: str, splits: Mapping[str, tuple[Any, np.ndarray]]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "source": source}
    for split, raw in splits.items():
        found[split] = {"examples": len(raw[1]), "sha256": tfds_arrays.digest(*raw)}
    return found


def _finished(
    config_data: Any,
    batches: dict[str, Batch],
    image_shape: tuple[int, int, int] | None,
    num_classes: int,
    manifest: dict[str, Any],
    units: Units,
    **more: Any,
) -> Dataset:
    train = with_neighbours(batches["train"], config_data.neighbours) if config_data.neighbours else batches["train"]
    return Dataset(manifest["name"], train, batches["test"], image_shape, num_classes, manifest, units, **more)


def check(batch: Batch, num_classes: int, where: str) -> None:
    """Refuse examples that would train to nonsense.

    Args:
      batch: image [n, X] in [0, 1], label [n] integer in [0, num_classes).
      num_classes: C.
      where: what the message calls the batch.

    Raises:
      UserError: with the first offending example, for an empty batch, lengths that differ, images that are
        not finite or leave [0, 1], labels that are not integers in range.
    """
    image, label = np.asarray(batch.image), np.asarray(batch.label)
    if image.ndim != 2 or label.shape != image.shape[:1]:
        raise UserError(f"{where}: images {image.shape} and labels {label.shape} should be [n, X] and [n]")
    if image.size == 0:
        raise UserError(f"{where}: empty, images have shape {image.shape}")
    in_unit_interval(image, where)
    if not np.issubdtype(label.dtype, np.integer):
        raise UserError(f"{where}: labels are {label.dtype}, not integers")
    wrong = (label < 0) | (label >= num_classes)
    if wrong.any():
        row = wrong.argmax()
        raise UserError(f"{where}: example {row} has label {label[row]}, outside [0, {num_classes})")


def in_unit_interval(image: np.ndarray, where: str) -> None:
    """Refuse numbers that are not finite or leave [0, 1], with the first offending example."""
    low, high = image.min(), image.max()  # NaN if there is one
    if not np.isfinite([low, high]).all():
        bad = ~np.isfinite(image)
        raise UserError(f"{where}: {bad.sum()} values are not finite, the first in example {bad.any(axis=1).argmax()}")
    if low < 0 or high > 1:
        row, column = np.argwhere((image < 0) | (image > 1))[0]
        raise UserError(f"{where}: example {row} holds {image[row, column]}, outside [0, 1]: rescale them")


def with_neighbours(batch: Batch, count: int) -> Batch:
    """A split with the rows of each example's nearest neighbours within it.

    Args:
      batch: n examples.
      count: k, neighbours of each.

    Raises:
      UserError: k is not a whole number from 1 to n − 1.
    """
    n = len(batch.label)
    if not isinstance(count, int) or not 1 <= count < n:
        raise UserError(
            f"config.data.neighbours = {count}: must be a whole number below the {n} training examples, or 0"
        )
    from topojax.data.neighbours import nearest

    image = batch.image if isinstance(batch.image, Rows) else np.asarray(batch.image)
    return batch._replace(neighbours=cast(Array, nearest(image, count)))


def _made(config_data: Any, seed: int) -> _Pool:
    """Digits, or points of a manifold."""
    name = config_data.name
    if name == "digits":
        image, label = _digits()
        return _Pool(image, label, None, (8, 8, 1), 10, 16, "sklearn.datasets.load_digits")
    n = manifolds.DEFAULT_EXAMPLES if config_data.num_examples is None else config_data.num_examples
    image, label = manifolds.make(name, n, noise=config_data.noise, seed=seed)
    return _Pool(image, label, None, None, manifolds.MANIFOLDS[name].num_classes, 1, "topojax.manifolds")


def _official(name: str, version: str, splits: tfds_arrays.Splits) -> _Pool:
    """A set of tfds as its maker has it: images of bytes, both splits."""
    return _Pool(
        splits.train_image.reshape(len(splits.train_label), -1),
        splits.train_label,
        (splits.test_image.reshape(len(splits.test_label), -1), splits.test_label),
        cast(tuple[int, int, int], splits.train_image.shape[1:]),
        tfds_arrays.SOURCES[name].num_classes,
        255,
        f"tfds {name} {version}",
    )


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits [1797, 64] and their classes.

    Read from its data file where that lies where it has always lain: importing scikit-learn takes half a second, and
    nothing else needs it before the first epoch is done.
    """
    spec = importlib.util.find_spec("sklearn")
    path = pathlib.Path(spec.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if spec else None
    if path is not None and path.exists():
        table = np.loadtxt(path, delimiter=",", dtype=np.int32)
        image, label = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        image, label = digits.data, digits.target
    return image.astype(np.uint8), label.astype(np.int32)


def _batch(image: np.ndarray, label: np.ndarray, divisor: int) -> Batch:
    scaled = image.astype(np.float32)
    scaled /= divisor
    return Batch(cast(Array, scaled), cast(Array, label))


def describe(name: str, data_dir: str | None) -> str:
    """Sizes and shape of a data set in words, or that it is not there yet."""
    if name == "digits":
        return "1797 examples, 8×8×1, 10 classes"
    if name in manifolds.MANIFOLDS:
        manifold = manifolds.MANIFOLDS[name]
        size = manifolds.DEFAULT_EXAMPLES
        return f"{size} points unless told, {manifold.dimension} numbers, {manifold.num_classes} classes"
    source = tfds_arrays.SOURCES[name]
    what = f"{'×'.join(map(str, source.image_shape))}, {source.num_classes} classes"
    try:
        directory = tfds_arrays.find(name, data_dir)
    except UserError:
        return f"not in {tfds_arrays.root(data_dir)}: fetch it first, {what}"
    sizes = tfds_arrays.split_sizes(directory)
    return f"{sizes.get('train', 0)} train / {sizes.get('test', 0)} test examples, {what}"
