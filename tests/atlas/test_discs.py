"""Charts in discs of their own: disjoint, in the ball, a place in each, and images within the data's range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.atlas import losses
from topojax.atlas.model import discs, make_model
from topojax.atlas.model.atlas import OVERSHOOT
from topojax.atlas.model.discs import BALL_RADIUS, CENTER_BOUND, coordinates, packed, places, radii
from topojax.config.defaults import default_config

INPUTS, CHARTS = 6, 4


@functools.cache
def model():
    c = default_config().model.to_dict() | {"hidden_dim": 16, "num_charts": CHARTS, "codes_per_chart": 3}
    made = make_model(c, input_dim=INPUTS, num_classes=3)
    weights, _ = jax.jit(made.normalise)(*jax.jit(made.init)(jax.random.key(0)))
    return made, weights


def centers_of(seed, charts=5):
    raw = np.random.default_rng(seed).uniform(-0.6, 0.6, size=(charts, 2))
    return jnp.asarray(raw, jnp.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_discs_are_disjoint_and_lie_in_the_ball(seed):
    centers = centers_of(seed)
    r = np.asarray(radii(centers))
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    for i in range(5):
        assert np.linalg.norm(centers[i]) + r[i] <= BALL_RADIUS + 1e-6
        for j in range(i):
            if apart[i, j] > 0.05:
                assert r[i] + r[j] < apart[i, j]


@pytest.mark.parametrize("charts, latent", [(2, 2), (10, 2), (24, 2), (10, 3)])
def test_packed_centres_leave_room_for_every_chart(charts, latent, monkeypatch):
    centers = packed(charts, latent)
    r = np.asarray(radii(jnp.asarray(centers)))
    assert np.linalg.norm(centers, axis=1).max() <= CENTER_BOUND
    assert r.min() > 0.5 * r.max()  # no chart is squeezed
    monkeypatch.setattr(discs, "_BLOCK", 1000)  # that are sought in pieces are the same
    assert np.array_equal(centers, packed(charts, latent))


def test_coordinates_of_a_place_are_those_it_was_made_from():
    centers = centers_of(3)
    local = jax.random.uniform(jax.random.key(0), (7, 5, 2), minval=-0.7, maxval=0.7)
    z = places(local, centers)
    for k in range(5):
        np.testing.assert_allclose(coordinates(z[:, k], centers)[:, k], local[:, k], atol=1e-4)
    far = coordinates(jnp.full((1, 2), 50.0), centers)
    np.testing.assert_allclose(np.linalg.norm(far, axis=-1), 1.0, rtol=1e-5)  # drawn back to the rim


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_every_place_lies_in_the_disc_of_its_chart(scale):
    made, weights = model()
    e = jax.jit(made.encode)(weights, scale * jax.random.normal(jax.random.key(1), (64, INPUTS)))
    centers = weights["encoder"]["centers"]
    away = np.linalg.norm(e.places - centers[None], axis=-1)
    assert (away <= np.asarray(radii(centers))[None]).all()
    own = np.take_along_axis(np.asarray(e.places), np.asarray(e.chart)[:, None, None], 1)[:, 0]
    np.testing.assert_array_equal(e.z_geo, own)
    np.testing.assert_allclose(e.z_n_all + e.z_q_all, e.v_loc, atol=1e-6)  # code and residual are all of it


def test_nothing_decodes_outside_the_range_of_the_data():
    """Random inputs, mixtures, noise, a lattice over the ball and points far outside: 0 of 100,000 leave the range."""
    made, weights = model()
    loud = jax.tree.map(lambda leaf: 10.0 * leaf, weights)  # a decoder with huge weights, too
    key = jax.random.key(2)
    lattice = jnp.stack(jnp.meshgrid(*2 * [jnp.linspace(-1.2, 1.2, 150)]), axis=-1).reshape(-1, 2)
    x = 10.0 * jax.random.normal(key, (75_000, INPUTS))
    for w in (weights, loud):
        out = jax.jit(lambda w, x: made(w, x).decoding.x_hat)(w, x)
        drawn = jax.jit(made.decode)(w, jnp.concatenate([lattice, 1e4 * lattice[:2500]]), jnp.zeros((25_000, 2))).x_hat
        for images in (out, drawn):
            assert images.min() >= -OVERSHOOT - 1e-6
            assert images.max() <= 1 + OVERSHOOT + 1e-6


def test_reconstruction_goes_through_both_routings():
    made, weights = model()
    x = jax.random.uniform(jax.random.key(3), (8, INPUTS))
    e = jax.jit(made.encode)(weights, x)
    which = jnp.arange(8) < 4
    both = jax.jit(made.reconstruct)(weights, e, which).x_hat
    dreamed = jax.jit(made.decode)(weights, e.z_geo, jnp.zeros_like(e.z_geo)).x_hat
    np.testing.assert_allclose(both[4:], dreamed[4:], atol=1e-6)
    # One chart for certain: what it draws at its own place is what decoding that place in that chart gives.
    sure = e._replace(router=jax.nn.one_hot(jnp.full(8, 2), CHARTS))
    told = jax.jit(made.reconstruct)(weights, sure, jnp.ones(8, bool)).x_hat
    alone = jax.jit(made.decode)(weights, e.places[:, 2], jnp.zeros_like(e.z_geo), jnp.full(8, 2)).x_hat
    np.testing.assert_allclose(told, alone, atol=1e-5)


def test_the_decoders_routing_of_an_example_is_that_of_its_places():
    made, weights = model()
    e = jax.jit(made.encode)(weights, jax.random.uniform(jax.random.key(4), (6, INPUTS)))
    expected = np.zeros((6, CHARTS))
    decode = jax.jit(made.decode)
    for k in range(CHARTS):
        at = decode(weights, e.places[:, k], jnp.zeros((6, 2))).router
        expected += np.asarray(e.router)[:, k, None] * np.asarray(at)
    np.testing.assert_allclose(jax.jit(made.routing)(weights, e), expected, rtol=1e-4, atol=1e-6)


def test_the_surprise_at_the_charts_bounds_the_divergence():
    rng = np.random.default_rng(0)
    w = rng.dirichlet(np.full(3, 0.5), size=40).astype(np.float32)
    at = rng.dirichlet(np.full(3, 0.5), size=(40, 3)).astype(np.float32)  # w'(z_k) of each of three places
    mean = np.einsum("bk,bkn->bn", w, at)
    divergence = float(losses.consistency(jnp.asarray(w), jnp.asarray(mean)))
    surprise = sum(
        float(jnp.mean(w[:, k] * -jnp.log(at[:, k, k] + losses.LOG_FLOOR))) for k in range(3)
    )  # of all charts that claim a point, not of the strongest alone
    assert divergence <= surprise
    one = losses.sync(jnp.array([1, 0]), jnp.array([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]))
    assert float(one) == pytest.approx(-(np.log(0.5) + np.log(0.25)) / 2, rel=1e-4)
