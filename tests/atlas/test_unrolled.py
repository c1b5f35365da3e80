"""Short axes written out, as on a CPU, and as one operation, as elsewhere: the same numbers, and a smaller program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_program import jit

from topojax.atlas import losses
from topojax.atlas.model import atlas, layers, make_model
from topojax.config.defaults import default_config

INPUTS, POINTS = 6, 7
PLANE = {"discs": False, "bounded": False}
slow = pytest.mark.slow


def laid_out(monkeypatch, unrolled):
    for module in (atlas, layers, losses):
        monkeypatch.setattr(module, "unrolled", lambda size: unrolled)


def slopes(fields):
    """(params, spectral, x) → value and gradient of what every part of the atlas says, traced anew; and the model."""
    c = default_config().model
    c.update_from_flattened_dict({"hidden_dim": 8, "num_charts": 4, "codes_per_chart": 3, **fields})
    model = make_model(c.to_dict(), input_dim=INPUTS, num_classes=3)

    def total(params, spectral, x):
        weights, _ = model.normalise(params, spectral)
        e, decoding = model(weights, x)
        jumped = losses.jump(model.jump(weights, e.offset), e.offset, e.router)
        return losses.recon(decoding.x_hat, x) + losses.commitment(e.v_loc, e.z_q_all, e.router) + jumped

    return jit(jax.value_and_grad(total)), model


@pytest.mark.parametrize("fields", [{}, pytest.param(PLANE, marks=slow), pytest.param({"latent_dim": 4}, marks=slow)])
def test_both_layouts_agree(monkeypatch, fields):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(POINTS, INPUTS)), jnp.float32)
    found, given = [], None
    for unrolled in (True, False):
        laid_out(monkeypatch, unrolled)
        function, model = slopes(fields)
        given = given or (*jit(model.init)(jax.random.key(0)), x)
        found.append(jax.tree.leaves(function(*given)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * max(1.0, np.abs(other).max()))


def test_a_long_axis_is_one_operation():
    lines = {}
    for latent in (6, 32):
        function, model = slopes({"hidden_dim": 96, "latent_dim": latent})
        given = (*jax.eval_shape(model.init, jax.random.key(0)), jax.ShapeDtypeStruct((POINTS, INPUTS), jnp.float32))
        lines[latent] = function.lower(*given).as_text().count("\n")
    assert lines[32] <= lines[6]
