"""The covariant router's parts: transport, temperature and the gradient of routing, against NumPy and by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.atlas.model.router import (
    DENOMINATOR_FLOOR,
    TAU_FLOOR,
    TRANSPORT_EPS,
    route,
    skew_generators,
    temperature,
    transport_adjoint,
)

HIDDEN, DIM, BATCH = 8, 2, 5
INPUTS, CLASSES, CHARTS, CODES = 6, 3, 4, 3


def dense_transport(generators, z, query):
    """Uᵀq by one dense solve per sample, in float64."""
    out = []
    for point, q in zip(np.float64(z), np.float64(query), strict=True):
        half = 0.5 * np.einsum("d,dij->ij", point, np.float64(generators))
        eye = (1.0 + TRANSPORT_EPS) * np.eye(len(q))
        out.append(np.linalg.solve(eye + half, eye - half).T @ q)
    return np.stack(out)


@functools.cache
def transport_case(radius):
    """A kernel of spectral norm 1, its generators, points at a distance from the origin, queries, cotangents."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(HIDDEN**2, DIM))
    kernel /= np.linalg.norm(kernel, 2)
    generators = np.asarray(skew_generators(jnp.asarray(kernel, jnp.float32), HIDDEN))
    z = rng.normal(size=(BATCH, DIM))
    z = (radius * z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    query, cotangent = rng.normal(size=(2, BATCH, HIDDEN)).astype(np.float32)
    return kernel.astype(np.float32), generators, z, query, cotangent


def central_differences(f, x, h=1e-5):
    x = np.float64(x)
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        grad[index] = (f(x + step) - f(x - step)) / (2 * h)
    return grad


def test_generators_are_skew():
    generators = transport_case(1.0)[1]
    assert generators.shape == (DIM, HIDDEN, HIDDEN)
    np.testing.assert_array_equal(generators, -np.swapaxes(generators, 1, 2))
    assert np.abs(generators).max() > 0.05
    # of S(z) = reshape(W z): entry (i, j) of S_d is W[H i + j, d]
    kernel = jnp.arange(8.0).reshape(4, 2)  # H = 2, D = 2
    np.testing.assert_allclose(skew_generators(kernel, 2)[0], [[0.0, -1.0], [1.0, 0.0]])  # S_0 = [[0, 2], [4, 6]]


@pytest.mark.parametrize("radius", [0.0, 0.5, 0.98, 5.0, 50.0])
def test_transport_is_the_dense_solve(radius):
    _, generators, z, query, _ = transport_case(radius)
    actual = jax.jit(transport_adjoint)(generators, z, query)
    expected = dense_transport(generators, z, query)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    if radius == 0:
        np.testing.assert_allclose(actual, query, rtol=1e-6)  # nothing to turn


def test_transport_keeps_lengths_nearly():
    _, generators, z, query, _ = transport_case(0.98)
    turned = jax.jit(transport_adjoint)(generators, z, query)
    before, after = np.linalg.norm(query, axis=1), np.linalg.norm(turned, axis=1)
    # E commutes with A, so U is orthogonal whatever ε
    np.testing.assert_allclose(after, before, rtol=1e-5)
    assert np.abs(np.asarray(turned) - query).max() > 0.01


@functools.cache
def transport_gradients():
    def total(kernel, z, query, cotangent):
        return jnp.sum(cotangent * transport_adjoint(skew_generators(kernel, HIDDEN), z, query))

    return jax.jit(jax.grad(total, argnums=(0, 1, 2)))


@pytest.mark.parametrize("radius", [0.5, 5.0])
@pytest.mark.parametrize("argument", ["kernel", "z", "query"])
def test_gradient_of_transport_is_that_of_the_dense_solve(radius, argument):
    kernel, _, z, query, cotangent = transport_case(radius)
    case = (kernel, z, query)
    place = ("kernel", "z", "query").index(argument)

    def dense(x):
        kernel, z, query = (*case[:place], x, *case[place + 1 :])
        square = kernel.T.reshape(DIM, HIDDEN, HIDDEN)
        return np.sum(cotangent * dense_transport(0.5 * (square - np.swapaxes(square, 1, 2)), z, query))

    actual = transport_gradients()(*case, cotangent)[place]
    expected = central_differences(dense, case[place])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_samples_of_a_batch_do_not_meet_in_the_solve():
    _, generators, z, query, _ = transport_case(0.5)
    far = z.copy()
    far[-1] *= 80.0  # many more iterations for the whole batch
    near_alone = jax.jit(transport_adjoint)(generators, z, query)
    beside_far = jax.jit(transport_adjoint)(generators, far, query)
    np.testing.assert_allclose(beside_far[:-1], near_alone[:-1], rtol=0, atol=1e-5)

    jacobian = jax.jit(jax.jacrev(lambda z: jnp.sum(transport_adjoint(generators, z, query), axis=-1)))(z)
    for i in range(BATCH):  # [output sample, input sample, D]
        for j in range(BATCH):
            assert np.any(jacobian[i, j]) == (i == j)


def test_a_query_of_zeros_stays_zero():
    _, generators, z, query, _ = transport_case(0.98)
    query = query.copy()
    query[2] = 0.0
    turned = jax.jit(transport_adjoint)(generators, z, query)
    np.testing.assert_array_equal(turned[2], np.zeros(HIDDEN))
    assert np.isfinite(turned).all()


def test_temperature_by_hand():
    # √16 · (1 − 0.36)/2 = 1.28; outside the ball √16 · 1e-3/2 = 2e-3, below its floor
    z = jnp.array([[0.6, 0.0], [0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(temperature(z, 16), [1.28, 2.0, TAU_FLOOR], rtol=1e-6)
    assert temperature(jnp.array([[3.0, 4.0]]), 10_000)[0] == pytest.approx(100 * DENOMINATOR_FLOOR / 2)


def saturated():
    """Scores of a nearly one-hot routing, and a cotangent that is large on the chosen chart."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(16, CHARTS))
    scores[:, 1] += 12.0
    cotangent = 1e3 + rng.normal(size=(16, CHARTS))
    return scores, cotangent


def gradient_of(function, scores, cotangent):
    return np.asarray(jax.jit(jax.grad(lambda s: jnp.sum(cotangent * function(s))))(scores))


def test_gradient_of_route_is_that_of_softmax():
    scores, cotangent = saturated()
    with jax.enable_x64(True):
        scores, cotangent = jnp.asarray(scores, jnp.float64), jnp.asarray(cotangent, jnp.float64)
        np.testing.assert_array_equal(route(scores), jax.nn.softmax(scores))
        for sharpness in (1.0, 0.05):
            plain = gradient_of(jax.nn.softmax, sharpness * scores, cotangent)
            ours = gradient_of(route, sharpness * scores, cotangent)
            assert ours.dtype == np.float64
            np.testing.assert_allclose(ours, plain, rtol=1e-7, atol=1e-12)


def test_route_keeps_its_digits_where_routing_is_hard():
    scores, cotangent = saturated()
    w = np.exp(scores - scores.max(axis=1, keepdims=True))
    w /= w.sum(axis=1, keepdims=True)
    small = np.float32(cotangent).astype(np.float64)
    true = w * (small - np.sum(w * small, axis=1, keepdims=True))
    scores, cotangent = jnp.asarray(scores, jnp.float32), jnp.asarray(cotangent, jnp.float32)
    errors = [
        np.linalg.norm(gradient_of(function, scores, cotangent) - true) / np.linalg.norm(true)
        for function in (route, jax.nn.softmax)
    ]
    assert errors[0] < 1e-3
    assert errors[0] < errors[1] / 10
