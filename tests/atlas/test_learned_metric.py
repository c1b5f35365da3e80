"""The learned distance: by hand, equivariant where nothing mixes, trained by what codes are for."""

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_program import CLASSES, batches, config, jit, program

from topojax.atlas.model import make_model
from topojax.atlas.model.layers import perturb
from topojax.atlas.model.learned_metric import SoftEquivariantMetric, assigned, mixing_penalty


def metric(bundle=0, shape=(5, 3, 4, 4), seed=0):
    module = SoftEquivariantMetric(bundle)
    variables = module.init(jax.random.key(0), jnp.zeros(shape))
    parts = (variables[name] for name in ("params", "spread", "spectral"))
    return module, perturb(jax.random.key(seed), *parts)[0]


def differences(shape=(5, 3, 4, 4), seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gelu(x):
    return np.asarray(jax.nn.gelu(x, approximate=False))


@pytest.mark.parametrize("bundle", [0, 2, 1])
def test_by_hand(bundle):
    module, params = metric(bundle)
    rng = np.random.default_rng(3)
    params = {
        **params,
        "mixing": rng.normal(size=params["mixing"].shape),
        "gate": rng.normal(size=params["gate"].shape),
    }
    d = differences()
    found = np.asarray(module.apply({"params": params}, d))
    size = bundle or 4
    n = 4 // size
    for b, c, k in np.ndindex(found.shape):
        u = d[b, c, k].reshape(n, size)
        h = np.linalg.norm(u, axis=1)
        for name in ("mlp_0", "mlp_1"):
            h = gelu(params[name]["kernel"][c] @ h + params[f"{name}_bias"][c])
        s = np.log1p(np.exp(params["mlp_2"]["kernel"][c] @ h))
        out = u + s[:, None] * u
        for i in range(n):
            gate = 1 / (1 + np.exp(-params["gate"][c, i]))
            out[i] += gate * sum(params["mixing"][c, i, j] @ u[j] for j in range(n))
        expected = min((out**2).sum(), 2500 * (u**2).sum())
        assert found[b, c, k] == pytest.approx(expected, rel=1e-4)


def test_without_mixing_a_turned_difference_is_as_far():
    module, params = metric()
    d = differences()
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    a, b = (module.apply({"params": params}, x) for x in (d, (d @ turn).astype(np.float32)))
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_a_map_that_stretches_without_bound_is_clamped():
    module, params = metric()
    params = {**params, "mixing": 1e4 * jnp.ones_like(params["mixing"])}
    d = differences()
    np.testing.assert_array_less(module.apply({"params": params}, d), 2500.1 * (d**2).sum(axis=-1))


def test_the_choice_is_hard_in_value_and_soft_in_gradient():
    distances = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 2, 3)), jnp.float32)
    codebook = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4)), jnp.float32)
    index, chosen, softly = assigned(distances, codebook)
    np.testing.assert_array_equal(index, distances.argmin(axis=-1))
    np.testing.assert_array_equal(chosen[0, 1], codebook[1, index[0, 1]])
    np.testing.assert_array_equal(softly, 0)
    gradient = jax.grad(lambda d: assigned(d, codebook)[2].sum())(distances)
    assert np.abs(gradient).max() > 1e-3
    assert np.abs(jax.grad(lambda c: assigned(distances, c)[2].sum())(codebook)).max() == 0


@pytest.mark.parametrize("discs", [False, True])
def test_an_atlas_with_it_has_the_same_value_where_the_map_is_a_multiple(discs):
    """With one bundle and no mixing the distance grows with the norm: codes are those of the Euclidean atlas."""
    fields = {**golden_files.MODEL, "covariant": False, "hidden_dim": 16, "discs": discs, "ball": discs}
    x = np.random.default_rng(5).normal(size=(20, 30)).astype(np.float32)
    encodings = {}
    for name in ("euclid", "soft_equivariant"):
        model = make_model(fields | {"metric": name}, input_dim=30, num_classes=10)
        params, vectors = jax.jit(model.init)(jax.random.key(0))
        if name == "euclid":
            plain = params
        else:
            metric_of = params["encoder"]["metric"]
            flat = {**metric_of, "mlp_2": {"kernel": jnp.zeros_like(metric_of["mlp_2"]["kernel"])}}
            params = {**plain, "encoder": {**plain["encoder"], "metric": flat}}
        encodings[name] = jax.jit(model.encode)(params, x)
        assert vectors
    np.testing.assert_array_equal(encodings["euclid"].codes, encodings["soft_equivariant"].codes)
    np.testing.assert_allclose(encodings["euclid"].z_geo, encodings["soft_equivariant"].z_geo, atol=1e-6)


@pytest.mark.slow
def test_training_moves_it_and_the_penalty_is_in_the_loss():
    c = config(
        ("commitment", "entropy", "diversity", "window"), model__metric="soft_equivariant", losses__metric_l1=0.1
    )
    made, _ = program(c)
    state, probe = jit(made.init)(), None
    step = jit(made.train_step)
    before = state.params["atlas"]["encoder"]["metric"]
    for batch in batches(2):
        probe = batch if probe is None else probe
        state, metrics = step(state, batch, probe)
    after = state.params["atlas"]["encoder"]["metric"]
    for name in ("mixing", "gate"):
        assert np.isfinite(after[name]).all()
    assert np.abs(after["mixing"]).max() > 0
    assert np.abs(after["mlp_2"]["kernel"] - before["mlp_2"]["kernel"]).max() > 1e-4
    assert metrics["loss/metric_l1"] >= 0
    assert mixing_penalty(state.params["atlas"]) > 0
    assert CLASSES == 3
