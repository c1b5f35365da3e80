"""What one update did: by hand on a model of two numbers, by parts on an atlas, and gradient ratios term by term."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topojax.atlas import losses
from topojax.atlas.model import Model, make_model
from topojax.atlas.probe import _divergence, drift, passes, potential, route_ratio, vq_ratio
from topojax.config.defaults import default_config
from topojax.types import Decoding, Encoding

POINTS, INPUTS, CLASSES = 20, 5, 3
BETA = 0.25


def by_hand():
    """Encoder z = s x with texture 1, a given router, chart and code; decoder x̂ = t z + 100 Σ texture."""

    def encode(weights, x):
        fields = dict.fromkeys(Encoding._fields, jnp.zeros(()))
        fields |= {name: weights[name] for name in ("router", "chart", "code")}
        return Encoding(**{**fields, "z_geo": weights["s"] * x, "z_tex": jnp.ones_like(x)})

    def decode(weights, z, texture, chart=None):
        assert chart is None
        added = 100 * jnp.sum(texture, axis=1, keepdims=True)
        return Decoding(weights["t"] * z + added, jnp.ones((z.shape[0], 2)) / 2)

    names = [field.name for field in dataclasses.fields(Model)]
    functions = {"encode": encode, "decode": decode, "normalise": lambda params, spectral: (params, spectral)}
    return Model(**{**dict.fromkeys(names), **functions})


def test_drift_by_hand():
    model = by_hand()
    # ‖x‖ = 5 b for b = 1 … 20, each twice; Σ b² = 2870, mean square 143.5
    x = jnp.repeat(jnp.arange(1.0, 21.0), 2)[:, None] * jnp.array([[3.0, 4.0]])
    rms = 5 * math.sqrt(143.5)
    half, quarter = (jnp.broadcast_to(jnp.array([[p, 1 - p]]), (40, 2)) for p in (0.5, 0.25))
    chart, code = jnp.zeros(40, jnp.int32), jnp.zeros(40, jnp.int32)
    before = {"s": jnp.float32(1), "t": jnp.float32(1), "router": quarter, "chart": chart, "code": code}
    after = {
        "s": jnp.float32(1.5),
        "t": jnp.float32(3),
        "router": half,
        "chart": chart.at[:2].set(1),  # points 0 and 1
        "code": code.at[1:5].set(2),  # points 1 to 4: with the charts, five in all
    }
    two = passes(model, (before, {}), (after, {}), x)
    seen = drift(
        two,
        x,
        metric=4 * jnp.eye(2),
        length=jnp.float32(0.5),
        potential=lambda z: jnp.sum(z**2, axis=-1),
    )
    assert float(seen.alpha) == pytest.approx(0.5 * 2 * 1.5 * rms, rel=1e-5)  # ∇V = 2 z
    assert float(seen.beta) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-4)
    assert float(seen.gamma) == pytest.approx(2, rel=1e-5)  # (3 − 1) z₀ over x, z₀ = x
    assert float(seen.delta) == pytest.approx(0.5 * rms / 0.5, rel=1e-5)
    assert float(seen.chart_churn) == pytest.approx(2 / 40)
    assert float(seen.code_churn) == pytest.approx(5 / 40)
    # d_G = 2 · 0.5 · 5 b = 5 b
    assert float(seen.speed_mean) == pytest.approx(52.5, rel=1e-5)
    assert float(seen.speed_p95) == pytest.approx(95, rel=1e-5)  # the 38th of 40
    assert float(seen.speed_max) == pytest.approx(100, rel=1e-5)
    # the dream of θ has its texture, 100 · 2; what γ compares has none, and starts at z₀ of θ⁻
    np.testing.assert_allclose(two.after.decoding.x_hat, 3 * 1.5 * x + 200, rtol=1e-6)
    np.testing.assert_allclose(two.images, jnp.stack([x, 3 * x]), rtol=1e-6)
    np.testing.assert_allclose(two.before.z_geo, x, rtol=1e-6)
    np.testing.assert_array_equal(two.weights["t"], 3.0)


def test_a_pass_is_the_models_own():
    model, params, spectral, x, _ = atlas()
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, params)
    two = jax.jit(functools.partial(passes, model))((params, spectral), (moved, spectral), x)
    for side, own_params in ((two.before, params), (two.after.encoding, moved)):
        weights, _ = model.normalise(own_params, spectral)
        own = model.encode(weights, x)
        for name in ("z_geo", "z_tex", "router", "z_n_all"):
            np.testing.assert_allclose(getattr(side, name), getattr(own, name), rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(side.chart, own.chart)
    own = model.decode(weights, own.z_geo, own.z_tex)
    np.testing.assert_allclose(two.after.decoding.x_hat, own.x_hat, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(two.after.decoding.router, own.router, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(two.weights), jax.tree.leaves(weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@functools.cache
def atlas():
    """A covariant atlas, its raw parameters and power vectors, inputs and labels."""
    c = default_config().model
    c.discs = c.bounded = False
    c.hidden_dim, c.num_charts, c.codes_per_chart = 8, 4, 3
    model = make_model(c.to_dict(), input_dim=INPUTS, num_classes=CLASSES)
    names = ("init", "normalise", "encode", "decode", "class_table")
    model = dataclasses.replace(model, **{name: jax.jit(getattr(model, name)) for name in names})
    params, spectral = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(size=(POINTS, INPUTS)), jnp.float32)
    return model, params, spectral, x, jnp.asarray(rng.integers(0, CLASSES, POINTS), jnp.int32)


@functools.cache
def measured(*parts, size=0.05, labelled=True):
    """Drift after noise was added to the parameters of some parts."""
    model, params, spectral, x, label = atlas()
    before, _ = model.normalise(params, spectral)
    leaves, tree = jax.tree.flatten({part: params[part] for part in parts})
    keys = jax.random.split(jax.random.key(1), len(leaves) + 1)
    noise = [size * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys[1:], leaves, strict=True)]
    moved = jax.tree.unflatten(tree, [leaf + n for leaf, n in zip(leaves, noise, strict=True)])
    after, _ = model.normalise({**params, **moved}, spectral)
    table = model.class_table(after, jnp.float32(1.0)) if labelled else None
    value = potential(model, after, table, label, x)
    seen = compiled(labelled)((params, spectral), ({**params, **moved}, spectral))
    return seen, before, after, value


@functools.cache
def compiled(labelled):
    model, _, _, x, label = atlas()

    def run(before, after):
        two = passes(model, before, after, x)
        table = model.class_table(two.weights, jnp.float32(1.0)) if labelled else None
        value = potential(model, two.weights, table, label, x)
        return drift(two, x, metric=jnp.eye(2), length=jnp.float32(0.5), potential=value)

    return jax.jit(run)


def test_the_same_weights_have_not_moved():
    seen = measured()[0]
    assert float(seen.alpha) > 0
    for name, value in seen._asdict().items():
        if name != "alpha":
            assert float(value) == 0, name  # one body, run twice: the same bits


def test_a_decoder_alone_is_gamma():
    seen = measured("decoder")[0]
    assert float(seen.gamma) > 1e-3
    for name in ("beta", "delta", "chart_churn", "code_churn", "speed_max"):
        assert float(getattr(seen, name)) == pytest.approx(0, abs=1e-5), name


def test_an_encoder_alone_is_delta_and_beta():
    seen, before, after, _ = measured("encoder")
    model, _, _, x, _ = atlas()
    new, old = (model.encode(weights, x) for weights in (after, before))
    assert float(seen.gamma) == pytest.approx(0, abs=1e-6)
    dz = np.float64(new.z_geo) - np.float64(old.z_geo)
    norms = np.sqrt(np.sum(dz**2, axis=1))
    assert float(seen.delta) == pytest.approx(math.sqrt(np.mean(norms**2)) / 0.5, rel=1e-3)
    assert float(seen.speed_max) == pytest.approx(norms.max(), rel=1e-3)
    w, v = np.float64(new.router), np.float64(old.router)
    assert float(seen.beta) == pytest.approx(np.mean(np.sum(w * np.log(w / v), axis=1)), rel=1e-2)
    assert float(seen.beta) > 1e-5
    changed = np.asarray((new.chart != old.chart) | (new.code != old.code))
    assert float(seen.code_churn) == pytest.approx(changed.mean())
    assert float(seen.chart_churn) <= float(seen.code_churn)


@pytest.mark.parametrize("labelled", [True, False])
def test_alpha_is_the_slope_of_the_potential(labelled):
    seen, _, after, value = measured("encoder", "decoder", labelled=labelled)
    model, _, _, x, _ = atlas()
    z = model.encode(after, x).z_geo
    h, out = 5e-3, []
    # the batch error is detached: multiply V by what it was divided by
    held = (
        (lambda z: 1.0) if labelled else lambda z: np.mean((np.float64(model.decode(after, z, 0 * z).x_hat) - x) ** 2)
    )
    for step in h * np.eye(2, dtype=np.float32)[:, None]:
        up, down = (np.float64(value(p)) * held(p) for p in (z + step, z - step))
        out.append((up - down) / (2 * h) / held(z))
    assert float(seen.alpha) == pytest.approx(0.5 * math.sqrt(np.mean(np.sum(np.square(out), axis=0))), rel=2e-2)


def test_weights_that_are_not_finite_show():
    _, params, spectral, *_ = atlas()
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    seen = compiled(True)((params, spectral), (broken, spectral))
    assert all(not np.isfinite(v) for v in (seen.alpha, seen.beta, seen.gamma, seen.delta, seen.speed_max))


SIMPLEX = hnp.arrays(np.float32, (3, 4), elements=st.floats(-30, 30, width=32)).map(
    lambda s: np.asarray(jax.nn.softmax(s, axis=-1))
)


@settings(max_examples=30, deadline=None)
@given(SIMPLEX, SIMPLEX, st.sampled_from([1.0, 1e-2, 1e-4]))
def test_divergence_is_kl_and_never_negative(w, other, step):
    old = np.float32((1 - step) * w + step * other)
    a, b = np.float64(w) + losses.LOG_FLOOR, np.float64(old) + losses.LOG_FLOOR
    expected = np.sum(a * np.log(a / b) - a + b, axis=-1)
    actual = np.asarray(jax.jit(_divergence)(w, old))
    assert (actual >= 0).all()
    np.testing.assert_allclose(actual, expected, rtol=2e-2, atol=1e-10)


@functools.cache
def term_pullback():
    """The four losses' pullback to the encoder's parameters, through the normalisation of the whole tree."""
    model, params, spectral, x, label = atlas()

    def terms(encoder):
        weights, _ = model.normalise({**params, "encoder": encoder}, spectral)
        e, decoding = model(weights, x)
        v_loc = e.v - e.c_bar
        code, commit = (f(v_loc, e.z_q_all, e.router) for f in (losses.codebook, losses.commitment))
        table = model.class_table(weights, jnp.float32(0.7))
        return {
            "codebook": code,
            "commitment": commit,
            "task": losses.recon(decoding.x_hat, x) + code + BETA * commit,
            "route": losses.sup_route(e.router, table, label),
        }

    return jax.jit(lambda encoder, cotangent: jax.vjp(terms, encoder)[1](cotangent)[0]), params["encoder"]


def term_gradients(which):
    """∂L/∂codebook and ∂L/∂(rest of the encoder), flat."""
    pull, encoder = term_pullback()
    names = ("codebook", "commitment", "task", "route")
    gradient = dict(pull(encoder, {name: jnp.float32(name == which) for name in names}))
    codes = np.float64(gradient.pop("codebook")).reshape(-1)
    return codes, np.concatenate([np.float64(leaf).reshape(-1) for leaf in jax.tree.leaves(gradient)])


@functools.cache
def vq_run():
    return jax.jit(functools.partial(vq_ratio, atlas()[0]))


def test_vq_ratio_is_codebook_over_commitment():
    _, params, spectral, x, _ = atlas()
    codes, stray = term_gradients("codebook")
    none, encoder = term_gradients("commitment")
    assert np.all(none == 0)  # either loss stops at the other's side
    assert np.all(stray == 0)
    seen = vq_run()(params, spectral, x)
    expected = np.linalg.norm(codes) / np.linalg.norm(encoder)
    assert float(seen.ratio) == pytest.approx(expected, rel=1e-3)
    assert codes.size == 4 * 3 * 2
    assert float(seen.ratio_rms) == pytest.approx(expected * math.sqrt(encoder.size / codes.size), rel=1e-3)


def test_route_ratio_is_task_over_labels():
    model, params, spectral, x, label = atlas()
    task, route = (np.linalg.norm(term_gradients(which)[1]) for which in ("task", "route"))
    run = jax.jit(functools.partial(route_ratio, model, vq_beta=BETA))
    assert float(run(params, spectral, x, label, jnp.float32(0.7))) == pytest.approx(task / route, rel=1e-3)
    # a table without any preference gives labels no gradient: the ratio is large, and finite
    flat = {**params, "supervised": jax.tree.map(jnp.zeros_like, params["supervised"])}
    ratio = float(run(flat, spectral, x, label, jnp.float32(0.7)))
    assert math.isfinite(ratio)
    assert ratio > 1e3


def test_codes_on_their_points_have_no_ratio_to_speak_of():
    model, params, spectral, x, _ = atlas()
    weights, _ = model.normalise(params, spectral)
    e = model.encode(weights, x[:1])
    exact = jnp.broadcast_to((e.v - e.c_bar)[:, None, :], params["encoder"]["codebook"].shape)
    perfect = {**params, "encoder": {**params["encoder"], "codebook": exact}}
    seen = vq_run()(perfect, spectral, jnp.broadcast_to(x[:1], x.shape))
    assert math.isfinite(seen.ratio)
    assert math.isfinite(seen.ratio_rms)


@pytest.mark.slow
def test_what_is_measured_carries_no_gradient():
    model, params, spectral, x, label = atlas()

    def total(encoder):
        moved = {**params, "encoder": encoder}
        vq = vq_ratio(model, moved, spectral, x)
        route = route_ratio(model, moved, spectral, x, label, jnp.float32(1.0), vq_beta=BETA)
        after, _ = model.normalise(moved, spectral)
        value = potential(model, after, None, None, x)
        one = (moved, spectral)
        seen = drift(passes(model, one, one, x), x, metric=jnp.eye(2), length=jnp.float32(1.0), potential=value)
        return sum(vq) + route + sum(seen)

    gradient = jax.jit(jax.grad(total))(params["encoder"])
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))
