"""Learned precisions: the formula, its minimum, the factor ½ and the scale D_in/2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topojax.control import precision

LOSSES = {"recon": jnp.float32(0.25), "vq": jnp.float32(4.0)}


def test_total_is_the_formula():
    # s = (0.5, −1): exp(−0.5)·0.25 + 0.5 = 0.6516327;  exp(1)·4 − 1 = 9.8731273; sum 10.52476, half 5.26238
    s = {"recon": jnp.float32(0.5), "vq": jnp.float32(-1.0)}
    assert float(precision.total(LOSSES, s, half=False)) == pytest.approx(10.52476, rel=1e-6)
    assert float(precision.total(LOSSES, s)) == pytest.approx(5.26238, rel=1e-6)


def test_dims_scale_a_term_by_half_its_dimension():
    # s = 0: ½·784·0.25 + ½·4 = 98 + 2
    s = precision.init(("recon", "vq"))
    assert float(precision.total(LOSSES, s, dims={"recon": 784})) == pytest.approx(100.0)
    views = precision.weights(s, dims={"recon": 784})
    assert {name: float(value) for name, value in views.items()} == {"recon": 392.0, "vq": 0.5}


def test_total_is_the_gaussian_negative_log_likelihood():
    x = np.array([0.3, -1.2, 0.8, 2.0])
    variance = 0.7
    nll = 0.5 * np.sum(x**2 / variance + np.log(2 * np.pi * variance))
    s = {"recon": jnp.float32(np.log(variance))}
    total = precision.total({"recon": jnp.float32(np.mean(x**2))}, s, dims={"recon": 4})
    assert float(total) + 0.5 * 4 * np.log(2 * np.pi) == pytest.approx(nll, rel=1e-6)


@pytest.mark.parametrize("half", (True, False))
def test_gradient_descent_finds_the_log_of_the_loss(half):
    s = precision.init(LOSSES)
    slope = jax.jit(jax.grad(lambda s: precision.total(LOSSES, s, half=half)))
    for _ in range(300):
        s = jax.tree.map(lambda a, g: a - 0.2 * g, s, slope(s))
    assert {name: float(v) for name, v in s.items()} == pytest.approx(
        {"recon": np.log(0.25), "vq": np.log(4.0)}, abs=1e-3
    )


def test_weights_are_the_gradient_by_each_loss_and_carry_none():
    s = {"recon": jnp.float32(0.5), "vq": jnp.float32(-1.0)}
    dims = {"vq": 3.0}
    views = precision.weights(s, dims=dims)
    slopes = jax.grad(lambda losses: precision.total(losses, s, dims=dims))(LOSSES)
    assert {k: float(v) for k, v in views.items()} == pytest.approx({k: float(v) for k, v in slopes.items()})
    carried = jax.grad(lambda s: sum(precision.weights(s).values(), start=jnp.float32(0)))(s)
    assert all(float(leaf) == 0 for leaf in carried.values())


def test_parameters_are_typed_and_jit_agrees_bit_for_bit_on_order():
    s = precision.init(("vq", "recon", "sup"))
    assert all(v.dtype == jnp.float32 and not v.weak_type and v.shape == () for v in s.values())
    losses = {"vq": jnp.float32(1e8), "recon": jnp.float32(-1e8), "sup": jnp.float32(1.0)}
    reordered = {name: losses[name] for name in ("sup", "recon", "vq")}
    assert float(precision.total(losses, s)) == float(precision.total(reordered, s))
    assert float(jax.jit(precision.total)(losses, s)) == float(precision.total(losses, s))


def test_project_keeps_a_vanishing_loss_finite():
    s = {"recon": jnp.float32(-200.0), "vq": jnp.float32(0.5)}
    bounded = precision.project(s, minimum=-5.0)
    assert {k: float(v) for k, v in bounded.items()} == {"recon": -5.0, "vq": 0.5}
    assert np.isfinite(float(precision.total(LOSSES, bounded)))
    # A parameter on its bound still has a gradient, so it can come back.
    assert float(jax.grad(lambda s: precision.total(LOSSES, s))(bounded)["recon"]) < 0


@pytest.mark.parametrize(
    "call, message",
    (
        (lambda: precision.init(()), "must be present and differ"),
        (lambda: precision.init(("a", "a")), "must be present and differ"),
        (lambda: precision.total(LOSSES, precision.init(("recon",))), r"\['recon', 'vq'\].*\['recon'\]"),
        (lambda: precision.total(LOSSES, precision.init(LOSSES), dims={"x": 2}), r"unknown losses \['x'\]"),
        (lambda: precision.weights(precision.init(LOSSES), dims={"vq": 0}), "dims\\['vq'\\] .* got 0"),
        (lambda: precision.project({}, minimum=1.0, maximum=0.0), r"finite and ordered, got \[1.0, 0.0\]"),
        (lambda: precision.project({}, minimum=-np.inf), "finite and ordered"),
    ),
)
def test_bad_input_is_refused_with_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
