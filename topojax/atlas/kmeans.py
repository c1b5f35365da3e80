"""k-means start of the encoder: centres at the clusters of v, codes at the clusters of the residuals (theory 4.3)."""

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas.model import Model
from topojax.types import Params, Spectral

POINTS = 4096
"""Inputs looked at, at most."""

_RESTARTS = 3


def kmeans_start(model: Model, params: Params, spectral: Spectral, x: np.ndarray, *, seed: int) -> Params:
    """Move centres and codes to where the untrained encoder puts the data; runs on the host, once.

    c = k-means_N(v(x));  E_n = k-means_K(v − c_n of the points nearest to c_n). Where there are fewer distinct points
    than clusters, each is one and the centres or codes left over keep their random start.

    v does not depend on centres or codes, so one pass is enough. The distance of v to the nearest c_n + E_nk
    falls. The router is left alone: it is not a nearest-centre rule, so its charts are not these clusters until it has
    been trained, and the model's own quantisation error, of v − c̄ in the routed chart, may fall or rise.

    Args:
      model: the atlas.
      params: {"atlas": ..., maybe "precision"}.
      spectral: power-iteration vectors.
      x: shape=(n, X), training inputs; more than 4096 are subsampled.
      seed: of the subsample and of k-means; equal seeds, equal results.

    Returns:
      params with new `encoder/centers` and `encoder/codebook`.
    """
    if len(x) > POINTS:
        x = x[np.sort(np.random.default_rng(seed).choice(len(x), POINTS, replace=False))]

    def value(atlas: Params, spectral: Spectral, x: jax.Array) -> jax.Array:
        return model.encode(model.normalise(atlas, spectral)[0], x).v

    atlas = params["atlas"]
    encoder = atlas["encoder"]
    v = np.asarray(jax.jit(value)(atlas, spectral, jnp.asarray(x, jnp.float32)))
    centers = _clusters(v, np.asarray(encoder["centers"]), seed)
    chart = np.argmin(np.sum((v[:, None, :] - centers[None]) ** 2, axis=-1), axis=1)
    codebook = [
        _clusters(v[chart == n] - centers[n], start, seed) for n, start in enumerate(np.asarray(encoder["codebook"]))
    ]
    new = {"centers": jnp.asarray(centers, jnp.float32), "codebook": jnp.asarray(np.stack(codebook), jnp.float32)}
    return {**params, "atlas": {**atlas, "encoder": {**encoder, **new}}}


def _clusters(points: np.ndarray, start: np.ndarray, seed: int) -> np.ndarray:
    """Centres [k, D] of k-means on points [n, D]; of fewer than k distinct points, these and then rows of the start."""
    from sklearn.cluster import KMeans

    distinct = np.unique(points, axis=0)
    if len(distinct) <= len(start):
        return np.concatenate([distinct, start[len(distinct) :]])
    return KMeans(len(start), n_init=_RESTARTS, random_state=seed).fit(points).cluster_centers_
