"""Heads that read the atlas: supervised topology and the detached readout (model §5)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.model.layers import random_param
from topojax.types import Array


class SupervisedTopology(nn.Module):
    """Chart-to-class table Θ [N, C]: P(y|k) = softmax(Θ_k / T); with a router, P(y|x) = w P.

    The initial Θ favours class k mod C in chart k by `affinity`: without it all charts start equal and the labels
    have to break the symmetry. 0 is parity (small random values).
    """

    charts: int
    classes: int
    affinity: float = 0.0

    @nn.compact
    def __call__(self, temperature: Array) -> Array:
        """P(y|k) at class temperature T (scalar): [N, C]."""
        chart = np.arange(self.charts)
        favour = self.affinity * (chart[:, None] % self.classes == np.arange(self.classes)[None])
        table = random_param(self, "table", favour.shape, 0.02, favour)
        return jax.nn.softmax(table / temperature, axis=-1)


class Readout(nn.Module):
    """Detached classifier: logits = wΛ + Σ_k w_k (ρ_k r + b_k), r = √(‖z_geo‖² + 1e-12) per bundle.

    It sees sg w and sg z_geo, so it measures the atlas and never shapes it.

    Attributes:
      charts, classes: N, C.
      bundle: channels a norm is taken over; 0 means all of them.
    """

    charts: int
    classes: int
    bundle: int = 0

    @nn.compact
    def __call__(self, router: Array, z_geo: Array) -> Array:
        """Class logits [B, C] of router weights [B, N] and latents [B, D]."""
        router, z_geo = jax.lax.stop_gradient((router, z_geo))
        bundle = self.bundle or z_geo.shape[-1]
        parts = z_geo.reshape(z_geo.shape[0], -1, bundle)
        radius = jnp.sqrt(jnp.sum(parts**2, axis=-1) + 1e-12)
        zeros = nn.initializers.zeros
        logits = self.param("logits", zeros, (self.charts, self.classes))
        slope = random_param(self, "slope", (self.charts, radius.shape[-1], self.classes), 0.02)
        bias = self.param("bias", zeros, (self.charts, self.classes))
        return router @ (logits + bias) + jnp.einsum("bn,bs,nsc->bc", router, radius, slope)
