"""Nearest neighbours of examples in the latent, as viewers of embeddings draw them."""

import numpy as np

NEIGHBOURS = 15
"""Of each example, itself left out."""


def nearest(z: np.ndarray, count: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """The rows nearest to each row by Euclidean distance, itself left out.

    Args:
      z: [n, D].
      count: k; fewer where n is small.

    Returns:
      Rows [n, k] int64, nearest first, and distances [n, k], latent units.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(count, len(z) - 1)
    if count < 1:
        return np.zeros((len(z), 0), np.int64), np.zeros((len(z), 0), z.dtype)
    distances, rows = NearestNeighbors(n_neighbors=count).fit(z).kneighbors()
    return rows.astype(np.int64), distances.astype(z.dtype)


def plane(z: np.ndarray) -> np.ndarray:
    """[n, 2] to draw: the latent itself in two dimensions, else its first two principal axes."""
    if z.shape[1] == 2:
        return z
    if z.shape[1] == 1:
        return np.concatenate([z, np.zeros_like(z)], axis=1)
    centred = z - z.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    return centred @ axes[:2].T
