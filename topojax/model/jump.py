"""Jump operators: affine maps between the coordinates of two charts (model §5)."""

import flax.linen as nn
import jax.numpy as jnp

from topojax.model.layers import SpectralKernel
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
        shared = jnp.einsum("nrd,bnd->bnr", self.up(), z) + self.c[None]
        return jnp.einsum("mdr,bnr->bnmd", self.down(), shared) + self.d[None, None]

    def back(self, jumped: Array) -> Array:
        """The way home j → i of `__call__`'s result: [B, N(i), N(j), D] → [B, N(i), N(j), D] in chart i."""
        shared = jnp.einsum("mrd,bnmd->bnmr", self.up(), jumped) + self.c[None, None]
        return jnp.einsum("ndr,bnmr->bnmd", self.down(), shared) + self.d[None, :, None]
