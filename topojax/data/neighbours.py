"""Nearest neighbours within a set of inputs: pairs that share a class more often than not, found without labels.

sklearn.neighbors does the search, in the first 40 principal components: a twentieth of the price of MNIST's 784 pixels.
Of the eight neighbours of an image of MNIST's 55,000, 96 % share its class. From 100,000 examples on an approximate
index does it (NNDescent, Dong et al. 2011, of the extra `neighbours`): the exact search is quadratic.
"""

import warnings
from typing import Any

import jax
import numpy as np

from topojax.data.rows import Rows, blocks
from topojax.errors import needing
from topojax.types import Array, Batch

COMPONENTS = 40
EXACT = 100_000
"""Examples below which the search is exact, and at most so many that principal components are taken of."""
# Keeps the keys that draw partners apart from those that training folds step numbers into, which stay far below.
_PARTNER_STREAM = 0x70616972


def nearest(image: np.ndarray | Rows, count: int, *, exact_below: int = EXACT) -> np.ndarray:
    """The rows nearest to each row, itself left out, by Euclidean distance in the first 40 principal components.

    Args:
      image: [n, X] float32, or rows on the host, which are read by blocks.
      count: k, 1 ≤ k < n.
      exact_below: rows from which on the search is approximate.

    Returns:
      [n, k] int32, nearest first.

    Raises:
      UserError: the approximate search is wanted, and nothing is installed that does it.
    """
    if len(image) < exact_below:
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(_components(image))
        return search.kneighbors(return_distance=False).astype(np.int32)
    with needing("neighbours", f"config.data.neighbours of {len(image)} examples"):
        from pynndescent import NNDescent
    return _approximate(NNDescent, _components(image), count)


def _components(image: np.ndarray | Rows) -> np.ndarray:
    """[n, ≤ 40]: coordinates along principal axes, of many examples those of the first `EXACT` in a random order."""
    from sklearn.decomposition import PCA

    components = min(COMPONENTS, *image.shape)
    pca = PCA(components, svd_solver="randomized", random_state=0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # shares of a variance that is 0
        if len(image) <= EXACT:
            return pca.fit_transform(np.asarray(image))
        some = np.sort(np.random.default_rng(0).permutation(len(image))[:EXACT])
        pca.fit(image[some])
        return np.concatenate([pca.transform(block) for block in blocks(image)])


def _approximate(index: Any, points: np.ndarray, count: int) -> np.ndarray:
    """Neighbours by an index of neighbours of neighbours; one that finds itself, or nothing, takes the next."""
    found, _ = index(points.astype(np.float32), n_neighbors=count + 1, random_state=0).neighbor_graph
    own = np.arange(len(points))[:, None]
    wrong = (found == own) | (found < 0)
    order = np.argsort(wrong, axis=1, kind="stable")  # nearest first, what is no neighbour last
    found, wrong = np.take_along_axis(found, order, 1)[:, :count], np.take_along_axis(wrong, order, 1)[:, :count]
    nearest_found = np.where(wrong[:, :1], own, found[:, :1])  # of one that has none at all, itself
    return np.where(wrong, nearest_found, found).astype(np.int32)


def partners(key: Array, step: Array, data: Batch, index: Array) -> Array:
    """A neighbour of each example, drawn anew with every step.

    Args:
      key: of the run, typed.
      step: the draw is a function of (key, step).
      data: a split with its neighbours.
      index: [B] rows of it.

    Returns:
      [B, X] inputs.

    Raises:
      ValueError: for a split without neighbours.
    """
    if data.neighbours is None:
        raise ValueError("config.data.neighbours is set, but these data carry none: load them with topojax.data.load")
    return data.image[data.neighbours[index, choices(key, step, index.shape[0], data.neighbours.shape[1])]]


def choices(key: Array, step: Array, size: int, count: int) -> Array:
    """Which of its neighbours each example of a batch is paired with, [size] in 0 … count − 1."""
    key = jax.random.fold_in(jax.random.fold_in(key, _PARTNER_STREAM), step)
    return jax.random.randint(key, (size,), 0, count)
