"""What a revival knows of: leaves with a row a chart, the optimizer's moments, a branch of the step; that it helps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from controller_runs import bits
from dead_charts import FREE, MODEL, OPTIM, moments, names, one_dead_chart, tiny, warm

from topojax.atlas import losses, revival
from topojax.atlas.model import make_model
from topojax.atlas.optim import make_optimizer
from topojax.atlas.revival import empty, observe, reset_moments, revive


def test_revival_is_a_branch_of_a_cond_with_strong_types():
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)

    @jax.jit
    def maybe(now, params, opt_state, liveness):
        def go(params, opt_state):
            return revive(params, opt_state, liveness, dead_code=0.5, dead_chart=0.5)

        def stay(params, opt_state):
            return params, opt_state, revival.Revived(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

        return jax.lax.cond(now, go, stay, params, opt_state)

    outs = [maybe(jnp.asarray(now), params, opt_state, one_dead_chart()) for now in (True, False)]
    assert [int(out[2].charts) for out in outs] == [1, 0]
    assert bits(outs[1][:2]) == bits((params, opt_state))
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), (params, opt_state))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), outs[0][:2]) == kinds
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(outs))
    assert not any(leaf.weak_type for leaf in empty(2, 3, 2))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        FREE,
        {"covariant": False},
        {"tensorization": "full", "transport": False},
        {"jump_rank": 3, "readout_bundle": 1},
    ],
)
def test_every_leaf_with_a_chart_axis_is_listed(fields):
    def shapes(charts):
        config = {**MODEL, **fields, "num_charts": charts}
        model = make_model(config, input_dim=6, num_classes=3)
        return {k: v.shape for k, v in names(jax.eval_shape(model.init, jax.random.key(0))[0]).items()}

    five, seven = shapes(5), shapes(7)
    changed = {name for name in five if five[name] != seven[name]}
    assert changed == revival.CHART_ROWS & set(five)
    for name in changed:
        assert (five[name][0], seven[name][0]) == (5, 7), name
        assert five[name][1:] == seven[name][1:], name


def test_every_listed_leaf_is_of_some_model():
    kinds = [{"covariant": covariant, "discs": discs} for covariant in (True, False) for discs in (True, False)]
    real = {name for kind in kinds for name in names(tiny(**kind, **FREE)[1]["atlas"])}
    assert real >= revival.CHART_ROWS


def test_reset_moments_leaves_the_rest_and_its_next_update_alone():
    _, params, _ = tiny()
    optimizer, state, grads = warm(params)
    rng = np.random.default_rng(0)
    mask = jax.tree.map(lambda p: jnp.asarray(rng.uniform(size=p.shape) < 0.3), params)
    flat = names(mask)
    reset = jax.jit(reset_moments)(state, params, mask)
    assert jax.tree.structure(reset) == jax.tree.structure(state)
    before, after = moments(state, params), moments(reset, params)
    for (kind, path), was in before.items():
        hit = np.asarray(flat[path])
        assert np.all(after[kind, path][hit] == 0)
        assert after[kind, path][~hit].tobytes() == was[~hit].tobytes()
    for label, inner in state.inner_states.items():
        assert inner.inner_state[1].count == reset.inner_states[label].inner_state[1].count == 2

    plain, after_reset = (optimizer.update(grads, s, params)[0] for s in (state, reset))
    any_moved = False
    for path, a in names(plain).items():
        hit, b = np.asarray(flat[path]), np.asarray(names(after_reset)[path])
        assert np.asarray(a)[~hit].tobytes() == b[~hit].tobytes(), path
        any_moved |= bool(np.any(np.asarray(a)[hit] != b[hit]))
    assert any_moved


@pytest.mark.slow
def test_revival_raises_the_usage_of_codes_in_training():
    """Codes 1 to 5 of every chart start far from all data: no gradient ever reaches them."""
    model, params, spectral = tiny(codes_per_chart=6)
    del params["precision"]
    codebook = params["atlas"]["encoder"]["codebook"]
    params["atlas"]["encoder"]["codebook"] = codebook.at[:, 1:].add(20.0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(128, 6)), jnp.float32)
    optimizer = make_optimizer(OPTIM, steps_per_epoch=10)

    @jax.jit
    def epoch(params, opt_state, spectral, dead):
        def loss(params, spectral):
            weights, spectral = model.normalise(params["atlas"], spectral)
            out = model(weights, x)
            e = out.encoding
            vq = losses.codebook(e.v - e.c_bar, e.z_q_all, e.router)
            return losses.recon(out.decoding.x_hat, x) + vq, (e, weights["encoder"]["codebook"], spectral, vq)

        def step(carry, _):
            params, opt_state, spectral, liveness = carry
            grads, (e, codes, spectral, vq) = jax.grad(loss, has_aux=True)(params, spectral)
            direction, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, jax.tree.map(lambda u: -3e-3 * u, direction))
            return (params, opt_state, spectral, observe(liveness, e, codes)), vq

        start = (params, opt_state, spectral, empty(4, 6, 2))
        (params, opt_state, spectral, liveness), vq = jax.lax.scan(step, start, length=10)
        params, opt_state, revived = revive(params, opt_state, liveness, dead_code=dead, dead_chart=0.0)
        return params, opt_state, spectral, liveness, revived, vq[-1]

    def train(dead):
        state, total = (params, optimizer.init(params), spectral), 0
        for _ in range(12):
            *state, liveness, revived, vq = epoch(*state, jnp.float32(dead))
            total += int(revived.codes)
        share = np.asarray(liveness.count) / np.sum(liveness.count)
        share = share[share > 0]
        return -np.sum(share * np.log(share)), float(vq), total

    without, vq_without, none = train(0.0)
    with_, vq_with, some = train(0.3)
    assert none == 0
    assert some >= 5
    assert with_ > without + 0.7
    assert vq_with < 0.7 * vq_without
