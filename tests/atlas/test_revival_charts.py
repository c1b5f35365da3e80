"""Second life of a dead chart: which one is copied, and how the two part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dead_charts import FLAT, OPTIM, USED, moments, names, one_dead_chart, second_life, seen, tiny, warm

from topojax.atlas import revival
from topojax.atlas.optim import make_optimizer
from topojax.atlas.revival import empty, observe

S = (2 / np.pi) ** 0.5


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
