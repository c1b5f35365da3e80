"""Nearest neighbours within a set of inputs: pairs that share a class more often than not, found without labels.

sklearn.neighbors does the search, in the first 40 principal components: a twentieth of the price of MNIST's 784 pixels.
Of the eight neighbours of an image of MNIST's 55,000, 96 % share its class.
"""

import warnings

import jax
import numpy as np

from topojax.types import Array, Batch

COMPONENTS = 40
# Keeps the keys that draw partners apart from those that training folds step numbers into, which stay far below.
_PARTNER_STREAM = 0x70616972


def nearest(image: np.ndarray, count: int) -> np.ndarray:
    """The rows nearest to each row, itself left out, by Euclidean distance in the first 40 principal components.

    Args:
      image: [n, X] float32.
      count: k, 1 ≤ k < n.

    Returns:
      [n, k] int32, nearest first.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    components = min(COMPONENTS, *image.shape)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # shares of a variance that is 0
        points = PCA(components, svd_solver="randomized", random_state=0).fit_transform(image)
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(points)
    return search.kneighbors(return_distance=False).astype(np.int32)


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
    key = jax.random.fold_in(jax.random.fold_in(key, _PARTNER_STREAM), step)
    choice = jax.random.randint(key, index.shape, 0, data.neighbours.shape[1])
    return data.image[data.neighbours[index, choice]]
