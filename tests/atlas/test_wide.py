"""A wide atlas against an implementation of its own (`numpy_atlas`), where no numbers of the original are at hand.

The wider a kernel, the smaller its least singular value: what stands in the logarithm of the contract orthogonality
shows only here.
"""

import functools

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import numpy_atlas
import pytest

from topojax.atlas import losses
from topojax.atlas.model import make_model
from topojax.atlas.terms import orthogonality

WIDE = {**golden_files.MODEL, "hidden_dim": 64, "latent_dim": 16, "num_charts": 12, "codes_per_chart": 6}
INPUTS, CLASSES, BATCH = 64, 10, 24


def close(actual, expected, tolerance, what):
    scale = np.abs(expected).max()
    error = np.abs(np.asarray(actual) - expected).max() / scale
    assert error <= tolerance, f"{what}: {error:.2e} > {tolerance}"


@pytest.mark.parametrize("name", ["cov_sum", "cov_full"])
def test_the_numpy_implementation_gives_the_originals_numbers(name):
    data, config, inputs, classes = golden_files.load(name)
    shapes = jax.eval_shape(make_model(config, input_dim=inputs, num_classes=classes).init, jax.random.key(0))
    params, vectors = (jax.tree.map(np.asarray, golden_files.tree(data, "param", part)) for part in shapes)
    atlas = numpy_atlas.Atlas(params, vectors, config)
    found = atlas.encode(data["in/x"])
    router, x_hat = atlas.decode(found["z_geo"], found["z_tex"])
    np.testing.assert_array_equal(found["codes"], data["out/indices"])
    for key in ("router", "z_geo", "z_n", "z_tex"):
        close(found[key], data[f"out/{key}"], 1e-4, key)
    close(router, data["out/dec_router"], 1e-4, "dec_router")
    close(x_hat, data["out/x_hat"], 1e-4, "x_hat")
    told = atlas.losses(data["in/x"], found, router, x_hat)
    for key in set(told) - {"orthogonality"}:
        close(told[key], data[f"loss/{key}"], 1e-4, key)


@functools.cache
def wide():
    """(model, params, spectral, inputs): one kernel has a singular value of 2e-5, as a kernel of this width may."""
    model = make_model(WIDE, input_dim=INPUTS, num_classes=CLASSES)
    params, vectors = jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(3)))
    kernel = params["encoder"]["features_1"]["kernel"]
    left, values, right = np.linalg.svd(kernel)
    values[-1] = 2e-5
    kernel[:] = (left * values) @ right
    rng = np.random.default_rng(0)
    params["encoder"]["value"]["kernel"] *= 5  # so that points spread over charts and codes
    params["encoder"]["centers"][:] = 0.2 * rng.normal(size=params["encoder"]["centers"].shape)
    return model, params, vectors, rng.normal(size=(BATCH, INPUTS)).astype(np.float32)


@pytest.mark.slow
def test_outputs_and_losses():
    model, params, vectors, x = wide()
    atlas = numpy_atlas.Atlas(params, vectors, WIDE)
    expected = atlas.encode(x)
    router, x_hat = atlas.decode(expected["z_geo"], expected["z_tex"])

    @jax.jit
    def run(params):
        weights, _ = model.normalise(params, vectors)
        return model(weights, x)

    encoding, decoding = run(params)
    assert len(set(np.asarray(encoding.chart).tolist())) > 2
    np.testing.assert_array_equal(encoding.chart, expected["chart"])
    np.testing.assert_array_equal(encoding.codes, expected["codes"])
    for name in ("router", "z_geo", "z_n", "z_tex", "z_n_all", "c_bar", "v"):
        close(getattr(encoding, name), expected[name], 1e-4, name)
    close(decoding.router, router, 1e-4, "decoder's routing")
    close(decoding.x_hat, x_hat, 1e-4, "x_hat")
    local = encoding.v - encoding.c_bar
    told = {
        "recon": losses.recon(decoding.x_hat, x),
        "vq": losses.codebook(local, encoding.z_q_all, encoding.router)
        + 0.25 * losses.commitment(local, encoding.z_q_all, encoding.router),
        "entropy": losses.routing_entropy(encoding.router),
        "diversity": losses.diversity(encoding.router),
        "consistency": losses.consistency(encoding.router, decoding.router),
        "residual_scale": losses.residual_scale(encoding.z_n),
        "orthogonality": orthogonality(params),
    }
    for name, value in atlas.losses(x, expected, router, x_hat).items():
        close(told[name], value, 1e-4, name)


def test_singular_values_are_clamped_not_shifted():
    """log(s + 1e-6) is further off on this atlas than numbers of the original may be."""
    _, params, *_ = wide()
    expected = numpy_atlas.Atlas(params, None, WIDE).orthogonality()
    kernel = params["encoder"]["features_1"]["kernel"]
    values = np.linalg.svd(kernel.astype(np.float64), compute_uv=False)
    clamped, shifted = np.log(np.maximum(values, 1e-6)).var(), np.log(values + 1e-6).var()
    assert abs(shifted / clamped - 1) > 2e-3
    close(losses.log_singular_variance(jnp.asarray(kernel)), clamped, 1e-3, "one kernel")
    close(orthogonality(params), expected, 1e-4, "all kernels")
    singular = jnp.diag(jnp.array([1.0, 0.0]))
    assert float(losses.log_singular_variance(singular)) == pytest.approx(np.log(1e-6) ** 2 / 4, rel=1e-5)
