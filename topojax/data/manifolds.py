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


MANIFOLDS = {
    "swiss_roll_2d": Manifold(_swiss_roll_2d, 2, _ROLL_BINS),
    "circles_2d": Manifold(_circles_2d, 2, 2),
    "moons_2d": Manifold(_moons_2d, 2, 2),
    "swiss_roll_3d": Manifold(_swiss_roll_3d, 3, _ROLL_BINS),
    "sphere_3d": Manifold(_sphere_3d, 3, 8),
    "moons_3d": Manifold(_moons_3d, 3, 2),
}
