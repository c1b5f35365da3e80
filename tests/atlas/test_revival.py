"""Second life of dead codes: who is moved where, what the optimizer forgets, and that nothing else moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from controller_runs import bits
from dead_charts import FLAT, USED, moments, names, one_dead_chart, one_dead_code, second_life, seen, tiny, warm

from topojax.atlas.revival import empty, observe, principal
from topojax.types import Encoding

S = (2 / np.pi) ** 0.5


def test_a_batch_counts_for_its_own_chart_and_code():
    zeros = jnp.zeros
    codebook = zeros((2, 2, 2)).at[1, 0].set(jnp.asarray([1.0, 0.0]))
    encoding = Encoding(
        chart=jnp.asarray([0, 1, 1]),
        code=jnp.asarray([1, 0, 0]),
        v_loc=jnp.asarray([[0.5, -0.5], [2.0, 1.0], [1.0, 2.0]]),
        router=jnp.asarray([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]]),
        **dict.fromkeys(("v", "c_bar", "z_n", "z_tex", "z_geo"), zeros((3, 2))),
        **dict.fromkeys(("z_n_all", "z_q_all", "distances", "local", "offset", "places"), zeros((3, 2, 2))),
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
    apart = jnp.full((3, 2, 2), 9.0)  # a coordinate of its own in each chart: that of the chosen one counts
    apart = apart.at[jnp.arange(3), encoding.chart].set(encoding.v_loc)
    each = jax.jit(observe)(empty(2, 2, 2), encoding._replace(v_loc=apart), codebook)
    np.testing.assert_array_equal(each.moment, out.moment)
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
