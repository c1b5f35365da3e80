"""How well jump operators glue charts: errors of i → j, and of i → j → i, for every pair (model §5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.model import Model
from topojax.storage.runtime import compile_program
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
    """Measure every pair over a whole split, in batches of one shape.

    Sums over examples are the host's, in double precision: a device's depend on how many cores it divides them among.

    Args:
      model: the atlas.
      weights: its parameters after spectral normalisation (`Run.weights`).
      image: [n, X], n ≥ 1.
    """

    def errors(weights: Params, x: Array) -> tuple[Array, ...]:
        e = model.encode(weights, x)
        jumped = model.jump(weights, e.z_n_all)
        returned = model.round_trip(weights, e.z_n_all)
        differences = (jumped - e.z_n_all[:, None], returned - e.z_n_all[:, :, None])
        return e.router, *(jnp.sum(d**2, axis=-1) for d in differences)

    n = len(image)
    size = min(BATCH_SIZE, n)
    compiled = compile_program(
        jax.jit(errors).lower(weights, jax.ShapeDtypeStruct((size, image.shape[1]), jnp.float32))
    )
    mass, jump, cycle = np.zeros(()), np.zeros(()), np.zeros(())
    for start in range(0, n, size):
        rows = np.minimum(np.arange(start, start + size), n - 1)
        w, *found = (part[: n - start].astype(np.float64) for part in jax.device_get(compiled(weights, image[rows])))
        mass = mass + np.einsum("bi,bj->ij", w, w)
        jump, cycle = (
            total + np.einsum("bi,bj,bij->ij", w, w, error) for total, error in zip((jump, cycle), found, strict=True)
        )
    mass = np.where(np.eye(len(mass), dtype=bool), np.nan, mass)
    counted = mass >= OVERLAP
    means = (np.where(counted, total / np.where(counted, mass, 1.0), np.nan) for total in (jump, cycle))
    return Gluing(mass, *means)
