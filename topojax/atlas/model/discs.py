"""Discs: where each chart lies in the latent, so that a place tells its chart.

  r_k = min( 0.9 · ½ min_{j≠k} ‖c_k − c_j‖,  ρ − ‖c_k‖ )      ρ = 0.98, the ball's radius
  z_k = c_k + r_k ξ_k,   ‖ξ_k‖ < 1                             place of an example in chart k
  ξ_k = (z − c_k) / r_k, drawn back to the unit ball           coordinates in chart k of any point

Discs are disjoint and lie in the ball: no place belongs to two charts, and an example that two charts claim has a place
in each. (In one plane for all, the original, charts lie over each other, and no decoder can read both chart and place.)
"""

import jax.numpy as jnp
import numpy as np

from topojax.types import Array

BALL_RADIUS = 0.98
_SHARE = 0.9  # of half the distance to the next centre: what is left is a moat
_LEAST = 0.02  # of a radius, latent units: centres closer than 0.04 have discs that meet
_BLOCK = 2**22
"""Numbers that are held at once while centres are sought."""
CENTER_BOUND = BALL_RADIUS - 0.05
"""Largest norm of a centre: no disc leaves the ball."""


def radii(centers: Array) -> Array:
    """r_k of centres [N, D], at least 0.02: [N]."""
    squared = jnp.sum((centers[:, None] - centers[None]) ** 2, axis=-1)
    apart = jnp.sqrt(squared + 1e-12) + 1e3 * np.eye(len(centers), dtype=np.float32)
    inside = BALL_RADIUS - jnp.sqrt(jnp.sum(centers**2, axis=-1) + 1e-12)
    return jnp.maximum(jnp.minimum(0.5 * _SHARE * jnp.min(apart, axis=1), inside), _LEAST)


def places(local: Array, centers: Array) -> Array:
    """z_k = c_k + r_k ξ_k: coordinates [B, N, D] in charts → latent points [B, N, D]."""
    return centers[None] + radii(centers)[None, :, None] * local


def coordinates(z: Array, centers: Array) -> Array:
    """ξ_k of points z [B, D] in every chart, [B, N, D]; what lies outside a disc is drawn back to its rim."""
    local = (z[:, None] - centers[None]) / radii(centers)[None, :, None]
    norm = jnp.sqrt(jnp.sum(local**2, axis=-1, keepdims=True) + 1e-12)
    return local / jnp.maximum(norm, 1.0)


def packed(charts: int, latent: int) -> np.ndarray:
    """Centres of N discs spread evenly over the ball, [N, D]: Lloyd's iterations on uniform points, always the same.

    The last step scales them so that the outermost disc touches the ball.
    """
    rng = np.random.default_rng(0)
    points = rng.standard_normal((4096, latent))
    points *= rng.uniform(size=(4096, 1)) ** (1 / latent) / np.linalg.norm(points, axis=1, keepdims=True)
    centers = points[:charts].copy()
    for _ in range(60):
        blocks = np.array_split(points, min(-(-len(points) * centers.size // _BLOCK), len(points)))
        nearest = np.concatenate([np.argmin(((p[:, None] - centers[None]) ** 2).sum(-1), axis=1) for p in blocks])
        for k in range(charts):
            mine = points[nearest == k]
            if len(mine):
                centers[k] = mine.mean(axis=0)
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1) + 1e3 * np.eye(charts)
    reach = np.linalg.norm(centers, axis=1) + 0.5 * _SHARE * apart.min(axis=1)
    return (centers * BALL_RADIUS / reach.max()).astype(np.float32)
