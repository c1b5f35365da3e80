"""Labelled points on known manifolds in the unit square or cube, for experiments whose answer is known."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from topojax.errors import UserError

DEFAULT_EXAMPLES = 2000
_ROLL_BINS = 10


class Manifold(NamedTuple):
    """How to draw one manifold: `draw(n, seed) -> points [n, D] float64, labels [n]`, and what to expect."""

    draw: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
    dimension: int
    num_classes: int


def make(name: str, n: int, *, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` labelled points of the manifold `name`, every axis scaled to [0, 1].

    x = unit(unit(draw) + noise · ξ),  ξ ~ N(0, I)

    unit(·) maps each axis' range to [0, 1], so `noise` means the same for every manifold. Labels are those of
    the points before noise.

    Args:
      name: a key of MANIFOLDS.
      n: number of points, at least 2.
      noise: standard deviation, as a fraction of the extent along each axis.
      seed: not negative; equal seeds give equal points.

    Returns:
      points [n, D] float32 and labels [n] int32, in random order.

    Raises:
      UserError: for a noise that is negative or not finite.
    """
    if not (np.isfinite(noise) and noise >= 0):
        raise UserError(f"data.noise = {noise} must be finite and not negative")
    rng = np.random.default_rng([seed, n])
    points, labels = MANIFOLDS[name].draw(n, int(rng.integers(2**31)))
    points = _unit(_unit(points) + noise * rng.standard_normal(points.shape))
    return points.astype(np.float32), labels.astype(np.int32)


def _unit(points: np.ndarray) -> np.ndarray:
    low, high = points.min(axis=0, keepdims=True), points.max(axis=0, keepdims=True)
    return (points - low) / np.maximum(high - low, np.finfo(np.float64).tiny)


def _swiss_roll_3d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(t cos t, height, t sin t), t ~ U(1.5π, 4.5π); labels are ten equal bins of the angle t."""
    from sklearn.datasets import make_swiss_roll

    points, t = make_swiss_roll(n, random_state=seed)
    return points, np.minimum((t / np.pi - 1.5) / 3 * _ROLL_BINS, _ROLL_BINS - 1).astype(np.int32)


def _swiss_roll_2d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The spiral (t cos t, t sin t) of the roll, without its height."""
    points, labels = _swiss_roll_3d(n, seed)
    return points[:, ::2], labels


def _circles_2d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two concentric circles, the inner one (label 1) of half the radius."""
    from sklearn.datasets import make_circles

    return make_circles(n, factor=0.5, random_state=seed)


def _moons_2d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved half circles."""
    from sklearn.datasets import make_moons

    return make_moons(n, random_state=seed)


def _moons_3d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The two moons times an interval: two curved sheets."""
    points, labels = _moons_2d(n, seed)
    height = np.random.default_rng(seed).uniform(size=(n, 1))
    return np.concatenate([points, height], axis=1), labels


def _sphere_3d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform points of the unit sphere; labels are its octants, 4 [x > 0] + 2 [y > 0] + [z > 0]."""
    points = np.random.default_rng(seed).standard_normal((n, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, (points > 0) @ np.array([4, 2, 1])


def _accepted(n: int, rng: np.random.Generator, area: Callable[[np.ndarray], np.ndarray], low: float, high: float):
    """N angles (u, v), v in [low, high], drawn with a density ∝ area(u, v) ≤ 1: uniform over the surface."""
    found = np.zeros((0, 2))
    while len(found) < n:
        uv = rng.uniform([0.0, low], [2 * np.pi, high], size=(2 * n, 2))
        found = np.concatenate([found, uv[rng.uniform(size=2 * n) < area(uv)]])
    return found[:n].T


_TUBE = 0.4  # radius of torus and Klein bottle about a circle of radius 1


def _torus_3d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """((1 + r cos v) cos u, (1 + r cos v) sin u, r sin v), r = 0.4, uniform by area; labels are eighths of u."""
    r = _TUBE
    u, v = _accepted(n, np.random.default_rng(seed), lambda a: (1 + r * np.cos(a[:, 1])) / (1 + r), 0.0, 2 * np.pi)
    around = 1 + r * np.cos(v)
    return np.stack([around * np.cos(u), around * np.sin(u), r * np.sin(v)], axis=1), _eighths(u)


def _moebius_3d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A band of half-width 0.5 about the unit circle, turned by half of u; labels are eighths of u."""

    def area(a: np.ndarray) -> np.ndarray:
        u, s = a.T
        return np.sqrt((1 + s * np.cos(u / 2)) ** 2 + s**2 / 4) / np.sqrt(1.5**2 + 0.25 / 4)

    u, s = _accepted(n, np.random.default_rng(seed), area, -0.5, 0.5)
    around = 1 + s * np.cos(u / 2)
    return np.stack([around * np.cos(u), around * np.sin(u), s * np.sin(u / 2)], axis=1), _eighths(u)


def _klein_4d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """((1 + r cos v) (cos u, sin u), r sin v (cos u/2, sin u/2)), r = 0.4: the bottle without self-intersection."""
    r = _TUBE

    def area(a: np.ndarray) -> np.ndarray:
        v = a[:, 1]
        return np.sqrt((1 + r * np.cos(v)) ** 2 + (r * np.sin(v)) ** 2 / 4) / (1 + r)

    u, v = _accepted(n, np.random.default_rng(seed), area, 0.0, 2 * np.pi)
    around, across = 1 + r * np.cos(v), r * np.sin(v)
    points = [around * np.cos(u), around * np.sin(u), across * np.cos(u / 2), across * np.sin(u / 2)]
    return np.stack(points, axis=1), _eighths(u)


def _projective_plane_4d(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(xy, xz, y² − z², 2yz) of uniform points of the sphere, equal for a point and its antipode.

    Labels are those of the four pairs of opposite octants.
    """
    sphere, octant = _sphere_3d(n, seed)
    x, y, z = sphere.T
    return np.stack([x * y, x * z, y**2 - z**2, 2 * y * z], axis=1), np.minimum(octant, 7 - octant)


def _eighths(u: np.ndarray) -> np.ndarray:
    return np.minimum(u / (2 * np.pi) * 8, 7).astype(np.int32)


MANIFOLDS = {
    "swiss_roll_2d": Manifold(_swiss_roll_2d, 2, _ROLL_BINS),
    "circles_2d": Manifold(_circles_2d, 2, 2),
    "moons_2d": Manifold(_moons_2d, 2, 2),
    "swiss_roll_3d": Manifold(_swiss_roll_3d, 3, _ROLL_BINS),
    "sphere_3d": Manifold(_sphere_3d, 3, 8),
    "moons_3d": Manifold(_moons_3d, 3, 2),
    "torus_3d": Manifold(_torus_3d, 3, 8),
    "moebius_3d": Manifold(_moebius_3d, 3, 8),
    "klein_4d": Manifold(_klein_4d, 4, 8),
    "projective_plane_4d": Manifold(_projective_plane_4d, 4, 4),
}
