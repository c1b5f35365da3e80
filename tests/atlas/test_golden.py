"""The model and its losses against numbers of the original program (model §8)."""

import functools
from typing import NamedTuple

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from topojax.atlas import losses, signals
from topojax.atlas.model import make_model
from topojax.atlas.model.layers import normalise
from topojax.types import Decoding, Encoding

pytestmark = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "cov_sum" else pytest.mark.slow) for n in golden_files.NAMES]
)


def close(actual, expected, tolerance, what=""):
    """Relative to the largest entry of the expected array."""
    expected = np.asarray(expected)
    scale = max(np.abs(expected).max(), 1e-3)
    error = np.abs(np.asarray(actual) - expected).max() / scale
    assert error <= tolerance, f"{what}: {error:.2e} > {tolerance}"


class Results(NamedTuple):
    """Everything that this file compares, of one program."""

    losses: dict
    encoding: Encoding
    decoding: Decoding
    hard: Decoding  # decoded in the encoder's chart
    logits: jax.Array
    spectral: dict
    grads: dict


@functools.cache
def computed(name):
    """(golden arrays, params, spectral, Results), compiled once for all tests."""
    data, config, inputs, classes = golden_files.load(name)
    model = make_model(config, input_dim=inputs, num_classes=classes)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params, spectral = (golden_files.tree(data, "param", part) for part in shapes)

    @jax.jit
    def run(params):
        gradient = jax.value_and_grad(lambda p: all_losses(model, data, p, spectral), has_aux=True)
        (_, (values, encoding, decoding)), grads = gradient(params)
        weights, after = normalise(params, spectral)
        hard = model.decode(weights, encoding.z_geo, encoding.z_tex, encoding.chart)
        logits = model.readout(weights, encoding.router, encoding.z_geo)
        return Results(values, encoding, decoding, hard, logits, after, grads)

    return data, params, spectral, run(params)


def all_losses(model, data, params, spectral):
    weights, _ = normalise(params, spectral)
    x, y = jnp.asarray(data["in/x"]), jnp.asarray(data["in/y"])
    encoding, decoding = model(weights, x)
    augmented = model.encode(weights, jnp.asarray(data["in/x_aug"]))
    w, z_geo = encoding.router, encoding.z_geo
    v_loc = encoding.v - encoding.c_bar
    dim = z_geo.shape[1]
    codes = weights["encoder"]["codebook"]
    table = model.class_table(weights, jnp.ones(()))
    jumped = model.jump(weights, encoding.z_n_all)
    out = {
        "recon": losses.recon(decoding.x_hat, x),
        "vq": losses.codebook(v_loc, encoding.z_q_all, w) + 0.25 * losses.commitment(v_loc, encoding.z_q_all, w),
        "entropy": losses.routing_entropy(w),
        "consistency": losses.consistency(w, decoding.router),
        "variance": losses.variance(z_geo, 4.0 * dim),
        "diversity": losses.diversity(w),
        "separation": losses.hinge_separation(losses.soft_centers(w, z_geo), 2.0),
        "chart_center_sep": losses.hinge_separation(weights["encoder"]["centers"], 2.0),
        "codebook_center": losses.codebook_center(codes),
        "residual_scale": losses.residual_scale(encoding.z_n),
        "window_eps3": losses.window(w, 3.0),
        "disentangle": losses.disentangle_parity(w, z_geo),
        "kl_prior": losses.prior(encoding.z_n, 1.0 * dim) + losses.prior(encoding.z_tex, 1.0 * dim),
        "orbit": losses.orbit(w, augmented.router),
        "vicreg_inv": losses.gram_difference(z_geo, augmented.z_geo),
        "jump": losses.jump(jumped, encoding.z_n_all, w),
        "sup_route": losses.sup_route(w, table, y),
        "sup_purity": losses.class_entropy(w, table),
        "sup_balance": losses.sup_balance(w),
        "sup_metric": losses.sup_metric(w, y, 1.0),
    }
    out["sup_total"] = out["sup_route"] + 0.1 * out["sup_purity"] + 0.01 * out["sup_balance"] + 0.01 * out["sup_metric"]
    added = (
        "recon vq consistency variance diversity separation codebook_center chart_center_sep residual_scale "
        "window_eps3 disentangle kl_prior orbit vicreg_inv jump sup_total"
    )
    total = sum(out[k] for k in added.split())
    out |= {"info_H_K": losses.usage_entropy(w), "info_I_XK": losses.information(w), "grad_total": total}
    return total, (out, encoding, decoding)


def test_outputs(name):
    data, _, _, (_, encoding, decoding, hard, logits, *_) = computed(name)
    for field, key in {"chart": "K_chart", "code": "K_code", "codes": "indices"}.items():
        np.testing.assert_array_equal(getattr(encoding, field), data[f"out/{key}"], key)
    for field in ("router", "z_geo", "z_n", "z_tex", "z_n_all", "c_bar"):
        close(getattr(encoding, field), data[f"out/{field}"], 1e-4, field)
    close(decoding.x_hat, data["out/x_hat"], 1e-4, "x_hat")
    close(decoding.router, data["out/dec_router"], 1e-4, "dec_router")
    close(hard.x_hat, data["out/x_hat_hard"], 1e-4, "x_hat_hard")
    close(logits, data["out/cls_logits"], 1e-4, "cls_logits")
    close(encoding.z_geo + encoding.z_tex, encoding.v, 1e-5, "z_geo + z_tex = v")


def test_losses_and_gradients(name):
    data, params, _, results = computed(name)
    for key, value in results.losses.items():
        close(value, data[f"loss/{key}"], 1e-4, key)
    expected = flatten_dict(golden_files.tree(data, "grad", params), sep="/")
    for path, grad in flatten_dict(results.grads, sep="/").items():
        close(grad, expected[path], 1e-3, path)


def test_training_mode_moves_the_power_iteration_vectors(name):
    data, _, spectral, results = computed(name)
    expected = golden_files.updated_vectors(data, spectral)
    assert len(expected) >= 10
    flat = flatten_dict(results.spectral, sep="/")
    for path, value in expected.items():
        close(flat[path], value, 1e-4, path)
    for key, value in {
        "router": results.encoding.router,
        "z_geo": results.encoding.z_geo,
        "x_hat": results.decoding.x_hat,
        "dec_router": results.decoding.router,
    }.items():
        close(value, data[f"out_train/{key}"], 1e-4, key)


def test_metrics_that_count(name):
    data, *_ = computed(name)
    pooled, within = signals.hard_code_entropies(
        jnp.asarray(data["out/K_chart"]),
        jnp.asarray(data["out/indices"]),
        data["param/atlas/encoder.codebook"].shape[1],
    )
    close(pooled, data["loss/code_entropy_hard"], 1e-4, "code_entropy_hard")
    close(within, data["loss/per_chart_code_entropy_hard"], 1e-4, "per_chart_code_entropy_hard")


def test_orthogonality(name):
    """The original's mean also takes in kernels that it never applies, and its variance is the unbiased one."""
    data, *_ = computed(name)
    weights = [data[k] for k in data.files if k.startswith("param/atlas/") and ("weight" in k)]
    small = [w for w in weights if w.ndim == 2 and max(w.shape) <= 64]
    values = [losses.log_singular_variance(jnp.asarray(w), ddof=1) for w in small]
    close(np.mean(values), data["loss/orthogonality"], 1e-4, "orthogonality")
