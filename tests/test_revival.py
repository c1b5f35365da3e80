"""Second life of dead codes and charts: who is moved where, what the optimizer forgets, and that it helps."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from controller_runs import bits

from topojax import losses, revival
from topojax.model import make_model
from topojax.optim import make_optimizer
from topojax.revival import Liveness, empty, observe, principal, reset_moments, revive
from topojax.types import Encoding

MODEL = {
    "hidden_dim": 16,
    "latent_dim": 2,
    "num_charts": 4,
    "codes_per_chart": 3,
    "covariant": True,
    "tensorization": "sum",
    "rank": 4,
    "transport": True,
    "gate_bias_init": 1.0,
    "center_scale": 0.3,
    "code_scale": 0.05,
    "ball": True,
    "ball_scale": 1.5,
    "straight_through": "detached",
    "router_gain": 0.0,
    "matmul": "float32",
    "key_offset": 0.0,
    "chart_gain": 0.0,
    "chart_bias": 0.0,
    "jump_rank": 0,
    "class_affinity": 4.0,
    "readout_bundle": 0,
}
FREE = {"router_gain": 3.0, "key_offset": 0.1, "chart_gain": 5.0, "chart_bias": 0.3}
OPTIM = SimpleNamespace(rate="governor", grad_clip=1.0, b1=0.9, b2=0.999, eps=1e-8)
S = (2 / np.pi) ** 0.5
second_life = jax.jit(revive)


@pytest.fixture(scope="module", autouse=True)
def quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def names(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@functools.cache
def made(covariant, **fields):
    model = make_model({**MODEL, "covariant": covariant, **fields}, input_dim=6, num_classes=3)
    return model, jax.jit(model.init)


def tiny(covariant=True, seed=0, **fields):
    model, init = made(covariant, **fields)
    atlas, spectral = init(jax.random.key(seed))
    return model, {"atlas": atlas, "precision": {"recon": jnp.zeros(())}}, spectral


def warm(params, steps=2):
    """An optimizer with moments everywhere, and its state."""
    optimizer = make_optimizer(OPTIM, steps_per_epoch=10)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for k in range(steps):
        grads = jax.tree.map(lambda p, k=k: np.cos(np.arange(p.size) + k).astype(np.float32).reshape(p.shape), params)
        _, state = update(grads, state, params)
    return optimizer, state, grads


def moments(opt_state, params):
    """The moments as trees of the params, zero and the count set apart."""
    out = {}
    for label, inner in opt_state.inner_states.items():
        adam = inner.inner_state[1]
        for name in ("mu", "nu"):
            at = 0
            for path, leaf in names(params).items():
                if ("readout" in path.split("/")) == (label == "readout"):
                    out[name, path] = np.asarray(getattr(adam, name)[at : at + leaf.size]).reshape(leaf.shape)
                    at += leaf.size
            assert at == getattr(adam, name).size
    return out


def seen(count, moment=None, log_router=None):
    """Liveness of given counts [N, K]."""
    count = jnp.asarray(count, jnp.float32)
    charts, codes = count.shape
    start = empty(charts, codes, 2)
    return Liveness(
        count,
        start.moment if moment is None else jnp.asarray(moment, jnp.float32),
        start.log_router if log_router is None else jnp.asarray(log_router, jnp.float32),
    )


USED = np.full((4, 3), 10.0)
FLAT = np.zeros((4, 3, 2, 2))


def one_dead_code():
    """Code 2 of chart 1 is dead; code 0 has the largest error: 10 points of variance 4 along x and 1 along y."""
    count, moment = USED.copy(), FLAT.copy()
    count[1, 2] = 0
    moment[1, 0] = np.diag([40.0, 10.0])
    moment[1, 1] = np.diag([0.0, 30.0])
    return seen(count, moment)


def one_dead_chart(log_router=None):
    """Chart 3 is dead; chart 1 has the largest scatter."""
    count, moment = USED.copy(), FLAT.copy()
    count[3] = 0
    moment[1] = np.diag([4.0, 1.0])
    moment[0] = np.diag([2.0, 2.0])
    return seen(count, moment, log_router)


def test_a_batch_counts_for_its_own_chart_and_code():
    zeros = jnp.zeros
    codebook = zeros((2, 2, 2)).at[1, 0].set(jnp.asarray([1.0, 0.0]))
    encoding = Encoding(
        chart=jnp.asarray([0, 1, 1]),
        code=jnp.asarray([1, 0, 0]),
        v=jnp.asarray([[0.5, 0.0], [3.0, 1.0], [1.0, 2.0]]),
        c_bar=jnp.asarray([[0.0, 0.5], [1.0, 0.0], [0.0, 0.0]]),
        router=jnp.asarray([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]]),
        **dict.fromkeys(("z_n", "z_tex", "z_geo"), zeros((3, 2))),
        **dict.fromkeys(("z_n_all", "z_q_all", "distances"), zeros((3, 2, 2))),
        codes=zeros((3, 2), jnp.int32),
    )
    out = jax.jit(observe)(empty(2, 2, 2), encoding, codebook)
    np.testing.assert_array_equal(out.count, [[0, 1], [2, 0]])
    # residuals (.5, −.5) in chart 0; (1, 1) and (0, 2) in chart 1: sums of outer products
    np.testing.assert_allclose(out.moment[0, 1], [[0.25, -0.25], [-0.25, 0.25]])
    np.testing.assert_allclose(out.moment[1, 0], [[1, 1], [1, 5]])
    assert not np.any(out.moment[0, 0])
    assert not np.any(out.moment[1, 1])
    np.testing.assert_allclose(out.log_router[0], np.log([0.75, 0.25]), rtol=1e-6)
    np.testing.assert_allclose(out.log_router[1], [np.log(0.5) + np.log(1e-37), np.log(0.5)], rtol=1e-6)
    twice = jax.jit(observe)(out, encoding, codebook)
    for a, b in zip(twice, out, strict=True):
        np.testing.assert_allclose(a, 2 * b)


def test_principal_direction_is_that_of_eigh():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 3, 3)).astype(np.float32)
    moment = np.einsum("nij,nkj->nik", root, root) * np.float32(10) ** np.array([-12, -3, 0, 3, 12])[:, None, None]
    u = np.asarray(principal(jnp.asarray(moment, jnp.float32)))
    top = np.linalg.eigh(moment)[1][:, :, -1]
    np.testing.assert_allclose(np.abs(np.sum(u * top, axis=1)), 1, atol=1e-4)
    # Orthogonal to any fixed start but one: no start vector is needed.
    np.testing.assert_allclose(principal(jnp.diag(jnp.asarray([0.0, 1.0]))), [0, 1])
    np.testing.assert_allclose(principal(jnp.zeros((2, 2))), [0, 0])


def test_a_dead_code_parts_the_worst_code_of_its_chart():
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)
    new, new_state, revived = second_life(params, opt_state, one_dead_code(), dead_code=0.5, dead_chart=0.5)
    assert (int(revived.codes), int(revived.charts)) == (1, 0)
    old = np.asarray(params["atlas"]["encoder"]["codebook"])
    expected = old.copy()
    shift = np.array([S * 2.0, 0])  # √(40 / 10) = 2 along x
    expected[1, 2], expected[1, 0] = old[1, 0] + shift, old[1, 0] - shift
    # the sign of u is free: compare the pair as a set
    got = np.asarray(new["atlas"]["encoder"]["codebook"])
    if got[1, 2, 0] < got[1, 0, 0]:
        expected[1, [2, 0]] = expected[1, [0, 2]]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    still = np.ones((4, 3), bool)
    still[1, [0, 2]] = False
    assert got[still].tobytes() == old[still].tobytes()
    for name, leaf in names(params).items():
        if name != "atlas/encoder/codebook":
            assert names(new)[name].tobytes() == leaf.tobytes(), name
    before, after = moments(opt_state, params), moments(new_state, params)
    for key, was in before.items():
        if key[1] == "atlas/encoder/codebook":
            assert np.all(after[key][1, [0, 2]] == 0)
            assert np.all(was[1, [0, 2]] != 0)
            assert after[key][still].tobytes() == was[still].tobytes()
        else:
            assert after[key].tobytes() == was.tobytes(), key


def test_one_code_a_chart_and_none_in_a_chart_without_error():
    count, moment = USED.copy(), FLAT.copy()
    count[0, :2] = 0  # two dead: one is revived
    moment[0, 2] = np.eye(2)
    count[2, 1] = 0
    moment[2, 0] = np.eye(2)
    count[3, 1] = 0  # no error anywhere: nothing to part
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)
    new, _, revived = second_life(params, opt_state, seen(count, moment), dead_code=0.1, dead_chart=0.1)
    assert int(revived.codes) == 2
    differs = np.any(new["atlas"]["encoder"]["codebook"] != params["atlas"]["encoder"]["codebook"], axis=-1)
    np.testing.assert_array_equal(differs, [[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("covariant", [True, False])
def test_a_dead_chart_becomes_a_copy_of_the_most_scattered_one(covariant):
    _, params, _ = tiny(covariant)
    _, opt_state, _ = warm(params)
    new, new_state, revived = second_life(params, opt_state, one_dead_chart(), dead_code=0.0, dead_chart=0.5)
    assert (int(revived.codes), int(revived.charts)) == (0, 1)
    old, now = names(params["atlas"]), names(new["atlas"])
    parted = {"encoder/centers", "decoder/chart_queries" if covariant else "decoder/router/kernel"}
    copied = (revival.CHART_ROWS & set(old)) - parted
    for name, leaf in old.items():
        was, is_ = np.asarray(leaf), np.asarray(now[name])
        if name in parted:  # the two part about where the donor was
            np.testing.assert_allclose(is_[3] + is_[1], 2 * was[1], rtol=1e-5, atol=1e-6, err_msg=name)
            assert np.all(np.any(is_[[3, 1]] != was[1], axis=1)), name
            assert is_[[0, 2]].tobytes() == was[[0, 2]].tobytes(), name
        elif name in copied:
            assert is_[3].tobytes() == was[1].tobytes(), name
            assert is_[:3].tobytes() == was[:3].tobytes(), name
        else:
            assert is_.tobytes() == was.tobytes(), name
    before, after = moments(opt_state, params), moments(new_state, params)
    for (kind, path), was in before.items():
        name = path.removeprefix("atlas/")
        rows = [1, 3] if name in parted else [3] if name in copied else []
        is_ = after[kind, path]
        if rows:
            assert np.all(is_[rows] == 0), path
            assert np.any(was[rows] != 0), path
            kept = np.delete(np.arange(4), rows)
            assert is_[kept].tobytes() == was[kept].tobytes(), path
        else:
            assert is_.tobytes() == was.tobytes(), path


def test_centres_part_along_the_scatter_of_codes_and_points_by_s_sigma():
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)
    codes = jnp.asarray([[0.3, 0.0], [-0.3, 0.0], [0.0, 0.0]])
    params["atlas"]["encoder"]["codebook"] = params["atlas"]["encoder"]["codebook"].at[1].set(codes)
    moment = FLAT.copy()
    moment[1] = np.diag([0.0, 0.1])
    count = USED.copy()
    count[3] = 0
    new, _, revived = second_life(params, opt_state, seen(count, moment), dead_code=0.0, dead_chart=0.5)
    assert int(revived.charts) == 1
    # S = diag(10·.09·2, 3·.1) = diag(1.8, .3): along x, though the points lie along y about their codes;
    # σ² = 1.8 / 30 = .06
    was, now = params["atlas"]["encoder"]["centers"], new["atlas"]["encoder"]["centers"]
    np.testing.assert_allclose(np.abs(now[3] - was[1]), [S * 0.06**0.5, 0], rtol=1e-5, atol=1e-6)


def test_centres_part_across_the_mean_query():
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)
    centers = np.asarray(params["atlas"]["encoder"]["centers"])
    g = np.array([3.0, 4.0])
    log_router = np.zeros((4, 4))
    log_router[1] = 30 * (centers @ g - 7.0)  # 30 points whose scores are ⟨c, g⟩ but for a constant
    new, _, _ = second_life(params, opt_state, one_dead_chart(log_router), dead_code=0.0, dead_chart=0.5)
    step = np.asarray(new["atlas"]["encoder"]["centers"])[3] - centers[1]
    assert abs(step @ g) < 1e-4 * np.linalg.norm(step) * 5
    u = np.array([0.8, -0.6])  # orthogonal to g
    variance = u @ (3 * np.diag([4.0, 1.0]) / 30) @ u
    codes = np.asarray(params["atlas"]["encoder"]["codebook"])[1]
    variance += np.var(codes @ u)
    np.testing.assert_allclose(np.linalg.norm(step), S * variance**0.5, rtol=1e-3)


@pytest.mark.parametrize("covariant", [True, False])
def test_a_split_chart_shares_its_points(covariant):
    model, params, spectral = tiny(covariant, seed=3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(400, 6)), jnp.float32)

    @jax.jit
    def look(params):
        weights, _ = model.normalise(params["atlas"], spectral)
        return observe(empty(4, 3, 2), model.encode(weights, x), weights["encoder"]["codebook"])

    before = look(params)
    used = np.asarray(jnp.sum(before.count, axis=1))
    assert used.min() == 0
    assert used.max() > 100
    dead = int(used.argmin())
    new, _, revived = second_life(
        params, make_optimizer(OPTIM, steps_per_epoch=10).init(params), before, dead_code=0.0, dead_chart=0.5
    )
    assert int(revived.charts) == 1
    now = np.asarray(jnp.sum(look(new).count, axis=1))
    donor = int(np.argmax(used - now))
    assert now[dead] > 0.2 * used[donor]
    assert now[donor] > 0.2 * used[donor]


@pytest.mark.parametrize(
    "what",
    [empty(4, 3, 2), seen(USED, FLAT + np.eye(2)), seen(USED * [[1], [1], [0.2], [0.4]])],
    ids=["no data", "all alive", "rare but above the line"],
)
def test_nothing_dead_is_bit_identical(what):
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)
    new, new_state, revived = second_life(params, opt_state, what, dead_code=0.1, dead_chart=0.1)
    assert bits((new, new_state)) == bits((params, opt_state))
    assert (int(revived.codes), int(revived.charts)) == (0, 0)


def test_zero_thresholds_revive_nothing():
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)
    for what in (one_dead_code(), one_dead_chart()):
        new, new_state, _ = second_life(params, opt_state, what, dead_code=0.0, dead_chart=0.0)
        assert bits((new, new_state)) == bits((params, opt_state))


def test_all_points_in_one_spot_have_nothing_to_part():
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)
    count = np.zeros((4, 3))
    count[2, 1] = 50
    new, _, revived = second_life(params, opt_state, seen(count), dead_code=0.5, dead_chart=0.5)
    assert bits(new) == bits(params)
    assert (int(revived.codes), int(revived.charts)) == (0, 0)


def test_code_and_chart_are_revived_in_one_call():
    count, moment = USED.copy(), FLAT.copy()
    count[3], count[1, 2] = 0, 0
    moment[1, :2] = np.diag([40.0, 10.0])
    _, params, _ = tiny()
    _, opt_state, _ = warm(params)
    new, new_state, revived = second_life(params, opt_state, seen(count, moment), dead_code=0.5, dead_chart=0.5)
    assert (int(revived.codes), int(revived.charts)) == (1, 1)
    codebook = np.asarray(new["atlas"]["encoder"]["codebook"])
    np.testing.assert_array_equal(codebook[3], codebook[1])  # the copy is of the codes after their revival
    assert np.any(codebook[1] != params["atlas"]["encoder"]["codebook"][1])
    after = moments(new_state, params)["mu", "atlas/encoder/codebook"]
    assert np.all(after[3] == 0)
    assert np.all(after[1, [0, 2]] == 0)
    assert np.all(after[1, 1] != 0)


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
    real = {name for covariant in (True, False) for name in names(tiny(covariant, **FREE)[1]["atlas"])}
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
