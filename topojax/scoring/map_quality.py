"""How far a map of points can be trusted: which neighbours it invents, which it loses, what its neighbours are."""

import numpy as np

from topojax.scoring.scores import Number

FIRST = 10_000
"""Examples of a split that are looked at, the first: all pairs are compared."""

NUMBERS = {
    "trustworthiness": Number(
        "1 − penalty for latent neighbours (k = 5) that are none among the inputs, by their rank there; first 10,000"
    ),
    "continuity": Number("1 − the same penalty for neighbours of inputs that the latent tears apart; first 10,000"),
    "knn5": Number(
        "accuracy of the majority of an example's 5 nearest in the latent, itself left out; first 10,000", "score"
    ),
}

_CHUNK = 500  # rows of distances at a time


def map_quality(inputs: np.ndarray, latent: np.ndarray, labels: np.ndarray | None, k: int = 5) -> dict[str, float]:
    """Trustworthiness and continuity (Venna & Kaski 2001), and what the latent's neighbours are.

      T = 1 − 2 / (n k (2n − 3k − 1)) Σ_i Σ_{j ∈ U_k(i)} (r(i, j) − k)

    U_k(i): the k nearest of i in the latent that are not among its k nearest inputs, r the rank of j among the inputs;
    continuity with the two exchanged. Distances are Euclidean; of equal ones the first in the split comes first.

    Args:
      inputs: [n, X].
      latent: [n, D].
      labels: [n]; None: what needs labels is NaN.
      k: neighbours.

    Returns:
      trustworthiness, continuity, in [0, 1]; knn5 (of k neighbours, whatever k; of equal votes the least class) and
      hit, the mean share of an example's k latent neighbours in its class. Of the first 10,000 examples; NaN of fewer
      than 2k + 2.
    """
    names = ("trustworthiness", "continuity", "knn5", "hit")
    inputs, latent = (np.asarray(a[:FIRST], np.float32) for a in (inputs, latent))
    n = len(inputs)
    if n < 2 * k + 2:
        return dict.fromkeys(names, float("nan"))
    penalties, near = np.zeros(2), np.zeros((n, k), np.int64)
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        far = [_distances(points, rows) for points in (inputs, latent)]
        nearest = [_nearest(d, k) for d in far]
        near[rows] = nearest[1]
        for which, (ranked, chosen) in enumerate(((far[0], nearest[1]), (far[1], nearest[0]))):
            penalties[which] += np.maximum(_ranks(ranked, chosen) - k, 0).sum()
    trust, continuity = 1.0 - penalties * 2.0 / (n * k * (2 * n - 3 * k - 1))
    out = {"trustworthiness": float(trust), "continuity": float(continuity)}
    if labels is None:
        return out | {"knn5": float("nan"), "hit": float("nan")}
    labels = np.asarray(labels[:FIRST])
    votes = np.zeros((n, labels.max() + 1), np.int64)
    np.add.at(votes, (np.repeat(np.arange(n), k), labels[near].ravel()), 1)
    hit = (labels[near] == labels[:, None]).mean()
    return out | {"knn5": float((votes.argmax(axis=1) == labels).mean()), "hit": float(hit)}


def _distances(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Squared distances [rows, n], infinite of a point to itself."""
    squared = np.einsum("nx,nx->n", points, points)
    out = squared[None] - 2.0 * points[rows] @ points.T + squared[rows, None]
    out[np.arange(len(rows)), rows] = np.inf
    return out


def _nearest(distances: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k least of each row, [rows, k]."""
    some = np.argpartition(distances, k - 1, axis=1)[:, :k]
    return np.take_along_axis(some, np.argsort(np.take_along_axis(distances, some, 1), axis=1, kind="stable"), 1)


def _ranks(distances: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Rank, from 1, of the distances in these columns, [rows, k]."""
    at = np.take_along_axis(distances, columns, axis=1)
    return np.stack([1 + (distances < at[:, i, None]).sum(axis=1) for i in range(at.shape[1])], axis=1)
