"""Data sets as arrays in memory, and the order in which training sees them.

`topojax data list` shows what there is; only `topojax data fetch NAME` downloads.
"""

import importlib.util
import pathlib
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from topojax.data import manifolds, tfds_arrays
from topojax.errors import UserError
from topojax.types import Array, Batch

NAMES = ("digits", *tfds_arrays.SOURCES, *manifolds.MANIFOLDS)
_DEFAULT_TEST_FRACTION = 0.2
# Keeps the order's keys apart from those that training folds step numbers into, which stay far below.
_ORDER_STREAM = 0x6F726465


class Dataset(NamedTuple):
    """A data set, split and checked. Its arrays are numpy's: they live on the host."""

    name: str
    train: Batch  # image (n, X) float32 in [0, 1], label (n,) int32
    test: Batch  # image (m, X), label (m,)
    image_shape: tuple[int, int, int] | None  # (H, W, C) with H·W·C = X; None for points of a manifold
    num_classes: int
    manifest: dict[str, Any]  # JSON-able: name, source, and per split the number of examples and their sha256

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


def load(config_data: Any, *, seed: int) -> Dataset:
    """Read or make the data set that `config.data` describes, split it, check it.

    Training pool: the official training split, all 1,797 digits, or a manifold's points. `num_examples` of it
    are drawn, and `test_fraction` of those held out; both draws keep the classes' shares (± 1 example).

    Args:
      config_data: fields name, num_examples, data_dir, test_fraction, noise, cache, neighbours. `test_fraction` None
        means the official test split whole, or 0.2 where there is none; a number leaves that split unused.
        `neighbours` > 0 gives the training split that many nearest neighbours of each example.
      seed: of the draws and of a manifold's points; the result is a function of it and of `config_data`.

    Returns:
      A Dataset, in the pool's order.

    Raises:
      UserError: for an unknown name, sizes that do not fit, a data set that is not there, bad values.
    """
    name, num_examples, fraction = config_data.name, config_data.num_examples, config_data.test_fraction
    if name not in NAMES and not name.endswith(".npz"):
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(NAMES)}")
    if seed < 0:
        raise UserError(f"seed = {seed} must not be negative")
    if num_examples is not None and num_examples < 2:
        raise UserError(f"data.num_examples = {num_examples}: needs at least 2, one to train on and one to test")
    pool = _pool(config_data, seed)
    rng = np.random.default_rng(seed)
    chosen = np.arange(len(pool.label))
    if num_examples is not None:
        if num_examples > len(chosen):
            raise UserError(f"data.num_examples = {num_examples}, but {name} has {len(chosen)} to draw from")
        chosen = stratified(pool.label, num_examples, rng)
    if fraction is None and pool.test is not None:
        train, test = (pool.image[chosen], pool.label[chosen]), pool.test
    else:
        train, test = _hold_out(pool, chosen, _DEFAULT_TEST_FRACTION if fraction is None else fraction, rng)
    batches = {"train": _batch(*train, pool.divisor), "test": _batch(*test, pool.divisor)}
    for split, batch in batches.items():
        check(batch, pool.num_classes, f"{name} {split} split")
    if config_data.neighbours:
        batches["train"] = with_neighbours(batches["train"], config_data.neighbours)
    manifest: dict[str, Any] = {"name": name, "source": pool.source}
    for split, raw in (("train", train), ("test", test)):
        manifest[split] = {"examples": len(raw[1]), "sha256": tfds_arrays.digest(*raw)}
    return Dataset(name, batches["train"], batches["test"], pool.image_shape, pool.num_classes, manifest)


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of n examples, each as likely as any other and every class within one of its share.

    Systematic sampling: examples in random order, sorted by class, every (n / count)-th from a random start.

    Args:
      labels: [n] int.
      count: 0 < count ≤ n.
      rng: advanced by two draws.

    Returns:
      [count] indices, increasing.
    """
    n = len(labels)
    order = rng.permutation(n)
    order = order[np.argsort(labels[order], kind="stable")]
    # In integers: rounding could draw an example twice, or one past the end.
    return np.sort(order[(np.arange(count) * n + rng.integers(n)) // count])


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
    low, high = image.min(), image.max()  # NaN if there is one
    if not np.isfinite([low, high]).all():
        bad = ~np.isfinite(image)
        raise UserError(f"{where}: {bad.sum()} values are not finite, the first in example {bad.any(axis=1).argmax()}")
    if low < 0 or high > 1:
        row, column = np.argwhere((image < 0) | (image > 1))[0]
        raise UserError(f"{where}: example {row} holds {image[row, column]}, outside [0, 1]: rescale them")
    if not np.issubdtype(label.dtype, np.integer):
        raise UserError(f"{where}: labels are {label.dtype}, not integers")
    wrong = (label < 0) | (label >= num_classes)
    if wrong.any():
        row = wrong.argmax()
        raise UserError(f"{where}: example {row} has label {label[row]}, outside [0, {num_classes})")


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

    return batch._replace(neighbours=cast(Array, nearest(np.asarray(batch.image), count)))


def permutation(seed: int | Array, epoch: int | Array, n: int) -> Array:
    """Order of the examples in one epoch: a function of (seed, epoch), so the step restores the position.

    Args:
      seed: may be traced.
      epoch: may be traced.
      n: number of examples; static.

    Returns:
      [n] int32, a permutation of 0 … n − 1.
    """
    return shuffled(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _ORDER_STREAM), epoch), n)


def shuffled(key: Array, n: int) -> Array:
    """A random order of 0 … n − 1, [n] int32: one sort of random words, where `jax.random.permutation` takes several.

    Equal words, one pair in 2³² / n², keep their order, which nobody can tell.
    """
    return jnp.argsort(jax.random.bits(key, (n,))).astype(jnp.int32)


def batch_indices(seed: int | Array, epoch: int | Array, n: int, batch_size: int) -> Array:
    """Which examples make up each batch of an epoch; the last n mod batch_size of the order sit this one out.

    Args:
      seed: may be traced.
      epoch: may be traced.
      n: number of examples; static.
      batch_size: 1 ≤ batch_size ≤ n; static.

    Returns:
      [n // batch_size, batch_size] int32.

    Raises:
      UserError: for a batch size out of range.
    """
    if not 1 <= batch_size <= n:
        raise UserError(f"batch_size = {batch_size} must lie between 1 and the {n} training examples")
    batches = n // batch_size
    return permutation(seed, epoch, n)[: batches * batch_size].reshape(batches, batch_size)


def _pool(config_data: Any, seed: int) -> _Pool:
    name = config_data.name
    if name == "digits":
        image, label = _digits()
        return _Pool(image, label, None, (8, 8, 1), 10, 16, "sklearn.datasets.load_digits")
    if name in manifolds.MANIFOLDS:
        n = manifolds.DEFAULT_EXAMPLES if config_data.num_examples is None else config_data.num_examples
        image, label = manifolds.make(name, n, noise=config_data.noise, seed=seed)
        return _Pool(image, label, None, None, manifolds.MANIFOLDS[name].num_classes, 1, "topojax.manifolds")
    if name.endswith(".npz"):
        return _archive(pathlib.Path(name))
    directory = tfds_arrays.find(name, config_data.data_dir)
    splits = tfds_arrays.load(directory, cache=config_data.cache)
    return _Pool(
        splits.train_image.reshape(len(splits.train_label), -1),
        splits.train_label,
        (splits.test_image.reshape(len(splits.test_label), -1), splits.test_label),
        cast(tuple[int, int, int], splits.train_image.shape[1:]),
        tfds_arrays.SOURCES[name].num_classes,
        255,
        f"tfds {name} {directory.name}",
    )


def _archive(path: pathlib.Path) -> _Pool:
    """Arrays x_train, y_train, x_test and y_test of a file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"config.data.name = {path}: {error}") from error
    shape = cast(tuple[int, int, int], x.shape[1:]) if x.ndim == 4 else None
    test = (x_test.reshape(len(x_test), -1), y_test.astype(np.int32))
    classes = int(max(y.max(), y_test.max())) + 1
    return _Pool(x.reshape(len(x), -1), y.astype(np.int32), test, shape, classes, 1, path.name)


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


def _hold_out(
    pool: _Pool, chosen: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    count = round(fraction * len(chosen)) if 0 < fraction < 1 else 0
    if not 0 < count < len(chosen):
        raise UserError(
            f"data.test_fraction = {fraction} of {len(chosen)} examples leaves nothing to train on or to test"
        )
    held = np.zeros(len(chosen), bool)
    held[stratified(pool.label[chosen], count, rng)] = True
    train, test = chosen[~held], chosen[held]
    return (pool.image[train], pool.label[train]), (pool.image[test], pool.label[test])


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
