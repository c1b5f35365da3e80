"""Whether charts can be oriented: the class of H¹(nerve; Z2) that the measured signs are nearest to.

The signs s_e of the transitions' Jacobians on the overlaps e of two charts are a cocycle, s_ij + s_jk = s_ik, and their
class is the first Stiefel-Whitney class: 0 exactly where the manifold is orientable. Measured signs err, mostly where
an overlap is small and far from both cells, so that the class is decoded as that of a code is:

  E(c) = min_x Σ_e w_e [s_e ≠ c_e + x_a + x_b],   of each class c, over orientations x of the charts a, b that e joins

The class of least E is the verdict, if it explains nearly all signs and leaves visibly fewer than the other verdict.
"""

import itertools
from typing import NamedTuple

import numpy as np

MOST_CLASSES = 64
"""Classes that are told apart, at most: a nerve with more holes is not a closed surface's."""
UNEXPLAINED = 0.15
"""Largest share of the signs' weight that the best class may leave unexplained."""
RATIO = 2 / 3
"""Largest part that the best class may leave unexplained of what the best of the other verdict leaves."""
_STARTS = 40


class Nerve(NamedTuple):
    """Patches, and how they overlap.

    Attributes:
      vertices: number of patches.
      edges: [E, 2], the two patches of each overlap; several overlaps may join the same two.
      triangles: [T, 3], overlaps of three, as the edges around them.
    """

    vertices: int
    edges: np.ndarray
    triangles: np.ndarray


class Decoded(NamedTuple):
    """What the signs say.

    Attributes:
      orientable: None where they do not say.
      unexplained: least share of weight that an orientation leaves unexplained.
      twisted: the same of the best class that is not 0; NaN where there is none.
      classes: how many there are.
    """

    orientable: bool | None
    unexplained: float
    twisted: float
    classes: int


def decode(nerve: Nerve, signs: np.ndarray, weights: np.ndarray) -> Decoded:
    """The class nearest to signs.

    Args:
      nerve: of the charts.
      signs: [E], ±1.
      weights: [E], ≥ 0: how sure a sign is.
    """
    total = float(weights.sum())
    if not total:
        return Decoded(None, float("nan"), float("nan"), 0)
    turned = np.asarray(signs) < 0
    flat = _energy(nerve, turned, weights) / total
    basis = cohomology(nerve)
    count = 2 ** len(basis)
    if count > MOST_CLASSES:
        return Decoded(None, flat, float("nan"), count)
    twisted = float("nan")
    for chosen in itertools.product((False, True), repeat=len(basis)):
        if any(chosen):
            cocycle = np.logical_xor.reduce([one for one, used in zip(basis, chosen, strict=True) if used])
            twisted = float(np.fmin(twisted, _energy(nerve, turned ^ cocycle, weights) / total))
    best = float(np.fmin(flat, twisted))
    rival = float(np.fmax(flat, twisted)) if basis else np.inf
    if best > UNEXPLAINED or best > RATIO * rival:
        return Decoded(None, flat, twisted, count)
    return Decoded(bool(flat == best), flat, twisted, count)


def cohomology(nerve: Nerve) -> list[np.ndarray]:
    """Cocycles, one for each dimension of H¹(nerve; Z2): [E] bool, independent up to changes of orientations."""
    edges = len(nerve.edges)
    around = np.zeros((len(nerve.triangles), edges), bool)
    for row, triangle in zip(around, nerve.triangles, strict=True):
        for edge in triangle:
            row[edge] ^= True
    ends = np.zeros((nerve.vertices, edges), bool)
    for edge, (a, b) in enumerate(nerve.edges):
        ends[a, edge] ^= True
        ends[b, edge] ^= True
    span = _Span()
    for coboundary in ends:
        span.add(coboundary)
    return [cocycle for cocycle in _kernel(around) if span.add(cocycle)]


class _Span:
    """A subspace of Z2^E that grows."""

    def __init__(self) -> None:
        self._rows: dict[int, np.ndarray] = {}  # first coordinate that is 1 → vector

    def add(self, vector: np.ndarray) -> bool:
        """Whether the vector lay outside; it lies within after."""
        vector = vector.copy()
        while vector.any():
            first = int(vector.argmax())
            if first not in self._rows:
                self._rows[first] = vector
                return True
            vector ^= self._rows[first]
        return False


def _kernel(matrix: np.ndarray) -> list[np.ndarray]:
    """A basis of {v : M v = 0} over Z2, of M [T, E]."""
    rows = [row.copy() for row in matrix]
    pivots: list[int] = []
    for column in range(matrix.shape[1]):
        at = next((i for i in range(len(pivots), len(rows)) if rows[i][column]), None)
        if at is None:
            continue
        rows[len(pivots)], rows[at] = rows[at], rows[len(pivots)]
        for i, row in enumerate(rows):
            if i != len(pivots) and row[column]:
                row ^= rows[len(pivots)]
        pivots.append(column)
    free = sorted(set(range(matrix.shape[1])) - set(pivots))
    found = []
    for column in free:
        vector = np.zeros(matrix.shape[1], bool)
        vector[column] = True
        for row, pivot in zip(rows, pivots, strict=False):
            vector[pivot] = row[column]
        found.append(vector)
    return found


def _energy(nerve: Nerve, turned: np.ndarray, weights: np.ndarray) -> float:
    """min_x Σ_e w_e [turned_e ≠ x_a + x_b], by descent from many orientations; they are few, and so are the charts."""
    rng = np.random.default_rng(0)
    a, b = nerve.edges.T
    least = np.inf
    for start in range(_STARTS):
        x = rng.integers(0, 2, nerve.vertices).astype(bool) if start else _grown(nerve, turned, weights)
        while True:
            wrong = np.where(turned ^ x[a] ^ x[b], weights, -weights)
            gain = np.zeros(nerve.vertices)
            np.add.at(gain, a, wrong)
            np.add.at(gain, b, wrong)
            gain[[i for i, j in nerve.edges if i == j]] = 0.0
            if gain.max() <= 1e-9:
                break
            x[gain.argmax()] ^= True
        least = min(least, float(weights[turned ^ x[a] ^ x[b]].sum()))
    return least


def _grown(nerve: Nerve, turned: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Orientations by the surest signs first: [V] bool, along a spanning forest of greatest weight."""
    root, x = np.arange(nerve.vertices), np.zeros(nerve.vertices, bool)
    for edge in np.argsort(-weights, kind="stable"):
        i, j = nerve.edges[edge]
        if root[i] != root[j]:
            moved = root == root[j]
            x[moved] ^= bool(turned[edge] ^ x[i] ^ x[j])
            root[moved] = root[i]
    return x
