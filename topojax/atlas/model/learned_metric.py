"""A learned distance between a point and the codes of a chart: softly equivariant maps of their difference (model §6).

  u_i       bundles of v_loc − code
  s         softplus(MLP(‖u_1‖, …, ‖u_n‖))
  out_i     u_i + s_i u_i + σ(γ_i) Σ_j M_ij u_j
  distance  ‖out‖², ‖out‖ at most 50 ‖u‖

With M = 0 the map turns with its argument; the penalty Σ|M| keeps it near that. Deviation from the original, whose
metric nothing trained but this penalty: codes are chosen softly in the gradient (`assigned`), so that reconstruction
and quantisation do.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from topojax.atlas.model.layers import SpectralKernel, gelu, random_param
from topojax.types import Array

DISTANCES = ("euclid", "soft_equivariant")
_HIDDEN = 64
_LARGEST_RATIO = 50.0
_TEMPERATURE = 0.3
"""Of the soft assignment, relative to the mean distance."""


class SoftEquivariantMetric(nn.Module):
    """Squared norms of a map of differences, one map a chart.

    Attributes:
      bundle: D is divided into bundles of this size; 0 is one bundle.
    """

    bundle: int = 0

    @nn.compact
    def __call__(self, difference: Array) -> Array:
        """Squared distances [B, N, K] of v_loc − code [B, N, K, D]."""
        charts, latent = difference.shape[1], difference.shape[-1]
        size = self.bundle or latent
        n = latent // size
        u = difference.reshape(*difference.shape[:-1], n, size)
        norms = jnp.sqrt(jnp.sum(u**2, axis=-1) + 1e-12)
        h = norms
        for name, sizes in (("mlp_0", (_HIDDEN, n)), ("mlp_1", (_HIDDEN, _HIDDEN))):
            kernel = SpectralKernel((charts, *sizes), name=name)()
            bias = random_param(self, f"{name}_bias", (charts, sizes[0]), sizes[1] ** -0.5)
            h = gelu(jnp.einsum("bnki,noi->bnko", h, kernel) + bias[None, :, None])
        last = SpectralKernel((charts, n, _HIDDEN), name="mlp_2")()
        scale = jax.nn.softplus(jnp.einsum("bnki,noi->bnko", h, last))
        gate = self.param("gate", nn.initializers.zeros, (charts, n))
        mixing = self.param("mixing", nn.initializers.zeros, (charts, n, n, size, size))
        mixed = jnp.einsum("cijde,bckje->bckid", mixing, u) * jax.nn.sigmoid(gate)[None, :, None, :, None]
        out = u + scale[..., None] * u + mixed
        squared = jnp.sum(out**2, axis=(-2, -1))
        return jnp.minimum(squared, _LARGEST_RATIO**2 * jnp.sum(u**2, axis=(-2, -1)))


def assigned(distances: Array, codebook: Array) -> tuple[Array, Array, Array]:
    """Nearest codes by a learned distance: index [B, N], vectors [B, N, D], and 0 with the gradient of a soft choice.

    Args:
      distances: [B, N, K].
      codebook: [N, K, D].

    Returns:
      (index, code vectors with the codes' gradient, Σ_k softmax(−d/T) sg E_k minus its own value: [B, N, D]).
    """
    index = jnp.argmin(distances, axis=-1).astype(jnp.int32)
    chosen = jnp.einsum("nkd,bnk->bnd", codebook, jax.nn.one_hot(index, codebook.shape[1]))
    temperature = _TEMPERATURE * jax.lax.stop_gradient(jnp.mean(distances)) + 1e-9
    soft = jnp.einsum(
        "nkd,bnk->bnd", jax.lax.stop_gradient(codebook), jax.nn.softmax(-distances / temperature, axis=-1)
    )
    return index, chosen, soft - jax.lax.stop_gradient(soft)


def mixing_penalty(params: dict) -> Array:
    """Σ|M|, mean over charts, of an atlas's params; 0 of one without such a metric."""
    metric = params["encoder"].get("metric")
    return jnp.zeros(()) if metric is None else jnp.sum(jnp.abs(metric["mixing"])) / metric["mixing"].shape[0]
