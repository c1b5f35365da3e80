"""Loss terms of the atlas, one pure function each (model §5, §7). All in float32, entropies in nats.

Every function returns a scalar that carries gradient. Norms are √(·² + 1e-12): soft centres coincide at the start
and the plain norm has a NaN gradient there.
"""

import functools

import jax
import jax.numpy as jnp

from topojax.atlas.model.unrolled import unrolled
from topojax.types import Array

LOG_FLOOR = 1e-6
_OVERLAP = 1e-4
ERROR_FLOOR = 1e-7
"""Mean squared error, of inputs in [0, 1], below which none is told from none."""


def squared_norm(x: Array) -> Array:
    """‖x‖² along the last axis."""
    if not unrolled(x.shape[-1]):
        return jnp.sum(x**2, axis=-1)
    return functools.reduce(jnp.add, [x[..., i] ** 2 for i in range(x.shape[-1])])


def recon(x_hat: Array, x: Array) -> Array:
    """Mean squared error over batch and inputs, [B, X]."""
    return jnp.mean((x_hat - x) ** 2)


def log_error(error: Array) -> Array:
    """Log of a mean squared error: a Gaussian likelihood at its own best variance, for each ½ X a nat.

      min_σ² [E / (2 σ²) + ½ log σ²] = ½ log E + ½

    Its gradient, ∇E / E, is the same for data of any scale and for any error reached.
    """
    return jnp.log(error + ERROR_FLOOR)


def codebook(v_loc: Array, z_q_all: Array, router: Array) -> Array:
    """Σ_n mean_{b,d} sg(w_bn) (z_q^n − sg v_loc)²: moves the codes ([B, D] or [B, N, D], [B, N, D], [B, N])."""
    w, v = jax.lax.stop_gradient((router, v_loc))
    return jnp.sum(w * squared_norm(z_q_all - _each(v))) / (len(v) * v.shape[-1])


def commitment(v_loc: Array, z_q_all: Array, router: Array) -> Array:
    """Σ_n mean_{b,d} sg(w_bn) (sg z_q^n − v_loc)²: moves the encoder. vq = codebook + β commitment."""
    w, z_q = jax.lax.stop_gradient((router, z_q_all))
    return jnp.sum(w * squared_norm(z_q - _each(v_loc))) / (len(v_loc) * v_loc.shape[-1])


def _each(v_loc: Array) -> Array:
    """What every chart quantises, as [B, N, D] or, the same for all, [B, 1, D]."""
    return v_loc if v_loc.ndim == 3 else v_loc[:, None]


def entropy(p: Array) -> Array:
    """H(p) = −Σ p log(p + 1e-6) along the last axis: [..., N] → [...]."""
    return -jnp.sum(p * jnp.log(p + LOG_FLOOR), axis=-1)


def routing_entropy(router: Array) -> Array:
    """H(K|X) = mean_b H(w_b)."""
    return jnp.mean(entropy(router))


def usage_entropy(router: Array) -> Array:
    """H(K) of the mean usage p = mean_b w_b."""
    return entropy(jnp.mean(router, axis=0))


def information(router: Array) -> Array:
    """I(X;K) = H(K) − H(K|X); the floor in the logs can make it slightly negative."""
    return usage_entropy(router) - routing_entropy(router)


def diversity(router: Array) -> Array:
    """Log N − H(K)."""
    return jnp.log(router.shape[-1]) - usage_entropy(router)


def consistency(router: Array, decoder_router: Array) -> Array:
    """KL(w ‖ w') between the encoder's and the decoder's routing, mean over the batch."""
    ratio = jnp.log((router + LOG_FLOOR) / (decoder_router + LOG_FLOOR))
    return jnp.mean(jnp.sum(router * ratio, axis=-1))


def sync(chart: Array, decoder_router: Array) -> Array:
    """−mean_b log w'_K(z_K): the decoder's surprise, in nats, at the encoder's chart, read off the place in it.

    KL(e_K ‖ w'(z_K)) of the chart [B] chosen and the decoder's routing [B, N] at its place. Averaged over the charts
    that claim a point, k ~ w, it bounds KL(w ‖ Σ_k w_k w'(z_k)) from above.
    """
    own = jnp.take_along_axis(decoder_router, chart[:, None], axis=1)[:, 0]
    return -jnp.mean(jnp.log(own + LOG_FLOOR))


def orbit(router: Array, augmented: Array) -> Array:
    """½ [KL(w‖w_aug) + KL(w_aug‖w)] between routings of a point and of its transform."""
    return 0.5 * (consistency(router, augmented) + consistency(augmented, router))


def orbit_overlap(router: Array, augmented: Array) -> Array:
    """−mean_b log⟨w, w_aug⟩ in nats, 0 where both are one chart for certain (van Gansbeke et al. 2020, SCAN).

    Unlike a divergence it is not least at uniform routings, so it may act before charts are grounded.
    """
    return -jnp.mean(jnp.log(jnp.sum(router * augmented, axis=-1) + LOG_FLOOR))


def window(router: Array, ground: Array, ceiling: Array | None = None, *, power: int = 2) -> Array:
    """relu(ε − I)^p, and with a ceiling (the literal theorem's other half) + relu(H(K) − ceiling)^p (theory 1.3).

    p = 2 is the original, whose force fades at the edge; of p = 1 it is the same up to there.
    """
    loss = jax.nn.relu(ground - information(router)) ** power
    if ceiling is not None:
        loss = loss + jax.nn.relu(usage_entropy(router) - ceiling) ** power
    return loss


def energy(z: Array) -> Array:
    """E‖z − mean‖² of [B, D]: the trace of the batch covariance."""
    return jnp.mean(jnp.sum((z - jnp.mean(z, axis=0, keepdims=True)) ** 2, axis=-1))


def variance(z_geo: Array, target: Array) -> Array:
    """relu(target − E‖z_geo − mean‖² + 1e-6), target = σ²D."""
    return jax.nn.relu(target - energy(z_geo) + 1e-6)


def prior(z: Array, target: Array) -> Array:
    """(E‖z − mean‖² − target)²: the radial energy prior of one of z_n, z_tex."""
    return (energy(z) - target) ** 2


def soft_centers(router: Array, z_geo: Array) -> Array:
    """m_k = Σ_b w_bk z_geo / (Σ_b w_bk + 1e-6): [N, D]."""
    return (router.T @ z_geo) / (jnp.sum(router, axis=0)[:, None] + 1e-6)


def hinge_separation(centers: Array, margin: Array) -> Array:
    """mean_{i<j} relu(margin − ‖m_i − m_j‖) of [N, D]."""
    charts = centers.shape[0]
    squared = jnp.sum((centers[:, None] - centers[None]) ** 2, axis=-1)
    hinge = jax.nn.relu(margin - jnp.sqrt(squared + 1e-12))
    return jnp.sum(jnp.triu(hinge, 1)) / (charts * (charts - 1) / 2)


def codebook_center(codes: Array) -> Array:
    """mean_n ‖mean_k E_nk‖² of [N, K, D]: codes are offsets, so their mean belongs to the chart centre."""
    return jnp.mean(jnp.sum(jnp.mean(codes, axis=1) ** 2, axis=-1))


def residual_scale(z_n: Array) -> Array:
    """mean_b ‖z_n‖²."""
    return jnp.mean(jnp.sum(z_n**2, axis=-1))


def covariance_norm(a: Array, b: Array, *, ddof: int = 0) -> Array:
    """‖Cov(a, b)‖_F² of [B, P] and [B, Q]."""
    a = a - jnp.mean(a, axis=0, keepdims=True)
    b = b - jnp.mean(b, axis=0, keepdims=True)
    return jnp.sum((a.T @ b / (a.shape[0] - ddof)) ** 2)


def disentangle(router: Array, z_n: Array, z_tex: Array) -> Array:
    """‖Cov(w, z_n)‖² + ‖Cov(w, z_tex)‖²: macro and nuisance independent (theory 1.6, B10)."""
    return covariance_norm(router, z_n) + covariance_norm(router, z_tex)


def disentangle_parity(router: Array, z_geo: Array) -> Array:
    """‖Cov(w, ‖z_geo‖)‖² with 1/(B − 1), the original's form: it penalises the geometry of the atlas itself."""
    radius = jnp.sqrt(jnp.sum(z_geo**2, axis=-1, keepdims=True) + 1e-12)
    return covariance_norm(router, radius, ddof=1)


def gram_difference(z: Array, z_aug: Array) -> Array:
    """Mean squared difference of the Gram matrices z zᵀ/D of the centred views, [B, D] (VICReg's invariance)."""

    def gram(a: Array) -> Array:
        a = a - jnp.mean(a, axis=0, keepdims=True)
        return a @ a.T / a.shape[1]

    return jnp.mean((gram(z) - gram(z_aug)) ** 2)


def soft_assignment(distances: Array, temperature: Array) -> Array:
    """Straight-through code assignment: one-hot argmin in value, softmax(−d²/T) in gradient, [B, N, K]."""
    distances = jnp.moveaxis(distances, 0, -1)  # batch last
    soft = jax.nn.softmax(-distances / temperature, axis=1)
    hard = jax.nn.one_hot(jnp.argmin(distances, axis=1), distances.shape[1], axis=1)
    return jnp.moveaxis(soft + jax.lax.stop_gradient(hard - soft), -1, 0)


def code_usage(assignment: Array, router: Array) -> tuple[Array, Array]:
    """Code usage within each chart, weighted by sg(w): [N, K], rows of used charts sum to 1; and chart masses [N]."""
    w = jax.lax.stop_gradient(router).T
    mass = jnp.sum(w, axis=1)
    counts = jnp.einsum("nkb,nb->nk", jnp.moveaxis(assignment, 0, -1), w)
    return counts / (mass[:, None] + LOG_FLOOR), mass / jnp.sum(mass)


def per_chart_code_entropy(usage: Array) -> Array:
    """Log K − H(code | chart n) for every chart: [N, K] → [N]."""
    return jnp.log(usage.shape[-1]) - entropy(usage)


def code_entropy(usage: Array, mass: Array) -> Array:
    """Log K − H of code usage pooled over charts by their mass: [N, K], [N] → scalar.

    Code k of one chart and of another are unrelated symbols (theory B21): a metric of the original, off by default.
    """
    return jnp.log(usage.shape[-1]) - entropy(mass @ usage)


def log_singular_variance(matrix: Array, *, ddof: int = 0) -> Array:
    """Variance of log max(s, 1e-6) over the singular values s of one matrix: 0 where it is isotropic.

    Biased, unlike the original's (ddof = 1), which is NaN for a single singular value (theory A7).
    """
    values = jnp.linalg.svd(matrix, compute_uv=False)
    return jnp.var(jnp.log(jnp.maximum(values, LOG_FLOOR)), ddof=ddof)


def jump(jumped: Array, z_n_all: Array, router: Array, *, returned: Array | None = None) -> Array:
    """Consistency of the jump operators over the overlaps of charts (model §5).

    mean over ordered pairs i ≠ j with Σ_b w_i w_j ≥ 1e-4 of Σ_b w_i w_j ‖L_{i→j} z_n^i − z_n^j‖² / Σ_b w_i w_j.

    Args:
      jumped: L_{i→j} z_n^i, [B, N, N, D].
      z_n_all: [B, N, D].
      router: [B, N].
      returned: i → j → i, [B, N, N, D]. Given, the target z_n^j is detached (else z_n → 0 is the trivial minimum) and
        the cycle error ‖L_{j→i} L_{i→j} z − z‖² is added (theory 1.11, B23). None is the original.
    """
    charts = router.shape[1]
    target = z_n_all if returned is None else jax.lax.stop_gradient(z_n_all)
    error = squared_norm(jumped - target[:, None])
    if returned is not None:
        error = error + squared_norm(returned - target[:, :, None])
    w = router.T  # batch last from here on: sums over it are runs over memory
    overlap = w[:, None] * w[None]
    mass = jnp.sum(overlap, axis=-1)
    pair = jnp.sum(overlap * jnp.moveaxis(error, 0, -1), axis=-1) / (mass + LOG_FLOOR)
    counted = (mass >= _OVERLAP) & ~jnp.eye(charts, dtype=bool)
    return jnp.sum(jnp.where(counted, pair, 0.0)) / jnp.maximum(jnp.sum(counted), 1)


def sup_route(router: Array, class_table: Array, label: Array) -> Array:
    """Negative log likelihood of P(y|x) = w P(y|k), +1e-8 inside the log; over the examples with a label."""
    probability = jnp.take_along_axis(router @ class_table, label[:, None], axis=1)[:, 0]
    return -over_labelled(jnp.log(probability + 1e-8), label)


def class_entropy(router: Array, class_table: Array) -> Array:
    """Σ_k p_k H(Y|k) under the learned table: purity, and the class entropy that the temperature holds."""
    p = jnp.mean(router, axis=0)
    return jnp.sum(p * -jnp.sum(class_table * jnp.log(class_table + 1e-8), axis=-1))


def sup_balance(router: Array) -> Array:
    """KL(p ‖ uniform): the functional of `diversity` under another name (theory B8)."""
    p = jnp.mean(router, axis=0)
    return jnp.sum(p * (jnp.log(p + 1e-8) + jnp.log(router.shape[-1])))


def sup_metric(router: Array, label: Array, margin: Array) -> Array:
    """Overlap o = ⟨w_i, w_j⟩ of pairs of different class: Σ o relu(m − 1 + o)² / (#pairs + 1e-8)."""
    overlap = router @ router.T
    different = differing(label).astype(overlap.dtype)
    return jnp.sum(different * overlap * jax.nn.relu(margin - 1.0 + overlap) ** 2) / (jnp.sum(different) + 1e-8)


def sup_metric_latent(z_geo: Array, label: Array, margin: Array) -> Array:
    """Mean over pairs of different class of relu(1 − ‖z_i − z_j‖/margin)²: the theory's geodesic separation.

    The margin is a length here, λ_wfr by the report, where in `sup_metric` it is a router overlap (theory 1.10).
    """
    squared = jnp.sum((z_geo[:, None] - z_geo[None]) ** 2, axis=-1)
    hinge = jax.nn.relu(1.0 - jnp.sqrt(squared + 1e-12) / margin) ** 2
    different = differing(label).astype(hinge.dtype)
    return jnp.sum(different * hinge) / (jnp.sum(different) + 1e-8)


def cross_entropy(logits: Array, label: Array) -> Array:
    """Mean cross entropy of [B, C] logits over the examples with a label: the readout's own loss."""
    label = label[:, None]
    return -over_labelled(jnp.take_along_axis(jax.nn.log_softmax(logits), label, axis=1), label)


def over_labelled(value: Array, label: Array) -> Array:
    """Mean of values, of the labels' shape, over the examples whose label is known, ≥ 0; 0 where none is.

    Where all are known it is their mean, bit for bit: the factor is then 1.
    """
    known = label >= 0
    return jnp.mean(jnp.where(known, value, 0.0)) * (label.shape[0] / jnp.maximum(jnp.sum(known), 1))


def differing(label: Array) -> Array:
    """Pairs of examples of different class, both known: [B, B] bool."""
    known = label >= 0
    return (label[:, None] != label[None, :]) & known[:, None] & known[None, :]
