"""k-means start: centres and codes where the data are, from the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits
from dead_charts import MODEL, names

from topojax.atlas import kmeans
from topojax.atlas.kmeans import kmeans_start
from topojax.atlas.model import make_model


@pytest.fixture(scope="module")
def atlas():
    model = make_model({**MODEL, "codes_per_chart": 5}, input_dim=6, num_classes=3)
    params, spectral = jax.jit(model.init)(jax.random.key(0))
    return model, {"atlas": params, "precision": {"recon": jnp.zeros(())}}, spectral


def blobs(n=300, spots=4):
    rng = np.random.default_rng(0)
    return (2 * rng.normal(size=(spots, 6))[rng.integers(0, spots, n)] + 0.3 * rng.normal(size=(n, 6))).astype("f4")


def encode(atlas, params, x):
    model, _, spectral = atlas
    return jax.jit(lambda p, x: model.encode(model.normalise(p, spectral)[0], x))(params["atlas"], jnp.asarray(x))


def test_quantisation_error_falls_and_nothing_else_moves(atlas):
    model, params, spectral = atlas
    x = blobs()
    new = kmeans_start(model, params, spectral, x, seed=0)
    was, now = names(params), names(new)
    assert was.keys() == now.keys()
    for name, leaf in was.items():
        assert (leaf.shape, leaf.dtype, leaf.weak_type) == (now[name].shape, now[name].dtype, now[name].weak_type)
        moved = name in ("atlas/encoder/centers", "atlas/encoder/codebook")
        assert (bits(leaf) != bits(now[name])) == moved, name

    def to_nearest(params):
        """Mean squared distance of v to the nearest c_n + E_nk."""
        v = encode(atlas, params, x).v
        encoder = params["atlas"]["encoder"]
        places = (encoder["centers"][:, None, :] + encoder["codebook"]).reshape(1, -1, 2)
        return float(jnp.mean(jnp.min(jnp.sum((v[:, None, :] - places) ** 2, axis=-1), axis=1)))

    assert to_nearest(new) < 0.1 * to_nearest(params)


def test_centres_are_the_means_of_their_clusters_and_codes_of_theirs(atlas):
    model, params, spectral = atlas
    x = blobs()
    new = kmeans_start(model, params, spectral, x, seed=0)["atlas"]["encoder"]
    v, centers = np.asarray(encode(atlas, params, x).v), np.asarray(new["centers"])
    chart = np.argmin(np.sum((v[:, None] - centers[None]) ** 2, axis=-1), axis=1)
    assert set(chart) == set(range(4))
    for n in range(4):
        residual, codes = v[chart == n] - centers[n], np.asarray(new["codebook"])[n]
        np.testing.assert_allclose(np.mean(residual, axis=0), 0, atol=1e-4)
        code = np.argmin(np.sum((residual[:, None] - codes[None]) ** 2, axis=-1), axis=1)
        for k in set(code):
            np.testing.assert_allclose(np.mean(residual[code == k], axis=0), codes[k], atol=1e-3)


def test_equal_seeds_give_equal_results_and_large_data_are_subsampled(atlas, monkeypatch):
    model, params, spectral = atlas
    x = blobs(500)
    monkeypatch.setattr(kmeans, "POINTS", 100)
    a, b, other = (kmeans_start(model, params, spectral, x, seed=seed) for seed in (0, 0, 1))
    assert bits(a) == bits(b)
    assert bits(a) != bits(other)


def test_clusters_with_too_few_points_keep_random_codes(atlas):
    model, params, spectral = atlas
    x = np.repeat(blobs(40)[:6], 3, axis=0)  # six distinct points for 4 charts of 5 codes
    new = kmeans_start(model, params, spectral, x, seed=0)["atlas"]["encoder"]
    start = np.asarray(params["atlas"]["encoder"]["codebook"])
    codes = np.asarray(new["codebook"])
    assert np.all(np.isfinite(codes))
    kept = np.all(codes == start, axis=-1)
    assert np.sum(~kept) == 6
    assert np.all(kept[:, 4])

    few = kmeans_start(model, params, spectral, x[:6], seed=0)["atlas"]["encoder"]  # two distinct, four charts
    centers, v = np.asarray(few["centers"]), np.asarray(encode(atlas, params, x[:6]).v)
    np.testing.assert_array_equal(centers[2:], params["atlas"]["encoder"]["centers"][2:])
    assert all(np.min(np.abs(centers[:2] - point).sum(axis=1)) < 1e-6 for point in v)
