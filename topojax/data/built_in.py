"""The sets that have a name: digits, points of manifolds, and those of tfds whose makers are known."""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from topojax.data import manifolds, tfds_arrays
from topojax.data.source import flat
from topojax.data.units import Units, unit_interval
from topojax.errors import UserError

NAMES = ("digits", *tfds_arrays.SOURCES, *manifolds.MANIFOLDS)


class Pool(NamedTuple):
    """Everything there is to split; `image / divisor` lies in [0, 1]."""

    image: Any  # an array, or a `Source` where it is streamed
    label: np.ndarray
    test: tuple[np.ndarray, np.ndarray] | None  # the official test split
    image_shape: tuple[int, int, int] | None
    num_classes: int
    divisor: int
    source: str


def made(config_data: Any, seed: int) -> Pool:
    """Digits, or points of a manifold."""
    name = config_data.name
    if name == "digits":
        image, label = _digits()
        return Pool(image, label, None, (8, 8, 1), 10, 16, "sklearn.datasets.load_digits")
    n = manifolds.DEFAULT_EXAMPLES if config_data.num_examples is None else config_data.num_examples
    image, label = manifolds.make(name, n, noise=config_data.noise, seed=seed)
    return Pool(image, label, None, None, manifolds.MANIFOLDS[name].num_classes, 1, "topojax.manifolds")


def official(name: str, version: str, splits: tfds_arrays.Splits) -> Pool:
    """A set of tfds as its maker has it: images of bytes, both splits."""
    return Pool(
        flat(splits.train_image),
        splits.train_label,
        (flat(splits.test_image), splits.test_label),
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


def built_in_units(name: str, sizes: Mapping[str, Any]) -> Units:
    """Units of a built-in set, for runs that have not kept them.

    Args:
      name: of the set.
      sizes: `Dataset.sizes`.
    """
    divisor = {"digits": 16.0, **dict.fromkeys(tfds_arrays.SOURCES, 255.0)}.get(name)
    return unit_interval(sizes["input_dim"], sizes["image_shape"], integers=divisor)


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
