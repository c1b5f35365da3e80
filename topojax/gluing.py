"""How well jump operators glue charts: errors of i → j, and of i → j → i, for every pair (model §5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.model import Model
from topojax.runtime import compile_program
from topojax.types import Array, Params

BATCH_SIZE = 512
OVERLAP = 1e-4
"""Least mass of a pair of charts that counts, as in training's own term."""


class Gluing(NamedTuple):
    """Of ordered pairs of charts; rows are i, columns j, the diagonal and pairs without overlap are NaN.

    Attributes:
      mass: [N, N], Σ_b w_i w_j, examples.
      jump: [N, N], mean of ‖L_{i→j} z_n^i − z_n^j‖², weighted by w_i w_j, latent units squared.
      cycle: [N, N], of ‖L_{j→i} L_{i→j} z_n^i − z_n^i‖².
    """

    mass: np.ndarray
    jump: np.ndarray
    cycle: np.ndarray

    def mean(self, name: str) -> float:
        """Mean over the pairs that overlap; NaN if none does."""
        errors = getattr(self, name)
        known = errors[np.isfinite(errors)]
        return float(known.mean()) if known.size else float("nan")


def gluing(model: Model, weights: Params, image: np.ndarray) -> Gluing:
    """Measure every pair over a whole split, in batches of one shape; sums are in double precision.

    Args:
      model: the atlas.
      weights: its parameters after spectral normalisation (`Run.weights`).
      image: [n, X], n ≥ 1.
    """

    def sums(weights: Params, x: Array, valid: Array) -> tuple[Array, ...]:
        e = model.encode(weights, x)
        jumped = model.jump(weights, e.z_n_all)
        returned = model.round_trip(weights, e.z_n_all)
        overlap = e.router[:, :, None] * e.router[:, None, :] * valid[:, None, None]
        errors = [jnp.sum(d**2, axis=-1) for d in (jumped - e.z_n_all[:, None], returned - e.z_n_all[:, :, None])]
        return (jnp.sum(overlap, axis=0), *(jnp.sum(overlap * error, axis=0) for error in errors))

    n = len(image)
    size = min(BATCH_SIZE, n)
    x = jax.ShapeDtypeStruct((size, *image.shape[1:]), jnp.float32)
    compiled = compile_program(jax.jit(sums).lower(weights, x, jax.ShapeDtypeStruct((size,), jnp.float32)))
    total = [np.zeros(()), np.zeros(()), np.zeros(())]
    for start in range(0, n, size):
        rows = np.arange(start, start + size)
        part = jax.device_get(compiled(weights, image[np.minimum(rows, n - 1)], np.float32(rows < n)))
        total = [a + b.astype(np.float64) for a, b in zip(total, part, strict=True)]
    mass = np.where(np.eye(len(total[0]), dtype=bool), np.nan, total[0])
    counted = mass >= OVERLAP
    return Gluing(mass, *(np.where(counted, s / np.where(counted, mass, 1.0), np.nan) for s in total[1:]))
