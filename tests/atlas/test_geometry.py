"""Latent metrics against closed forms and other derivatives; the length they give, and when it stands still."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topojax.atlas.geometry import METRICS, geometry, latent_metric, potential, speed, wfr_length
from topojax.atlas.model import Model, make_model
from topojax.config.defaults import default_config
from topojax.types import Decoding

POINTS, INPUTS, CLASSES = 6, 5, 3
FEW = settings(max_examples=20, deadline=None)


def unused(*_):
    raise AssertionError("not needed here")


def linear(matrix, slope):
    """A model whose decoder is x̂ = z Aᵀ, w' = softmax(z Mᵀ); texture would show."""

    def decode(weights, z, texture, chart=None):
        assert chart is None
        return Decoding(z @ jnp.asarray(matrix).T + 100 * jnp.sum(texture), jax.nn.softmax(z @ jnp.asarray(slope).T))

    names = [field.name for field in dataclasses.fields(Model)]
    return Model(**{**dict.fromkeys(names, unused), "decode": decode})


@functools.cache
def atlas():
    """A covariant atlas, its weights, latent points spread through the ball, inputs and labels."""
    c = default_config().model
    c.discs = c.bounded = False
    c.hidden_dim, c.num_charts, c.codes_per_chart = 8, 4, 3
    model = make_model(c.to_dict(), input_dim=INPUTS, num_classes=CLASSES)
    names = ("init", "normalise", "encode", "decode", "class_table")
    model = dataclasses.replace(model, **{name: jax.jit(getattr(model, name)) for name in names})
    weights, _ = model.normalise(*model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.uniform(-0.6, 0.6, (POINTS, 2)), jnp.float32)
    x = jnp.asarray(rng.uniform(size=(POINTS, INPUTS)), jnp.float32)
    return model, weights, z, x, jnp.asarray(rng.integers(0, CLASSES, POINTS), jnp.int32)


def router_slopes(decode, z, h=1e-2):
    """Router w' [P, N] and ∂w' [D, P, N] of a decoder by central differences."""
    steps = h * np.eye(2, dtype=np.float32)
    sides = [[np.float64(decode(z + s * step[None]).router) for s in (1, -1)] for step in steps]
    return np.float64(decode(z).router), np.stack([(up - down) / (2 * h) for up, down in sides])


def test_precision_of_a_known_cloud():
    z = jnp.array([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])  # variances 4 and 1, no covariance
    metric = latent_metric("precision", linear(np.eye(2), np.eye(2)), {}, z + 3.0, z)
    np.testing.assert_allclose(metric, [[0.25, 0], [0, 1]], atol=1e-5)
    assert float(wfr_length(metric)) == pytest.approx(2.5**0.5, rel=1e-5)  # √((4 + 1)/2)


def test_poincare():
    model = linear(np.eye(2), np.eye(2))
    centre = latent_metric("poincare", model, {}, jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    np.testing.assert_allclose(centre, 4 * np.eye(2))
    assert float(wfr_length(centre)) == pytest.approx(0.5, rel=1e-5)
    # ‖z‖² = 0.5: 4/0.25 = 16; with a point at the origin the mean is 10
    two = latent_metric("poincare", model, {}, jnp.array([[0.0, 0.0], [0.5, 0.5]]), jnp.zeros((2, 2)))
    np.testing.assert_allclose(two, 10 * np.eye(2), rtol=1e-5)
    outside = latent_metric("poincare", model, {}, jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2)))
    assert float(wfr_length(outside)) == pytest.approx((1 - 0.98**2) / 2, rel=1e-4)


def test_pullback_of_a_linear_decoder():
    matrix = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]], np.float32)
    z = jnp.array([[0.1, 0.2], [-0.3, 0.4]])
    x = z @ matrix.T + jnp.array([[0.5, -0.5, 0.5]])  # mean squared error 0.25
    metric = latent_metric("pullback", linear(matrix, matrix), {}, z, x)
    np.testing.assert_allclose(metric, 4 * np.array([[5.0, 2.0], [2.0, 10.0]]), rtol=1e-3)  # AᵀA / 0.25


def test_pullback_is_the_jacobian_of_reverse_mode():
    model, weights, z, x, _ = atlas()

    def render(z):
        return model.decode(weights, z, jnp.zeros_like(z)).x_hat

    x_hat, pull = jax.vjp(render, z)
    pull = jax.jit(pull)
    slopes = [np.float64(pull(jnp.zeros_like(x_hat).at[:, i].set(1.0))[0]) for i in range(INPUTS)]
    expected = np.einsum("xpi,xpj->ij", slopes, slopes) / POINTS / np.mean((np.float64(x_hat) - x) ** 2)
    metric = jax.jit(lambda z: latent_metric("pullback", model, weights, z, x))(z)
    np.testing.assert_allclose(metric, expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())


def test_router_fisher_of_a_linear_router():
    slope = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]], np.float32)
    z = jnp.array([[0.3, -0.2], [0.0, 0.5], [1.0, 1.0]])
    w = np.float64(jax.nn.softmax(z @ slope.T))
    # Fisher of a softmax: Mᵀ (diag w − w wᵀ) M
    expected = np.mean([slope.T @ (np.diag(p) - np.outer(p, p)) @ slope for p in w], axis=0)
    metric = jax.jit(lambda z: latent_metric("router_fisher", linear(slope, slope), {}, z, z))(z)
    np.testing.assert_allclose(metric, expected, rtol=1e-5)


def test_router_fisher_of_an_atlas_against_differences():
    model, weights, z, x, _ = atlas()
    w, dw = router_slopes(jax.jit(lambda z: model.decode(weights, z, jnp.zeros_like(z))), z)
    expected = np.einsum("ipn,jpn->ij", dw / w, dw) / POINTS
    metric = jax.jit(lambda z: latent_metric("router_fisher", model, weights, z, x))(z)
    np.testing.assert_allclose(metric, expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


def test_a_chart_without_any_weight_adds_nothing_to_the_fisher():
    slope = np.array([[1.0, 0.0], [0.0, 1.0], [-900.0, -900.0]], np.float32)  # third weight underflows to 0
    z = jnp.array([[0.3, 0.4], [0.6, 0.5]])
    run = jax.jit(lambda m: latent_metric("router_fisher", linear(m, m), {}, z, z))
    with_it, without = run(slope), run(slope[:2])
    np.testing.assert_allclose(with_it, without, rtol=1e-5)
    assert np.abs(without).max() > 0.1


@pytest.mark.parametrize("labelled", [True, False])
def test_the_potential(labelled):
    model, weights, z, x, label = atlas()
    table = model.class_table(weights, jnp.float32(0.5)) if labelled else None
    value = jax.jit(potential(model, weights, table, label, x))
    out = model.decode(weights, z, jnp.zeros_like(z))
    if labelled:
        expected = -np.log((np.asarray(out.router) @ np.asarray(table))[np.arange(POINTS), label])
        np.testing.assert_allclose(value(z), expected, rtol=1e-5)
    else:
        error = np.mean((np.asarray(out.x_hat) - x) ** 2, axis=1)
        np.testing.assert_allclose(value(z), INPUTS / 2 * error / error.mean(), rtol=1e-5)
        assert float(jnp.mean(value(z))) == pytest.approx(INPUTS / 2, rel=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_symmetric_positive_and_detached(name):
    model, weights, z, x, _ = atlas()

    def total(z, x, decoder):
        metric = latent_metric(name, model, {**weights, "decoder": decoder}, z, x)
        return jnp.sum(metric), metric

    gradients, metric = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(z, x, weights["decoder"])
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradients))
    assert metric.shape == (2, 2)
    assert metric.dtype == jnp.float32
    np.testing.assert_allclose(metric, metric.T, rtol=1e-5)
    assert np.linalg.eigvalsh(metric).min() > 0
    assert 0 < float(wfr_length(metric)) < 1e3


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"one of precision, router_fisher.*'fisher'"):
        latent_metric("fisher", linear(np.eye(2), np.eye(2)), {}, jnp.zeros((1, 2)), jnp.zeros((1, 2)))


def test_length_of_a_direction_that_is_not_seen():
    assert float(wfr_length(jnp.diag(jnp.array([4.0, 1.0])))) == pytest.approx(0.625**0.5, rel=1e-5)  # √((¼ + 1)/2)
    assert float(wfr_length(jnp.zeros((2, 2)))) == pytest.approx(1e3, rel=1e-3)  # 1/ε under the root
    assert float(wfr_length(-2e-6 * jnp.eye(2))) == 0  # a negative inverse is clamped
    assert not np.isfinite(wfr_length(jnp.full((2, 2), jnp.nan)))


def test_length_of_a_metric_that_float32_cannot_invert():
    steep = jnp.array([[1.0, 1.0], [1.0, 1.0]]) * 1e9 + 10 * jnp.eye(2)  # 10 I is lost in the rounding of 1e9
    # eigenvalues 2e9 and 0 + ridge 1e3: √(1e-3 / 2) = 0.022
    assert float(wfr_length(steep)) == pytest.approx(0.0224, rel=0.1)


def test_speed_by_hand():
    metric = jnp.array([[4.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(speed(metric, jnp.array([[3.0, 8.0], [0.0, 0.0]])), [10.0, 0.0])  # √(4·9 + 64)


def run(rule, metrics, **flags):
    update = jax.jit(rule.update)
    states = [rule.init()]
    for metric in metrics:
        states.append(update(states[-1], jnp.asarray(metric, jnp.float32), **flags))
    return states


def test_calibration_by_hand():
    rule = geometry(latent_dim=2, initial_length=2.0, decay=0.5, calibrations=3)
    states = run(rule, [4 * np.eye(2), 8 * np.eye(2), 2 * np.eye(2), 100 * np.eye(2)])
    np.testing.assert_allclose(states[0].metric, np.eye(2) / 4)
    # G: 4, (4 + 8)/2 = 6, (6 + 2)/2 = 4, then held; λ = 1/√G
    lengths = [2.0, 0.5, 6**-0.5, 0.5, 0.5]
    np.testing.assert_allclose([float(s.length) for s in states], lengths, rtol=1e-5)
    assert [int(s.measured) for s in states] == [0, 1, 2, 3, 3]
    assert bits(states[3]) == bits(states[4])


def test_length_stays_within_bounds():
    rule = geometry(latent_dim=2, bounds=(0.1, 10.0))
    assert float(run(rule, [1e6 * np.eye(2)])[-1].length) == pytest.approx(0.1)
    assert float(run(rule, [1e-5 * np.eye(2)])[-1].length) == pytest.approx(10.0)


@FEW
@given(hnp.arrays(np.float32, (2, 2), elements=st.floats(width=32)), st.booleans(), st.booleans(), st.integers(0, 5))
def test_what_is_not_measured_moves_no_bit(metric, measured, active, earlier):
    rule, update = held()
    state = rule.init()
    for _ in range(earlier):
        state = update(state, 3 * jnp.eye(2), True, True)
    new = update(state, jnp.asarray(metric), measured, active)
    if not (measured and active and np.isfinite(metric).all()) or earlier >= 4:
        assert bits(new) == bits(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
    assert 0.1 <= float(new.length) <= 10.0


@functools.cache
def held():
    rule = geometry(latent_dim=2)
    return rule, jax.jit(rule.update)


def test_state_keeps_its_types():
    rule, update = held()
    state = rule.init()
    new = update(state, jnp.eye(2), True, True)
    for old, leaf in zip(state, new, strict=True):
        assert (leaf.shape, leaf.dtype, leaf.weak_type) == (old.shape, old.dtype, False)
        assert not old.weak_type


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initial_length": 0.05}, "initial must lie in"),
        ({"decay": 1.0}, "decay must lie in"),
        ({"calibrations": 0}, "calibrations must be > 0"),
        ({"bounds": (0.0, 1.0)}, "bounds must be > 0"),
    ],
)
def test_bad_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        geometry(latent_dim=2, **fields)
