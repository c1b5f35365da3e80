"""Where an atlas begins: examples around the origin and undecided between the charts, wherever their inputs lie."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_program
from hypothesis import given, settings
from hypothesis import strategies as st

from topojax.atlas.centred import centred
from topojax.atlas.model import make_model
from topojax.config.defaults import default_config
from topojax.training.beginning import beginning, looked_at

CHARTS = 6


@functools.cache
def made(covariant=True):
    c = default_config().model.to_dict()
    c |= {"hidden_dim": 16, "num_charts": CHARTS, "codes_per_chart": 3, "ball_scale": 6.0, "covariant": covariant}
    model = make_model(c, input_dim=2, num_classes=2)
    return model, jax.jit(model.init), jax.jit(lambda *known: centred(model, *known)), jax.jit(_encoded(model))


def _encoded(model):
    return lambda params, spectral, x: model.encode(model.normalise(params, spectral)[0], x)


def usage_entropy(encoding):
    usage = np.asarray(encoding.router.mean(0), np.float64)
    return -(usage * np.log(usage + 1e-12)).sum()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(-5.0, 5.0), st.floats(0.05, 0.3))
def test_points_begin_around_the_origin_in_all_charts_wherever_they_lie(seed, offset, spread):
    _, init, centre, encode = made()
    # A third is the spread that the scale of 6 is for.
    x = offset + spread * np.random.default_rng(seed).normal(size=(64, 2)).astype(np.float32)
    params, spectral = init(jax.random.key(seed))
    begun = encode(centre(params, spectral, x), spectral, x)
    assert np.linalg.norm(begun.v.mean(0)) < 0.4  # of the ball's unit; tanh of a mean is not the mean of a tanh
    assert np.linalg.norm(begun.v_loc.mean(0), axis=-1).max() < 0.4
    # Of 400 such beginnings the least was 0.44, the median 0.89; uncentred the median is 0.
    assert usage_entropy(begun) > 0.25 * np.log(CHARTS)


def test_without_it_half_of_the_atlases_begin_in_one_chart():
    _, init, centre, encode = made()
    x = np.random.default_rng(0).uniform(size=(64, 2)).astype(np.float32)
    before, after = [], []
    for seed in range(20):
        params, spectral = init(jax.random.key(seed))
        before.append(usage_entropy(encode(params, spectral, x)))
        after.append(usage_entropy(encode(centre(params, spectral, x), spectral, x)))
    assert np.median(before) < 0.5 * np.log(CHARTS) < 0.7 * np.log(CHARTS) < min(after)


@pytest.mark.parametrize("covariant", [True, False])
def test_only_biases_of_the_heads_move(covariant):
    _, init, centre, _ = made(covariant)
    params, spectral = init(jax.random.key(1))
    after = centre(params, spectral, jnp.ones((8, 2)))
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(after), strict=True)
        if not np.array_equal(a, b)
    }
    heads = {"encoder/value/bias", "encoder/values/bias"}
    router = {"encoder/router/query_features/bias", "encoder/router/query_z/bias"}
    assert moved == (heads | router if covariant else heads)


def test_the_plane_of_the_original_begins_at_random():
    c = tiny_program.config(tiny_program.FEW)
    assert not c.model.discs
    state = tiny_program.program(c)[0].init()
    begun, words = beginning(c, None, state, looked_at(c, tiny_program.data()))
    assert words is None
    jax.tree.map(np.testing.assert_array_equal, begun.params, state.params)
