"""Charts as regions of the plane: where each chart's examples are, what it draws there, and who lives on a border."""

from typing import Any

import numpy as np

from topojax.report.embedding import Embedding

SHARED = 0.2
"""Least weight of a second chart for an example to lie on the border of the two."""


def outline(points: np.ndarray, share: float = 0.99) -> np.ndarray:
    """Hull of a chart's examples but for the few farthest out, [m, 2], closed; as it is, of fewer than three.

    Args:
      points: [n, 2].
      share: of the points that are kept.
    """
    if len(points) < 3:
        return points
    from scipy.spatial import ConvexHull, QhullError

    far = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    kept = points[far <= np.quantile(far, share)]
    try:
        corners = kept[ConvexHull(kept).vertices]
    except (QhullError, ValueError):  # all on a line, or too few
        return kept
    return np.concatenate([corners, corners[:1]])


def outlines(embedding: Embedding) -> list[np.ndarray]:
    """The region of every chart, as drawn; empty where nobody uses it."""
    points = embedding.project(embedding.encoding.z_geo)[:, :2]
    return [outline(points[embedding.chart == k]) for k in range(embedding.charts)]


def areas(embedding: Embedding) -> np.ndarray:
    """Area of each chart's region, latent units squared: [N], 0 where nobody uses it."""
    return np.array([_area(corners) for corners in outlines(embedding)])


def images(embedding: Embedding) -> np.ndarray:
    """What each chart draws in the middle of its examples, [N, X]; at its centre where it has none."""
    z = embedding.encoding.z_geo
    centers = np.asarray(embedding.run.weights["encoder"]["centers"])
    middles = [z[embedding.chart == k].mean(axis=0) if n else centers[k] for k, n in enumerate(embedding.population)]
    return np.asarray(embedding.run.decode(np.stack(middles), chart=np.arange(embedding.charts)).x_hat)


def borders(embedding: Embedding) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples that two charts claim: rows [m], first and second chart [m]; a second weight of at least `SHARED`."""
    w = embedding.encoding.router
    order = np.argsort(-w, axis=1)
    second = np.take_along_axis(w, order[:, 1:2], axis=1)[:, 0]
    rows = np.flatnonzero(second >= SHARED)
    return rows, order[rows, 0], order[rows, 1]


def both_places(embedding: Embedding) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where examples on borders lie: first place [m, d], second place [m, d], (first, second) chart [m, 2]."""
    rows, first, second = borders(embedding)
    places: Any = embedding.encoding.places
    pairs = np.stack([first, second], axis=1)
    return embedding.project(places[rows, first]), embedding.project(places[rows, second]), pairs


def shared_mass(embedding: Embedding) -> np.ndarray:
    """Σ_j≠k mean w_k w_j over the mass of each chart: how much of it overlaps with others, [N]."""
    w = embedding.encoding.router.astype(np.float64)
    both = w.T @ w / len(w)
    mass = w.mean(axis=0)
    return (both.sum(axis=1) - np.diag(both)) / np.maximum(mass, 1e-12)


def _area(corners: np.ndarray) -> float:
    if len(corners) < 4:
        return 0.0
    x, y = corners[:-1].T
    return 0.5 * abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))))
