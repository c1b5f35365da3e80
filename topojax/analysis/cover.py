"""The charts of an atlas as a cover of its points: patches, their overlaps, the nerve, and the Euler characteristic.

A chart's cell is the points that it claims more than any other; its patch U_k, the points within ε of the cell. Then

  χ = Σ_σ (−1)^{|σ| − 1} χ(U_σ),    U_σ = ⋂_{k ∈ σ} U_k,    χ(U_σ) = components − holes

which is exact for any patches whatever their shape; where all U_σ are contractible it is that of the nerve. Components
are those of a neighbourhood graph of the points, holes are counted in the plane of the chart's own coordinates.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

LARGEST = 6
"""Patches in an overlap, at most."""
LEAST = 4
"""Points of a component that counts: fewer are an accident of sampling."""
NEIGHBOURS = 20
_PIXELS = 1.6  # of a raster of the plane, in spacings of the points in it


class Graph(NamedTuple):
    """Points and who is near whom."""

    points: np.ndarray  # shape=(n, X)
    neighbours: np.ndarray  # shape=(n, k), int: nearest others
    spacing: np.ndarray  # shape=(n,): distance to the fourth nearest, mean over the neighbourhood: the unit of ε


class Cover(NamedTuple):
    """The patches of one ε.

    Attributes:
      epsilon: in spacings of the points.
      member: [n, N] bool, who lies in which patch.
      reach: [n, N], distance to every cell in spacings.
      overlaps: sets of charts with a common point → the components of their overlap, each an array of points.
      holes: the same sets → how many holes the components have, all together.
    """

    epsilon: float
    member: np.ndarray
    reach: np.ndarray
    overlaps: dict[tuple[int, ...], list[np.ndarray]]
    holes: dict[tuple[int, ...], int]

    @property
    def euler(self) -> int:
        """Euler characteristic of what is covered."""
        terms = ((-1) ** (len(s) - 1) * (len(parts) - self.holes[s]) for s, parts in self.overlaps.items())
        return int(sum(terms))

    def core(self, charts: tuple[int, ...], part: np.ndarray) -> np.ndarray:
        """The quarter of an overlap's points, four at least, that lie closest to all of its cells.

        Coordinates are read there: farther from its own cell a chart has seen less.
        """
        order = np.argsort(self.reach[part][:, list(charts)].max(axis=1), kind="stable")
        return part[order[: max(LEAST, len(part) // 4)]]

    def counts(self) -> list[int]:
        """Components of patches, of overlaps of two, of three, and so on."""
        size = max(map(len, self.overlaps), default=0)
        return [sum(len(parts) for s, parts in self.overlaps.items() if len(s) == m + 1) for m in range(size)]


def make_graph(points: np.ndarray) -> Graph:
    """Neighbours of points [n, X]."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(points).kneighbors(points)
    near = found[1][:, 1:]
    return Graph(points, near, found[0][:, 4][near].mean(axis=1))


def distances_to_cells(graph: Graph, chart: np.ndarray, charts: int) -> np.ndarray:
    """Distance of every point to the nearest of each cell, 0 within: [n, N], infinite to a cell without points."""
    from scipy.spatial import cKDTree

    out = np.full((len(chart), charts), np.inf)
    for k in range(charts):
        cell = graph.points[chart == k]
        if len(cell):
            out[:, k] = cKDTree(cell).query(graph.points)[0]
    return out


def make_cover(graph: Graph, distance: np.ndarray, local: np.ndarray, epsilon: float) -> Cover:
    """Patches of one ε, their overlaps and the holes in them.

    Args:
      graph: of the points.
      distance: to cells, [n, N].
      local: coordinates of every point in every chart, [n, N, 2]; of other than two dimensions no holes are sought.
      epsilon: in spacings.
    """
    reach = distance / graph.spacing[:, None]
    member = reach <= epsilon
    sets: set[tuple[int, ...]] = set()
    for pattern in np.unique(member, axis=0):
        claimed = np.flatnonzero(pattern)
        for size in range(1, min(len(claimed), LARGEST) + 1):
            sets.update(itertools.combinations(claimed.tolist(), size))
    overlaps, holes = {}, {}
    for charts in sorted(sets, key=lambda s: (len(s), s)):
        inside = np.flatnonzero(member[:, list(charts)].all(axis=1))
        parts = [part for part in components(graph, inside) if len(part) >= LEAST]
        if parts:
            overlaps[charts] = parts
            planar = local.shape[2] == 2 and len(charts) < 3
            holes[charts] = sum(holes_in(local[part, charts[0]]) for part in parts) if planar else 0
    return Cover(epsilon, member, reach, overlaps, holes)


def components(graph: Graph, inside: np.ndarray) -> list[np.ndarray]:
    """Connected parts of a set of points [m], largest first."""
    position = np.full(len(graph.points), -1)
    position[inside] = np.arange(len(inside))
    to = position[graph.neighbours[inside]]
    start, end = np.nonzero(to >= 0)
    links = csr_matrix((np.ones(len(start)), (start, to[start, end])), shape=2 * (len(inside),))
    number, which = connected_components(links, directed=False)
    return sorted((inside[which == c] for c in range(number)), key=len, reverse=True)


def holes_in(plane: np.ndarray) -> int:
    """Holes of a patch, seen in the plane: what its raster encloses, two pixels across or more.

    Args:
      plane: [m, 2].
    """
    if len(plane) < 12:
        return 0
    from scipy.spatial import cKDTree

    pixel = _PIXELS * max(np.median(cKDTree(plane).query(plane, k=5)[0][:, 4]), 1e-9)
    at = np.floor((plane - plane.min(axis=0)) / pixel).astype(int)
    if at.max() > 400:  # a few points far out: the raster would be empty
        return 0
    raster = np.zeros(at.max(axis=0) + 5, bool)
    raster[at[:, 0] + 2, at[:, 1] + 2] = True
    raster = ndimage.binary_closing(raster, np.ones((3, 3)))
    label, number = ndimage.label(~raster)
    sizes = ndimage.sum(~raster, label, range(1, number + 1))
    return int(sum(size >= 4 for i, size in enumerate(np.atleast_1d(sizes), start=1) if i != label[0, 0]))
