"""Loss terms by hand, their bounds, and where their gradients go."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topojax.atlas import losses, signals

B, N, K, D = 5, 4, 3, 2
FEW = settings(max_examples=25, deadline=None)


def rows(shape):
    """Points of the simplex along the last axis, corners included."""
    scores = hnp.arrays(np.float32, shape, elements=st.floats(-40, 40, width=32))
    return scores.map(lambda s: np.asarray(jax.nn.softmax(s, axis=-1)))


@functools.cache
def compiled(function):
    return jax.jit(function)


@FEW
@given(rows((B, N)))
def test_entropies_lie_between_zero_and_log_of_the_alphabet(w):
    h_x, h_k = (float(compiled(f)(w)) for f in (losses.routing_entropy, losses.usage_entropy))
    top = math.log(N) + 1e-4  # the floor in the logs costs N · 1e-6
    assert -1e-4 <= h_x <= top
    assert -1e-4 <= h_k <= top
    assert h_x <= h_k + 1e-4  # concavity: I(X;K) ≥ 0
    assert float(compiled(losses.information)(w)) == pytest.approx(h_k - h_x, abs=1e-5)
    assert -1e-4 <= float(compiled(losses.diversity)(w)) <= top
    assert float(compiled(losses.sup_balance)(w)) == pytest.approx(float(compiled(losses.diversity)(w)), abs=1e-4)
    routing = compiled(signals.routing)(w)
    assert routing["I_XK"] >= 0
    assert routing["varentropy"] >= 0


@FEW
@given(rows((B, N)), rows((B, N)))
def test_divergences_are_positive_and_vanish_on_equality(w, other):
    assert float(compiled(losses.consistency)(w, other)) >= -1e-4
    assert float(compiled(losses.consistency)(w, w)) == 0
    there, back = (float(compiled(losses.orbit)(*pair)) for pair in ((w, other), (other, w)))
    assert there == pytest.approx(back, rel=1e-4, abs=1e-5)


def test_overlap_by_hand():
    w, other = jnp.array([[0.5, 0.5], [1.0, 0.0]]), jnp.array([[0.25, 0.75], [1.0, 0.0]])
    assert float(losses.orbit_overlap(w, other)) == pytest.approx(math.log(2) / 2, abs=1e-5)  # −log ½ and −log 1
    apart = jnp.array([[0.0, 1.0]])
    assert float(losses.orbit_overlap(w[1:], apart)) == pytest.approx(-math.log(losses.LOG_FLOOR), rel=1e-5)


def test_overlap_sharpens_where_the_divergence_is_content():
    """Two views that agree on being torn between two charts: the divergence has no gradient there, the overlap has."""
    scores = jnp.array([[0.1, 0.0]])

    def of(loss):
        return jax.grad(lambda s: loss(jax.nn.softmax(s), jax.nn.softmax(s)))(scores)

    assert float(jnp.abs(of(losses.orbit)).max()) < 1e-6
    assert float(of(losses.orbit_overlap)[0, 0]) < -1e-3  # descent raises the likelier chart


def test_entropies_by_hand():
    sharp = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # each point in a chart of its own
    assert float(losses.routing_entropy(sharp)) == pytest.approx(0, abs=1e-5)
    assert float(losses.usage_entropy(sharp)) == pytest.approx(math.log(2), rel=1e-5)
    flat = jnp.full((3, 2), 0.5)
    assert float(losses.information(flat)) == pytest.approx(0, abs=1e-6)
    # KL((¾, ¼) ‖ (½, ½)) = ¾ log 1.5 + ¼ log 0.5 = 0.1308
    assert float(losses.consistency(jnp.array([[0.75, 0.25]]), jnp.array([[0.5, 0.5]]))) == pytest.approx(
        0.1308, abs=1e-4
    )


@pytest.mark.parametrize("scale", (1e-2, 1.0, 30.0))
def test_the_gradient_of_a_log_error_is_that_of_any_scale(scale):
    """∇ log E = ∇E / E: in units of the data, the same push whatever the units and the error reached."""
    x, wrong = jnp.array([[0.2, 0.7], [0.5, 0.1]]), jnp.array([[0.3, -0.1], [0.2, 0.4]])

    def push(scale):
        def loss(factor):
            return losses.log_error(losses.recon(scale * (x + factor * wrong), scale * x))

        return jax.grad(loss)(1.0)

    # E ∝ factor²: d log E / d factor = 2 at 1, but for the floor of 1e-7 beside E = 0.075 · 1e-4
    assert float(push(scale)) == pytest.approx(2.0, rel=0.02 if scale < 1 else 1e-4)
    error = jax.grad(lambda e: losses.log_error(e))(0.25)
    assert float(error) == pytest.approx(4.0, rel=1e-5)
    # A likelihood at its own best variance, up to constants: min_v E/(2 v) + ½ log v = ½ log E + ½, at v = E
    v = np.geomspace(0.01, 10, 20_001)
    assert np.min(0.25 / (2 * v) + 0.5 * np.log(v)) == pytest.approx(
        0.5 * float(losses.log_error(0.25)) + 0.5, abs=1e-6
    )
    assert np.isfinite(losses.log_error(0.0))


def test_window_by_hand():
    sharp = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # I = H(K) = log 2 = 0.6931
    assert losses.window(sharp, 0.5) == 0
    assert float(losses.window(sharp, 1.0)) == pytest.approx((1 - math.log(2)) ** 2, rel=1e-4)
    # with a ceiling of 0.4 the excess of H(K) is penalised, whatever I
    assert float(losses.window(sharp, 0.5, 0.4)) == pytest.approx((math.log(2) - 0.4) ** 2, rel=1e-4)
    assert losses.window(sharp, 0.5, 0.7) == 0
    # Of the first power: the same distance, and a slope of 1 up to the edge.
    assert float(losses.window(sharp, 1.0, power=1)) == pytest.approx(1 - math.log(2), rel=1e-4)
    assert float(losses.window(sharp, 0.5, 0.4, power=1)) == pytest.approx(math.log(2) - 0.4, rel=1e-4)
    assert float(jax.grad(lambda ground: losses.window(sharp, ground, power=1))(0.6932)) == pytest.approx(1.0)


@FEW
@given(rows((B, N)), st.floats(0.0, 2.0, width=32))
def test_window_is_zero_exactly_where_it_is_kept(w, ground):
    value, information = float(compiled(losses.window)(w, ground)), float(compiled(losses.information)(w))
    assert value == pytest.approx(max(ground - information, 0.0) ** 2, rel=1e-4, abs=1e-9)


@FEW
@given(rows((B, N)), hnp.arrays(np.float32, (B, N, K, D), elements=st.floats(-3, 3, width=32)))
def test_code_usage_is_a_distribution_in_every_chart(w, offsets):
    assignment = losses.soft_assignment(jnp.sum(jnp.asarray(offsets) ** 2, axis=-1), 0.5)
    usage, mass = compiled(losses.code_usage)(assignment, w)
    sums = np.sum(usage, axis=1)
    assert np.all(sums <= 1 + 1e-5)
    used = np.sum(w, axis=0) > 1e-2
    np.testing.assert_allclose(sums[used], 1.0, atol=1e-3)
    assert float(np.sum(mass)) == pytest.approx(1.0, abs=1e-5)
    gaps = np.asarray(losses.per_chart_code_entropy(usage))
    assert np.all(gaps >= -1e-4)
    assert np.all(gaps <= math.log(K) + 1e-4)


def test_code_usage_by_hand_and_without_gradient_to_the_router():
    assignment = jnp.zeros((2, 1, 2)).at[0, 0, 0].set(1.0).at[1, 0, 1].set(1.0)  # one chart, a code each
    w = jnp.array([[0.75], [0.25]])
    usage, mass = losses.code_usage(assignment, w)
    np.testing.assert_allclose(usage, [[0.75, 0.25]], atol=1e-5)
    np.testing.assert_array_equal(mass, [1.0])
    # log 2 − H(¾, ¼) = 0.6931 − 0.5623
    np.testing.assert_allclose(losses.per_chart_code_entropy(usage), [0.1308], atol=1e-4)
    assert float(losses.code_entropy(usage, mass)) == pytest.approx(0.1308, abs=1e-4)
    grad = jax.grad(lambda w: losses.per_chart_code_entropy(losses.code_usage(assignment, w)[0])[0])(w)
    np.testing.assert_array_equal(grad, np.zeros((2, 1)))


def test_soft_assignment_is_hard_in_value_and_soft_in_gradient():
    distances = jnp.array([[[0.1, 0.4, 0.9], [2.0, 1.0, 1.5]]])
    np.testing.assert_allclose(losses.soft_assignment(distances, 0.5), [[[1, 0, 0], [0, 1, 0]]], atol=1e-7)
    grad = jax.jit(jax.grad(lambda d: losses.soft_assignment(d, 0.5)[0, 0, 0]))(distances)
    p = np.exp(-np.array([0.1, 0.4, 0.9]) / 0.5)
    p /= p.sum()
    # ∂p_0/∂d_j = −(δ_0j p_0 − p_0 p_j)/T
    np.testing.assert_allclose(grad[0, 0], -(np.array([1, 0, 0]) * p[0] - p[0] * p) / 0.5, rtol=1e-5)
    np.testing.assert_array_equal(grad[0, 1], np.zeros(3))


def test_code_entropy_pulls_codes_to_points():
    """Two points sit on one code: the gradient of the gap moves the other code towards them."""
    points = jnp.array([[1.0, 0.0], [1.0, 0.2]])

    def gap(codes):
        distances = jnp.sum((points[:, None, None] - codes[None, None]) ** 2, axis=-1)
        return losses.per_chart_code_entropy(
            losses.code_usage(losses.soft_assignment(distances, 1.0), jnp.ones((2, 1)))[0]
        )[0]

    codes = jnp.array([[1.0, 0.1], [-0.5, 0.1]])
    assert float(gap(codes)) == pytest.approx(math.log(2), abs=1e-4)
    grad = jax.jit(jax.grad(gap))(codes)
    assert np.isfinite(grad).all()
    assert grad[1, 0] < 0  # descent moves the unused code to the right


def test_hinge_separation_by_hand():
    centers = jnp.array([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]])  # distances 0.5, 5, 4.5
    assert float(losses.hinge_separation(centers, 1.0)) == pytest.approx(0.5 / 3, rel=1e-5)
    assert losses.hinge_separation(centers, 0.25) == 0


def test_coincident_centers_have_finite_gradients():
    equal = jnp.full((B, N), 1 / N)  # as at the start: every chart is the mean of all points
    for function, at in (
        (lambda c: losses.hinge_separation(c, 0.5), jnp.zeros((N, D))),
        (lambda z: losses.hinge_separation(losses.soft_centers(equal, z), 0.5), jnp.ones((B, D))),
        (lambda w: losses.hinge_separation(losses.soft_centers(w, jnp.ones((B, D))), 0.5), equal),
    ):
        value, grad = jax.jit(jax.value_and_grad(function))(at)
        assert float(value) == pytest.approx(0.5, rel=1e-4)
        assert np.isfinite(grad).all()


def test_nearly_coincident_centers_repel():
    centers = jnp.array([[0.0, 0.0], [1e-4, 0.0]])
    grad = jax.jit(jax.grad(lambda c: losses.hinge_separation(c, 0.5)))(centers)
    np.testing.assert_allclose(grad, [[1.0, 0.0], [-1.0, 0.0]], atol=1e-3)


def test_energies_by_hand():
    z = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])  # mean (1, 1), all at distance √2
    assert losses.energy(z) == 2.0
    assert losses.prior(z, 0.5) == 2.25
    assert float(losses.variance(z, 3.0)) == pytest.approx(1.0, abs=1e-5)
    assert losses.variance(z, 1.0) == 0
    assert losses.residual_scale(z) == 4.0  # mean of 0, 4, 4, 8
    assert losses.codebook_center(z[None]) == 2.0  # mean (1, 1)


@FEW
@given(hnp.arrays(np.float32, (B, D), elements=st.floats(-4, 4, width=32)), st.floats(-2, 2, width=32))
def test_energy_ignores_shifts(z, shift):
    assert float(losses.energy(jnp.asarray(z) + shift)) == pytest.approx(float(losses.energy(jnp.asarray(z))), abs=1e-3)


def test_covariance_by_hand():
    a, b = (
        jnp.array([[0.0], [2.0]]),
        jnp.array([[1.0], [5.0]]),
    )  # deviations ∓1 and ∓2: covariance 2, and 4 with 1/(B−1)
    assert losses.covariance_norm(a, b) == 4.0
    assert losses.covariance_norm(a, b, ddof=1) == 16.0
    assert losses.disentangle(a, b, b) == 8.0
    # radii 3 and 5 of z_geo: deviations ∓1
    assert float(losses.disentangle_parity(a, jnp.array([[3.0, 0.0], [3.0, 4.0]]))) == pytest.approx(4.0, rel=1e-5)


def test_vector_quantisation_moves_codes_and_encoder_apart():
    v, z, w = jnp.array([[1.0, 0.0]]), jnp.array([[[0.0, 0.0], [1.0, 2.0]]]), jnp.array([[0.75, 0.25]])
    # ¾ (1 + 0)/2 + ¼ (0 + 4)/2 = 0.875
    assert losses.codebook(v, z, w) == losses.commitment(v, z, w) == 0.875
    for function, moved in ((losses.codebook, 1), (losses.commitment, 0)):
        grads = jax.grad(function, argnums=(0, 1, 2))(v, z, w)
        assert [bool(np.any(g)) for g in grads] == [i == moved for i in range(3)]


def jump_case():
    rng = np.random.default_rng(0)
    jumped, returned = rng.normal(size=(2, B, N, N, D)).astype(np.float32)
    w = rng.dirichlet(np.ones(N), B).astype(np.float32)
    return jumped, rng.normal(size=(B, N, D)).astype(np.float32), w, returned


@pytest.mark.parametrize("cycle", [False, True])
def test_jump_by_loops(cycle):
    jumped, z, w, returned = jump_case()
    w[:, 3] = 0  # a chart that meets no other: its pairs are not counted
    total, count = 0.0, 0
    for i, j in itertools.permutations(range(3), 2):
        error = np.sum((jumped[:, i, j] - z[:, j]) ** 2, axis=-1)
        if cycle:
            error = error + np.sum((returned[:, i, j] - z[:, i]) ** 2, axis=-1)
        total += np.sum(w[:, i] * w[:, j] * error) / np.sum(w[:, i] * w[:, j])
        count += 1
    actual = compiled(losses.jump)(jumped, z, w, returned=returned if cycle else None)
    assert float(actual) == pytest.approx(total / count, rel=1e-4)


def test_jump_of_charts_that_never_meet_is_zero():
    jumped, z, _, returned = jump_case()
    w = np.eye(N, dtype=np.float32)[np.zeros(B, int)]
    value, grad = jax.jit(jax.value_and_grad(lambda w: losses.jump(jumped, z, w, returned=returned)))(w)
    assert value == 0
    assert np.isfinite(grad).all()


def test_a_jump_with_its_way_back_stops_the_gradient_to_its_target():
    jumped, z, w, returned = jump_case()

    def value(z, jumped, returned):
        return losses.jump(jumped, z, w, returned=returned)

    to_z, to_jump, to_return = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(z, jumped, returned)
    np.testing.assert_array_equal(to_z, np.zeros_like(z))
    assert np.any(to_jump)
    assert np.any(to_return)
    original = jax.jit(jax.grad(lambda z: losses.jump(jumped, z, w)))(z)
    assert np.any(original)


def test_supervised_terms_by_hand():
    w, table, label = jnp.eye(2), jnp.array([[0.9, 0.1], [0.5, 0.5]]), jnp.array([0, 1])
    # −(log 0.9 + log 0.5)/2;  ½ H(0.9, 0.1) + ½ log 2 = ½ (0.3251 + 0.6931)
    assert float(losses.sup_route(w, table, label)) == pytest.approx(0.39926, abs=1e-4)
    assert float(losses.class_entropy(w, table)) == pytest.approx(0.50911, abs=1e-4)
    # two ordered pairs of different class with overlap ½ ½ + ½ ½ = ½: ½ · (1 − 1 + ½)² = 1/8 each
    flat = jnp.full((2, 2), 0.5)
    assert float(losses.sup_metric(flat, label, 1.0)) == pytest.approx(0.125, rel=1e-5)
    assert losses.sup_metric(flat, jnp.array([1, 1]), 1.0) == 0
    # softmax of (0, log 3) is (¼, ¾)
    assert float(losses.cross_entropy(jnp.array([[0.0, math.log(3)]]), jnp.array([1]))) == pytest.approx(
        -math.log(0.75), rel=1e-5
    )


def test_latent_metric_by_hand():
    z = jnp.array([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0]])  # distances 0.5, 5, 4.5
    label = jnp.array([0, 1, 1])
    # Pairs of different class are 0-1, twice, and 0-2, twice: relu(1 − ½)² = ¼ and 0
    assert float(losses.sup_metric_latent(z, label, 1.0)) == pytest.approx(0.125, rel=1e-4)
    assert float(losses.sup_metric_latent(z, label, 10.0)) == pytest.approx((0.95**2 + 0.5**2) / 2, rel=1e-4)
    assert losses.sup_metric_latent(z, label, 0.4) == 0
    assert losses.sup_metric_latent(z, jnp.array([2, 2, 2]), 1.0) == 0  # no pair to keep apart


def test_latent_metric_pushes_classes_apart_and_not_points_of_one():
    z, label = jnp.array([[0.0, 0.0], [0.2, 0.0], [0.0, 0.2]]), jnp.array([0, 1, 0])
    grad = jax.jit(jax.grad(lambda z: losses.sup_metric_latent(z, label, 1.0)))(z)
    assert grad[0, 0] > 0  # descent moves the first point to the left,
    assert grad[1, 0] < 0  # the other class to the right,
    assert grad[0, 1] == 0  # and leaves the distance within the class alone
    same = jax.jit(jax.grad(lambda z: losses.sup_metric_latent(z, label, 1.0)))(jnp.zeros((3, 2)))
    assert np.isfinite(same).all()


def test_gram_difference_ignores_rotations_and_shifts():
    z = jax.random.normal(jax.random.key(0), (B, 2))
    turned = z @ jnp.array([[0.6, 0.8], [-0.8, 0.6]]) + 3.0
    assert float(losses.gram_difference(z, turned)) == pytest.approx(0, abs=1e-6)
    # centred ∓1 against ∓2 in one dimension: Gram entries ±1 against ±4
    assert losses.gram_difference(jnp.array([[0.0], [2.0]]), jnp.array([[0.0], [4.0]])) == 9.0


def test_log_singular_variance_by_hand():
    assert float(losses.log_singular_variance(2.0 * jnp.eye(3))) == pytest.approx(0, abs=1e-6)
    # logs 0 and 2: variance 1
    assert float(losses.log_singular_variance(jnp.diag(jnp.array([1.0, math.e**2])))) == pytest.approx(1.0, rel=1e-4)


def test_counts_of_codes_decay_and_follow_the_router():
    counts = jnp.array([[2.0, 0.0], [0.0, 4.0]])
    codes = jnp.array([[0, 1], [1, 1]])
    w = jnp.array([[0.75, 0.25], [0.5, 0.5]])
    new = signals.count(signals.Usage(counts, jnp.float32(3.0)), w, codes, 0.5)
    np.testing.assert_allclose(new.counts, [[1.75, 0.5], [0.0, 2.75]])
    # half of what was, and H(¾, ¼) + log 2 = 0.5623 + 0.6931
    assert float(new.entropy) == pytest.approx(1.5 + 1.2555, abs=1e-4)
    out = signals.code_entropies(jnp.array([[5.0, 5.0], [0.0, 0.0]]))
    np.testing.assert_allclose(out["H_code_in_chart"], [math.log(2)] * 2, rtol=1e-4)  # an unused chart: no evidence
    assert float(out["H_code"]) == pytest.approx(math.log(2), rel=1e-4)


def test_usage_remembers_what_single_batches_cannot_tell():
    """Batches that each lie in one chart: I(X;K) of a batch is 0, of their usage log 2."""
    codes = jnp.zeros((4, 2), jnp.int32)
    batches = [jnp.zeros((4, 2)).at[:, chart].set(1.0) for chart in (0, 1)]
    seen = signals.no_usage(2, 3)
    for w in batches:
        assert float(signals.routing(w)["I_XK"]) == pytest.approx(0, abs=1e-4)
        seen = signals.count(seen, w, codes, 1.0)
    out = signals.usage(seen)
    assert float(out["H_K_usage"]) == pytest.approx(math.log(2), rel=1e-4)
    assert float(out["I_XK_usage"]) == pytest.approx(math.log(2), rel=1e-4)
    # A decay of ½ leaves masses of 2 and 4: H(⅓, ⅔) = 0.6365
    seen = functools.reduce(lambda u, w: signals.count(u, w, codes, 0.5), batches, signals.no_usage(2, 3))
    assert float(signals.usage(seen)["H_K_usage"]) == pytest.approx(0.6365, abs=1e-4)


def test_usage_of_flat_routing_and_of_nothing_carries_no_information():
    flat = signals.count(signals.no_usage(2, 3), jnp.full((4, 2), 0.5), jnp.zeros((4, 2), jnp.int32), 0.9)
    out = signals.usage(flat)
    assert float(out["H_K_usage"]) == pytest.approx(math.log(2), rel=1e-4)
    assert float(out["I_XK_usage"]) == pytest.approx(0, abs=1e-4)
    assert all(np.isfinite(value) for value in signals.usage(signals.no_usage(2, 3)).values())


@FEW
@given(rows((B, N)))
def test_usage_of_one_batch_is_that_batch(w):
    seen = signals.count(signals.no_usage(N, K), w, jnp.zeros((B, N), jnp.int32), 0.9)
    out, batch = signals.usage(seen), compiled(signals.routing)(w)
    assert float(out["H_K_usage"]) == pytest.approx(float(batch["H_K"]), abs=1e-4)
    assert float(out["I_XK_usage"]) == pytest.approx(float(batch["I_XK"]), abs=1e-4)


def test_hard_code_entropies_by_hand():
    # Nearest codes of (chart 0, chart 1): pooled 3 zeros and 3 ones of 2 codes: nothing missing. Chart 0 has two points
    # with codes 0 and 0, log 2 missing; chart 1 has one, which says nothing.
    codes = jnp.array([[0, 1], [0, 1], [1, 0]])
    pooled, within = signals.hard_code_entropies(jnp.array([0, 0, 1]), codes, 2)
    assert float(pooled) == pytest.approx(0, abs=1e-5)
    assert float(within) == pytest.approx(math.log(2), rel=1e-4)
    _, within = signals.hard_code_entropies(jnp.array([0, 1, 0]), codes, 2)  # codes 0 and 1: nothing missing
    assert float(within) == pytest.approx(0, abs=1e-4)


def test_perplexity_counts_the_pairs_in_use():
    assert float(signals.perplexity(jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1]), 2, 2)) == pytest.approx(
        4.0, rel=1e-5
    )
    assert float(signals.perplexity(jnp.array([1, 1]), jnp.array([0, 0]), 2, 2)) == pytest.approx(1.0)
