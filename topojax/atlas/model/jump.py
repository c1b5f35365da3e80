"""Jump operators: affine maps between the coordinates of two charts (model §5)."""

import flax.linen as nn
import jax.numpy as jnp

from topojax.atlas.model.layers import SpectralKernel
from topojax.types import Array


class JumpOperator(nn.Module):
    """i → j: z ↦ A_j(B_i z + c_i) + d_j, through a shared space of rank r.

    Attributes:
      charts, latent: N, D.
      rank: r; 0 means D (the original read 0 as an operator of rank zero).
    """

    charts: int
    latent: int
    rank: int = 0

    def setup(self):
        """Declare A [N, D, r], B [N, r, D], c [N, r] and d [N, D]."""
        rank = self.rank or self.latent
        self.up = SpectralKernel((self.charts, rank, self.latent), near_identity=True)
        self.down = SpectralKernel((self.charts, self.latent, rank), near_identity=True)
        self.c = self.param("c", nn.initializers.zeros, (self.charts, rank))
        self.d = self.param("d", nn.initializers.zeros, (self.charts, self.latent))

    def __call__(self, z: Array) -> Array:
        """All ordered pairs at once: z_n of every chart [B, N, D] → [B, N(from), N(to), D]."""
        return _apply(self._pairs(), z)

    def round_trip(self, z: Array) -> Array:
        """There and back again, i → j → i, as one map: z_n [B, N, D] → [B, N(i), N(j), D] in chart i."""
        matrix, offset = self._pairs()
        back = jnp.swapaxes(matrix, 0, 1)  # [i, j] is the map j → i
        returned = jnp.einsum("ijde,ije->ijd", back, offset) + jnp.swapaxes(offset, 0, 1)
        return _apply((jnp.einsum("ijde,ijef->ijdf", back, matrix), returned), z)

    def _pairs(self) -> tuple[Array, Array]:
        """Matrix A_j B_i [N(i), N(j), D, D] and offset A_j c_i + d_j [N(i), N(j), D] of every jump."""
        down = self.down()
        offset = jnp.einsum("jdr,ir->ijd", down, self.c) + self.d[None]
        return jnp.einsum("jdr,ire->ijde", down, self.up()), offset


def _apply(maps: tuple[Array, Array], z: Array) -> Array:
    """All affine maps of z [B, N, D]: [B, N, N, D], computed with the batch last, where it is a run over memory."""
    matrix, offset = maps
    charts, dim = offset.shape[1:]
    out = matrix.reshape(charts, charts * dim, dim) @ z.transpose(1, 2, 0) + offset.reshape(charts, -1, 1)
    return jnp.moveaxis(out.reshape(charts, charts, dim, -1), -1, 0)
