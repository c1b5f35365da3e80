"""Data sets as arrays in memory, and the order in which training sees them.

`topojax data list` shows what there is; only `topojax data fetch NAME` downloads.
"""

import difflib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from topojax.data import classes, given, own, readers, tfds_arrays
from topojax.data.built_in import NAMES, built_in_units, describe, made, official
from topojax.data.checks import check, in_unit_interval
from topojax.data.fetched import fetched
from topojax.data.modes import chosen
from topojax.data.order import batch_indices, permutation, shuffled, stratified
from topojax.data.raw import Options, Raw, streamed, taken
from topojax.data.readers.on_disk import exists
from topojax.data.rows import Given, Rows
from topojax.data.units import Units
from topojax.errors import UserError
from topojax.types import Array, Batch

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
    stream = on_host and data is None and config_data.mode == "stream"
    if data is not None or name not in NAMES:
        return _own(config_data, _raw(config_data, data, stream), seed, in_memory=data is not None, on_host=on_host)
    if name in tfds_arrays.SOURCES:
        directory = tfds_arrays.find(name, config_data.data_dir)
        splits = _prepared(directory, config_data.cache, stream)
        if splits.train_image.dtype != np.uint8:  # not as the maker of the set has it
            return _own(config_data, tfds_arrays.raw(directory, splits), seed, on_host=on_host)
        pool = official(name, directory.name, splits)
    else:
        pool = made(config_data, seed)
    rng = np.random.default_rng(seed)
    train, test = _split(name, config_data, pool.label, pool.test is not None, rng)
    sizes = {"input_dim": pool.image.shape[1], "image_shape": pool.image_shape}
    units = built_in_units(name, sizes)
    mode = chosen(config_data.mode, len(train), pool.image.shape[1]) if on_host else "memory"
    held = mode != "memory" and pool.image.dtype == np.uint8
    splits_of: dict[str, Any] = {
        "train": (Given(pool.image, train) if held else pool.image[train], pool.label[train]),
        "test": pool.test if test is None and pool.test is not None else (pool.image[test], pool.label[test]),
    }
    batches = {
        split: _held(Rows(image, units), label) if isinstance(image, Given) else _batch(image, label, pool.divisor)
        for split, (image, label) in splits_of.items()
    }
    for split, batch in batches.items():
        check(batch, pool.num_classes, f"{name} {split} split")
    if mode != "memory" and not held:
        batches["train"] = _held(Rows(Given(np.asarray(batches["train"].image)), units), pool.label[train])
    manifest = _manifest(name, pool.source, splits_of)
    return _finished(config_data, batches, pool.image_shape, pool.num_classes, manifest, units, mode=mode)


def _prepared(directory: pathlib.Path, cache: bool, stream: bool) -> tfds_arrays.Splits:
    """A set of tfds, its images in memory or read as they are asked for."""
    if not stream:
        return tfds_arrays.load(directory, cache=cache)
    from topojax.data import tfds_records

    return tfds_records.splits(directory)


def locate(name: str, data_dir: str | None = None) -> str:
    """What a name stands for: itself where it is built in, or the absolute path of a person's own file or folder.

    Raises:
      UserError: neither, nor a data set that tfds has prepared.
    """
    if not name.strip():
        raise UserError(
            f"config.data.name is empty: choose one of {', '.join(NAMES)}, or the path of a file or a folder"
        )
    if name in NAMES or name == given.NAME or "://" in name:
        return name
    path = pathlib.Path(name).expanduser()
    if exists(path):
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


def _raw(config_data: Any, data: Any, stream: bool) -> Raw:
    """Own data as they were given, or as they lie there."""
    place = "" if data is not None or config_data.name == given.NAME else locate(config_data.name, config_data.data_dir)
    columns, resize = config_data.columns, config_data.resize
    options = Options(
        config_data.label,
        tuple(name.strip() for name in columns.split(",")) if columns else None,
        _size(resize) if resize else None,
        stream,
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
    return tfds_arrays.raw(directory, _prepared(directory, config_data.cache, stream))


def _size(resize: str) -> tuple[int, int]:
    """(height, width) of 64 or 64x48."""
    sides = [int(side) for side in resize.split("x") if side.isdigit()]
    if resize.count("x") != len(sides) - 1 or len(sides) > 2 or not all(0 < side <= 4096 for side in sides):
        raise UserError(f"config.data.resize = {resize!r}: a side in pixels, or height x width, as 64x48")
    return sides[0], sides[-1]


def _own(config_data: Any, raw: Raw, seed: int, *, in_memory: bool = False, on_host: bool = False) -> Dataset:
    """A person's own data: settled, split as the built-in sets are, scaled."""
    name = "data" if in_memory or config_data.name == given.NAME else pathlib.PurePath(config_data.name).name
    name = name or config_data.name  # of / and of .
    raw, _ = own.settle(raw, config_data.missing, name)
    counted = classes.encode(raw.train.label, own.count(raw.train), name, raw.names)
    pool = raw.train._replace(label=counted.label)
    rng = np.random.default_rng(seed)
    train, test = _split(name, config_data, counted.label, raw.test is not None, rng)
    if test is None:
        assert raw.test is not None
        label = classes.same(raw.test.label, own.count(raw.test), f"{name} test split", counted, raw.names)
        held = raw.test._replace(label=label)
    else:
        train, test = _each_class_to_train_on(counted.label, train, test)
        held = taken(pool, test)
    fitting = {"shape": config_data.shape, "scale": config_data.scale}
    inputs = pool.inputs
    size = len(inputs) if isinstance(inputs, dict) else int(np.prod(inputs.shape[1:]))
    mode = chosen(config_data.mode, len(train), size) if on_host else "memory"
    # A scale for each number is a table's: those are rows of floats on the host, too.
    bytes_stay = mode != "memory" and config_data.shape != "none"
    some = taken(pool, train, on_host=bytes_stay or streamed(pool.inputs))
    found = own.ready(raw, some, held, **fitting, counted=counted, where=name)
    splits = {"train": found.train, "test": found.test}
    batches = {split: Batch(cast(Array, image), cast(Array, label)) for split, (image, label) in splits.items()}
    if mode != "memory" and not isinstance(found.train[0], Rows):
        batches["train"] = _held(Rows(Given(found.train[0]), found.units), found.train[1])
    if config_data.scale == "none":
        for split, batch in batches.items():
            in_unit_interval(cast(Any, batch.image), f"{name} {split} split")
    manifest = _manifest(name, raw.source, splits)
    shape, units = found.units.image_shape, found.units
    about = {"notes": found.notes, "own": True, "mode": mode}
    return _finished(config_data, batches, shape, found.num_classes, manifest, units, **about)


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


def _batch(image: np.ndarray, label: np.ndarray, divisor: int) -> Batch:
    scaled = image.astype(np.float32)
    scaled /= divisor
    return Batch(cast(Array, scaled), cast(Array, label))
