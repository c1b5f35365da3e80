"""Spectral norms, the ball, straight-through paths and jumps of the atlas, against NumPy and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.atlas.model import make_model
from topojax.atlas.model.atlas import BALL_RADIUS, nearest_code, to_ball
from topojax.atlas.model.layers import normalise, product
from topojax.config.defaults import default_config

HIDDEN, DIM, BATCH = 8, 2, 5
INPUTS, CLASSES, CHARTS, CODES = 6, 3, 4, 3


def built(**fields):
    c = default_config().model.to_dict()
    c |= {"hidden_dim": 16, "num_charts": CHARTS, "codes_per_chart": CODES, **fields}
    model = make_model(c, input_dim=INPUTS, num_classes=CLASSES)
    params, spectral = jax.jit(model.init)(jax.random.key(0))
    return model, params, spectral


@functools.cache
def default_model():
    return built()


def inputs(seed=1, scale=1.0):
    return scale * jax.random.uniform(jax.random.key(seed), (BATCH, INPUTS))


@pytest.mark.parametrize("size", [0.3, 4.0])
def test_repeated_normalisation_bounds_every_spectral_norm(size):
    _, params, spectral = default_model()
    flat = flatten_dict(params)
    kernels = [path for path in flat if path[-1] == "kernel"]
    spectral_paths = {(*path[:-1], "kernel") for path in flatten_dict(spectral)}
    assert spectral_paths == set(kernels)
    params = jax.tree.map(lambda x: size * x, params)
    step = jax.jit(normalise)
    for _ in range(200):
        weights, spectral = step(params, spectral)
    before, after = flatten_dict(params), flatten_dict(weights)
    for path in kernels:
        true = np.linalg.norm(np.asarray(before[path], np.float64), 2, axis=(-2, -1))
        now = np.linalg.norm(np.asarray(after[path], np.float64), 2, axis=(-2, -1))
        assert np.all(now <= 1 + 1e-3), path
        np.testing.assert_allclose(now, np.minimum(true, 1.0), rtol=2e-3, err_msg=str(path))  # and no smaller
    for path, leaf in before.items():
        if path not in kernels:
            np.testing.assert_array_equal(after[path], leaf, str(path))
    for u in flatten_dict(spectral).values():
        np.testing.assert_allclose(np.linalg.norm(u, axis=-1), 1.0, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2),
    st.floats(0.125, 10.0, width=32),
)
def test_the_ball_bounds_any_point(v, scale):
    v = jnp.array([v], jnp.float32)
    inside = np.asarray(to_ball(v, scale), np.float64)
    norm = np.linalg.norm(inside)
    assert norm <= BALL_RADIUS * (1 + 1e-6)
    length = np.linalg.norm(np.float64(v))
    assert norm == pytest.approx(BALL_RADIUS * np.tanh(scale * length), rel=1e-4, abs=1e-5)
    if length > 1e-3:  # direction kept
        assert np.sum(inside * np.float64(v)) == pytest.approx(norm * length, rel=1e-5)


def test_the_ball_is_smooth_at_its_centre():
    slope = jax.jit(jax.jacrev(lambda v: to_ball(v, 3.0)[0]))(jnp.zeros((1, 2)))[:, 0]
    np.testing.assert_allclose(slope, 3.0 * BALL_RADIUS * np.eye(2), rtol=1e-5)


def test_the_encoder_stays_in_the_ball_and_on_the_simplex():
    model, params, spectral = built(discs=False)
    weights, _ = jax.jit(model.normalise)(params, spectral)
    encoding = jax.jit(model.encode)(weights, inputs(scale=100.0))
    assert np.linalg.norm(encoding.v, axis=1).max() < BALL_RADIUS * (1 + 1e-6)
    np.testing.assert_allclose(np.sum(encoding.router, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(encoding.z_geo + encoding.z_tex, encoding.v, atol=1e-5)
    macro = encoding.c_bar + np.einsum("bn,bnd->bd", encoding.router, encoding.z_q_all)
    np.testing.assert_allclose(encoding.z_geo, macro + encoding.z_n, atol=1e-5)
    free, params, spectral = built(ball=False, covariant=False)
    weights, _ = jax.jit(free.normalise)(params, spectral)
    assert np.linalg.norm(jax.jit(free.encode)(weights, inputs(scale=100.0)).v, axis=1).max() > 1


def test_nearest_code_by_hand():
    codes = jnp.array([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 3.0]]])  # 2 charts, 2 codes
    distances, index, chosen = nearest_code(jnp.array([[0.75, 0.0]]), codes)
    np.testing.assert_allclose(distances, [[[0.5625, 0.0625], [4.5625, 9.5625]]])
    np.testing.assert_array_equal(index, [[1, 0]])
    np.testing.assert_array_equal(chosen, [[[1.0, 0.0], [0.0, 2.0]]])


@functools.cache
def straight_through(mode):
    """Value of z_geo; gradient of Σ macro (z_geo without z_n) and of Σ c̄ with respect to the centres."""
    model, params, spectral = built(straight_through=mode, covariant=False, discs=False)
    weights, _ = jax.jit(normalise)(params, spectral)

    @jax.jit
    def gradients(centers):
        def encode(centers):
            return model.encode({**weights, "encoder": {**weights["encoder"], "centers": centers}}, inputs())

        macro = jax.grad(lambda c: jnp.sum(encode(c).z_geo - encode(c).z_n))(centers)
        return encode(centers).z_geo, macro, jax.grad(lambda c: jnp.sum(encode(c).c_bar))(centers)

    return [np.asarray(x) for x in gradients(weights["encoder"]["centers"])]


def test_gains_and_offsets_start_where_they_are_told():
    _, params, _ = built(router_gain=10.0, key_offset=0.125, chart_gain=5.0, chart_bias=0.3)
    for part in ("encoder", "decoder"):
        assert float(jnp.exp(params[part]["router"]["log_gain"])) == pytest.approx(10.0)
    assert float(jnp.exp(params["decoder"]["log_chart_gain"])) == pytest.approx(5.0)
    assert float(jnp.std(params["encoder"]["key_offsets"])) == pytest.approx(0.125, rel=0.3)
    assert float(jnp.std(params["decoder"]["chart_bias"])) == pytest.approx(0.3, rel=0.3)


def test_a_router_gain_sharpens_the_routing_where_it_is_soft():
    soft, sharp = (built(router_gain=gain) for gain in (1.0, 10.0))
    x = jax.random.uniform(jax.random.key(0), (32, INPUTS))
    weights = [jax.jit(model.normalise)(params, spectral)[0] for model, params, spectral in (soft, sharp)]
    top = [
        float(jnp.mean(jnp.max(jax.jit(m.encode)(w, x).router, axis=1)))
        for (m, *_), w in zip((soft, sharp), weights, strict=True)
    ]
    assert top[1] > top[0] + 0.1


def test_charts_with_offsets_draw_different_images_at_the_origin():
    model, params, spectral = built(chart_bias=0.3)
    weights, _ = jax.jit(model.normalise)(params, spectral)
    origin = jnp.zeros((2, params["encoder"]["centers"].shape[1]))
    images = jax.jit(model.decode)(weights, origin, origin, jnp.array([0, 1])).x_hat
    assert float(jnp.max(jnp.abs(images[0] - images[1]))) > 1e-3


def test_straight_through_forms_agree_in_value_and_differ_in_the_macro_path():
    (parity_value, parity, _), (value, detached, c_bar) = (straight_through(m) for m in ("parity", "detached"))
    np.testing.assert_allclose(parity_value, value, atol=1e-6)
    np.testing.assert_allclose(parity, np.zeros_like(parity), atol=1e-6)  # centres: no macro path
    assert np.abs(detached).max() > 0.1
    np.testing.assert_allclose(detached, c_bar, atol=1e-6)


def test_bfloat16_rounds_the_operands_and_nothing_else():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(4, 300)).astype(np.float32), rng.normal(size=(5, 300)).astype(np.float32)
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32) for a in (x, kernel)]
    exact = product(x, kernel, "float32")
    half, grads = jax.jit(jax.value_and_grad(lambda w: jnp.sum(product(x, w, "bfloat16") ** 2)))(kernel)
    out = product(jnp.asarray(x), jnp.asarray(kernel), "bfloat16")
    assert out.dtype == grads.dtype == jnp.float32
    np.testing.assert_allclose(out, rounded[0] @ rounded[1].T, rtol=1e-5, atol=1e-4)  # sums are not rounded
    assert np.abs(out - exact).max() > 1e-3  # operands are
    np.testing.assert_allclose(half, np.sum((rounded[0] @ rounded[1].T) ** 2), rtol=1e-4)
    np.testing.assert_allclose(grads, 2 * (x @ kernel.T).T @ x, rtol=0.05, atol=2.0)


def test_an_atlas_in_bfloat16_is_near_the_one_in_float32():
    x = np.random.default_rng(0).uniform(size=(BATCH, INPUTS)).astype(np.float32)
    outs = []
    for matmul in ("float32", "bfloat16"):
        model, params, spectral = built(matmul=matmul)
        weights, _ = jax.jit(model.normalise)(params, spectral)
        outs.append(jax.jit(model.__call__)(weights, x))
    leaves = [jax.tree.leaves(out) for out in outs]
    assert all(a.dtype == b.dtype for a, b in zip(*leaves, strict=True))
    np.testing.assert_allclose(outs[0].decoding.x_hat, outs[1].decoding.x_hat, atol=0.05)
    np.testing.assert_allclose(outs[0].encoding.v, outs[1].encoding.v, atol=0.02)
    assert np.abs(outs[0].decoding.x_hat - outs[1].decoding.x_hat).max() > 0


@pytest.mark.parametrize("rank, expected", [(0, 2), (1, 1), (3, 3)])
def test_jump_shapes_and_values(rank, expected):
    model, params, _ = built(jump_rank=rank, covariant=False)
    jump = params["jump"]
    assert jump["up"]["kernel"].shape == (CHARTS, expected, 2)
    assert jump["down"]["kernel"].shape == (CHARTS, 2, expected)
    assert jump["c"].shape == (CHARTS, expected)
    rng = np.random.default_rng(0)
    jump = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), jump)
    z = rng.normal(size=(BATCH, CHARTS, 2)).astype(np.float32)
    jumped = jax.jit(model.jump)({**params, "jump": jump}, z)
    back = jax.jit(model.round_trip)({**params, "jump": jump}, z)
    assert jumped.shape == back.shape == (BATCH, CHARTS, CHARTS, 2)
    up, down, c, d = jump["up"]["kernel"], jump["down"]["kernel"], jump["c"], jump["d"]
    for i in range(CHARTS):
        for j in range(CHARTS):
            there = (z[:, i] @ up[i].T + c[i]) @ down[j].T + d[j]
            np.testing.assert_allclose(jumped[:, i, j], there, rtol=1e-4, atol=1e-5)
            home = (there @ up[j].T + c[j]) @ down[i].T + d[i]
            np.testing.assert_allclose(back[:, i, j], home, rtol=1e-4, atol=1e-4)


def test_jumps_start_near_the_identity():
    model, params, spectral = default_model()
    weights, _ = jax.jit(normalise)(params, spectral)
    z = jax.random.normal(jax.random.key(0), (BATCH, CHARTS, 2))
    jumped = jax.jit(model.jump)(weights, z)
    for to in range(CHARTS):
        np.testing.assert_allclose(jumped[:, :, to], z, atol=0.25)


def test_class_affinity_favours_one_class_a_chart():
    model, params, _ = default_model()  # affinity 4
    table = np.asarray(model.class_table(params, jnp.float32(1.0)))
    assert table.shape == params["supervised"]["table"].shape == (CHARTS, CLASSES)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(table.argmax(axis=1), np.arange(CHARTS) % CLASSES)
    # e⁴/(e⁴ + 2) = 0.965, up to the noise of ± 0.02 in the table
    np.testing.assert_allclose(table.max(axis=1), 0.965, atol=0.003)
    warm = np.asarray(model.class_table(params, jnp.float32(4.0)))  # e/(e + 2) = 0.576
    np.testing.assert_allclose(warm.max(axis=1), 0.576, atol=0.005)


def test_no_affinity_starts_without_a_preference():
    model, params, _ = built(class_affinity=0.0, covariant=False)
    np.testing.assert_allclose(model.class_table(params, jnp.float32(1.0)), 1 / CLASSES, atol=0.01)


def test_the_readout_sends_no_gradient_back():
    model, params, spectral = default_model()
    weights, _ = jax.jit(normalise)(params, spectral)

    @jax.jit
    @jax.grad
    def gradient(weights):
        encoding = model.encode(weights, inputs())
        return jnp.sum(model.readout(weights, encoding.router, encoding.z_geo)[:, 0])

    grads = dict(gradient(weights))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads.pop("readout")))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
