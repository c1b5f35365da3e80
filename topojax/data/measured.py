"""What the training examples say of a configuration: how far a view may go, how wide the inputs spread, how many of the
nearest examples are neighbours, and how well those know an example's label.

A view is to be taken for its example: it may lie as far away as the nearest other example does, no farther.
"""

import math
from typing import NamedTuple

import numpy as np

from topojax.data.augment import ImageShape

QUERIES, EXAMPLES = 256, 10_000
"""Examples whose nearest neighbour is looked for, and among how many at most; the first ones of the split."""
PICTURES = 64
"""Those that are turned, moved and enlarged to see."""
HUBS = 1.4
"""Skewness from which a few examples are everybody's neighbours (Schnitzer et al. 2012)."""
LOOKED_AT = 3000
"""Examples among which hubs are looked for."""
STEPS = 24
"""Strengths of a transform that are tried."""
_MOST = {"rotation": 0.6, "shift": 0.25, "scale": 0.4}
"""The largest that are tried: radians, sides, and relative."""


class Ranges(NamedTuple):
    """Strengths of a view, as of `augment`: radians, pixels, relative, units of the inputs."""

    rotation: float
    shift: float
    scale: float
    noise_std: float


def nearest(images: np.ndarray) -> float:
    """Median distance from an example to the nearest other one.

    Args:
      images: [n, X], n ≥ 2; some of them are looked at.
    """
    from sklearn.neighbors import NearestNeighbors

    some = np.asarray(images[:EXAMPLES], np.float32)
    index = NearestNeighbors(n_neighbors=2).fit(some)
    return float(np.median(index.kneighbors(some[:QUERIES])[0][:, 1]))


def neighbours(images: np.ndarray) -> int:
    """How many of the nearest examples are neighbours: log n of them, or none where there are hubs.

    A graph of the k nearest is connected from k ~ log n on (Xue & Kumar 2004): with fewer, parts of a class may never
    meet, and more lie farther away than they have to. Where distances say little, as between photographs, a few
    examples are near to everybody, and the number of times that an example is a neighbour is skewed (Radovanović et
    al. 2010).

    Args:
      images: [n, X], of the training split.

    Returns:
      k ≥ 1, or 0.
    """
    from topojax.data.neighbours import nearest as rows_nearest

    n = len(images)
    some = np.asarray(images[:LOOKED_AT], np.float32)
    if n < 3 or not np.isfinite(some).all():
        return 0
    found = rows_nearest(some, _log(len(some)))
    times = np.bincount(found.ravel(), minlength=len(some)).astype(np.float64)
    off = times - times.mean()
    skewness = np.mean(off**3) / max(np.mean(off**2), 1e-12) ** 1.5
    return _log(n) if skewness <= HUBS else 0


def surprise(images: np.ndarray, labels: np.ndarray) -> float:
    """The mean surprise of a label, in nats, to one who is right as often as an example's neighbours, and knows it.

      h(e) = −e log(e / (C − 1)) − (1 − e) log(1 − e)

    with e the share of examples whose log n nearest others vote for another label, one error added to those seen, and
    the other classes alike to it (Fano's bound).

    Args:
      images: [n, X], of the training split.
      labels: [n] integer; below 0: not known, and left out.

    Returns:
      h ≥ 0, nats; log 2, of which nothing is known, for fewer than three examples or inputs that are not finite.
    """
    from topojax.data.neighbours import nearest as rows_nearest

    known = np.flatnonzero(labels >= 0)[:EXAMPLES]
    own, some = np.asarray(labels)[known], np.asarray(images[known], np.float32)
    if len(known) < 3 or not np.isfinite(some).all():
        return math.log(2)
    votes = own[rows_nearest(some, _log(len(known)))]
    elected = [np.bincount(row).argmax() for row in votes]
    wrong = (np.sum(elected != own) + 1) / (len(own) + 2)
    others = max(len(np.unique(own)) - 1, 1)
    return float(-wrong * math.log(wrong / others) - (1 - wrong) * math.log1p(-wrong))


def _log(n: int) -> int:
    return min(max(round(math.log(n)), 1), n - 1)


def spread(images: np.ndarray) -> float:
    """Standard deviation along the first principal axis, by power iteration; of constant inputs 0.

    Args:
      images: [n, X], of which at most 2,000 are looked at.
    """
    some = np.asarray(images[:2000], np.float64)
    largest = np.abs(some).max(initial=1e-30)
    some = some - some.mean(axis=0)
    axis = some[np.argmax(np.sum(some**2, axis=1))]
    if np.linalg.norm(axis) <= 1e-6 * largest:  # constant, but for rounding
        return 0.0
    for _ in range(30):
        axis = some.T @ (some @ (axis / np.linalg.norm(axis))) / len(some)
    return float(np.sqrt(np.linalg.norm(axis)))


def ranges(images: np.ndarray, image_shape: ImageShape | None) -> Ranges:
    """The largest rotation, shift, scale and noise that move an example no farther than to its nearest neighbour.

      max r:  median_x ‖T_r(x) − x‖ ≤ median_x min_x' ‖x' − x‖

    Each alone; drawn between −r and r, together they come to about as much.

    Args:
      images: [n, X], of the training split.
      image_shape: (H, W, C); of points, None, only noise says anything.
    """
    reach = nearest(images) if len(images) > 1 else 0.0
    noise = reach / images.shape[1] ** 0.5
    if image_shape is None:
        return Ranges(0.0, 0.0, 0.0, noise)
    pictures = np.asarray(images[:PICTURES], np.float32).reshape(-1, *image_shape)
    most = _MOST | {"shift": _MOST["shift"] * min(image_shape[:2])}
    found = {kind: _largest(pictures, kind, most[kind], reach) for kind in most}
    return Ranges(**found, noise_std=noise)


def _largest(pictures: np.ndarray, kind: str, most: float, reach: float) -> float:
    """The largest strength, of `STEPS` between 0 and `most`, up to which the median change is within reach."""
    strength = 0.0
    for tried in most * np.arange(1, STEPS + 1) / STEPS:
        change = moved(pictures, **{kind: tried}) - pictures
        if np.median(np.sqrt(np.sum(change**2, axis=(1, 2, 3)))) > reach:
            break
        strength = float(tried)
    return strength


def moved(pictures: np.ndarray, *, rotation: float = 0.0, shift: float = 0.0, scale: float = 0.0) -> np.ndarray:
    """Every picture [n, H, W, C] turned, moved along both axes and enlarged, as `augment.warp` does; on the host."""
    from scipy.ndimage import affine_transform

    cos, sin = np.cos(rotation) / (1 + scale), np.sin(rotation) / (1 + scale)
    matrix = np.array([[cos, -sin], [sin, cos]])
    centre = (np.array(pictures.shape[1:3]) - 1) / 2
    offset = centre - matrix @ (centre + shift / 2**0.5)
    out = np.empty_like(pictures)
    for i, picture in enumerate(pictures):
        for channel in range(picture.shape[-1]):
            into = {"output": out[i, ..., channel], "order": 1, "mode": "grid-constant"}
            affine_transform(picture[..., channel], matrix, offset, **into)
    return out
