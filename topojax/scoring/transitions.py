"""Errors of the transitions between charts: of the jump i → j, and of the way i → j → i, every pair (model §5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.model import Model
from topojax.data.padding import BATCH_SIZE, padded_batches
from topojax.storage.runtime import compile_program
from topojax.types import Array, Params

OVERLAP = 1e-4
"""Least mass of a pair of charts that counts, as in training's own term."""


class TransitionErrors(NamedTuple):
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


def transition_errors(model: Model, weights: Params, image: np.ndarray, size: int = BATCH_SIZE) -> TransitionErrors:
    """Measure every pair over a whole split, in batches of one shape.

    Sums over examples are the host's, in double precision: a device's depend on how many cores it divides them among.

    Args:
      model: the atlas.
      weights: its parameters after spectral normalisation (`Run.weights`).
      image: [n, X], n ≥ 1.
      size: examples in a batch; a smaller split is one batch of its own size.
    """

    def errors(weights: Params, x: Array) -> tuple[Array, ...]:
        e = model.encode(weights, x)
        jumped = model.jump(weights, e.offset)
        returned = model.round_trip(weights, e.offset)
        differences = (jumped - e.offset[:, None], returned - e.offset[:, :, None])
        return e.router, *(jnp.sum(d**2, axis=-1) for d in differences)

    size = min(size, len(image))
    compiled = compile_program(
        jax.jit(errors).lower(weights, jax.ShapeDtypeStruct((size, image.shape[1]), jnp.float32))
    )
    mass, jump, cycle = np.zeros(()), np.zeros(()), np.zeros(())
    for parts in padded_batches(lambda x: compiled(weights, x), image, size):
        w, *found = (part.astype(np.float64) for part in parts)
        mass = mass + np.einsum("bi,bj->ij", w, w)
        jump, cycle = (
            total + np.einsum("bi,bj,bij->ij", w, w, error) for total, error in zip((jump, cycle), found, strict=True)
        )
    mass = np.where(np.eye(len(mass), dtype=bool), np.nan, mass)
    counted = mass >= OVERLAP
    means = (np.where(counted, total / np.where(counted, mass, 1.0), np.nan) for total in (jump, cycle))
    return TransitionErrors(mass, *means)
