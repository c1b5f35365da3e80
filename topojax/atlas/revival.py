"""Dead codes and charts get a second life: they take over half of the most scattered one of their kind.

A code that no point is nearest to, or a chart that no point is routed to, gets no gradient and stays dead. The remedy
of CodebookLiveness (theory 1.6) moves it onto the one with the largest total squared error and parts the two along the
top principal direction u of its points, by s = √(2/π) σ to either side, σ² the variance along u.

Why s: points of symmetric law x along u have, from the nearer of ±s, E(|x| − s)² = σ² − 2s E|x| + s², least at
s = E|x| (0.80 σ Gaussian, 0.87 σ uniform) and less than σ² up to twice that.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from topojax.atlas.optim import labels
from topojax.types import Array, Encoding, Params

CHART_ROWS = frozenset(
    {
        "encoder/centers",
        "encoder/codebook",
        "encoder/key_offsets",
        "encoder/values/kernel",  # in discs
        "encoder/values/bias",
        "decoder/chart_bias",
        "decoder/chart_queries",  # covariant
        "decoder/router/kernel",  # not covariant
        "decoder/router/bias",  # not covariant
        "decoder/projectors/kernel",
        "jump/c",
        "jump/d",
        "jump/down/kernel",
        "jump/up/kernel",
        "supervised/table",
        "readout/logits",
        "readout/slope",
        "readout/bias",
    }
)
"""Leaves of the atlas with one row a chart; the chart axis is the first of each."""

SPREAD = (2.0 / jnp.pi) ** 0.5
"""s / σ of a split."""

_SQUARINGS = 6  # M^64: 64 power iterations without a starting vector
_LOG_FLOOR = 1e-37  # of float32's normal numbers
_READABLE = -50.0  # mean log w under which many points may sit on that floor
_TINY = 1e-12  # of a squared length: less is rounding
_HIGHEST = jax.lax.Precision.HIGHEST


class Liveness(NamedTuple):
    """Sums over the points hard-assigned to a chart and its code since the last revival.

    Attributes:
      count: shape=(N, K), float32, points.
      moment: shape=(N, K, D, D), float32, Σ (v_loc − e)(v_loc − e)ᵀ about the code e of the time.
      log_router: shape=(N, N), float32, Σ log w over the points of chart n: where its queries look (see `revive`).
    """

    count: Array  # type: ignore[assignment]  # tuple.count is not missed
    moment: Array
    log_router: Array


class Revived(NamedTuple):
    """How many of each a call has revived, scalars, int32: codes at most one a chart, charts at most one."""

    codes: Array
    charts: Array


def empty(charts: int, codes: int, latent: int) -> Liveness:
    """Nothing seen yet, for N charts of K codes in D dimensions."""
    shapes = ((charts, codes), (charts, codes, latent, latent), (charts, charts))
    return Liveness(*(jnp.zeros(shape, jnp.float32) for shape in shapes))


def observe(liveness: Liveness, encoding: Encoding, codebook: Array) -> Liveness:
    """Add a batch; every point counts for its own chart and code only.

    Args:
      liveness: so far.
      encoding: of B points.
      codebook: shape=(N, K, D), of the weights that made the encoding.
    """
    charts, codes, _ = codebook.shape
    v_loc = encoding.v_loc
    if v_loc.ndim == 3:
        v_loc = jnp.take_along_axis(v_loc, encoding.chart[:, None, None], axis=1)[:, 0]
    residual = v_loc - codebook[encoding.chart, encoding.code]
    chart = jax.nn.one_hot(encoding.chart, charts)
    assigned = chart[:, :, None] * jax.nn.one_hot(encoding.code, codes)[:, None, :]
    log_router = jnp.log(jnp.maximum(encoding.router, _LOG_FLOOR))
    new = Liveness(
        liveness.count + jnp.sum(assigned, axis=0),
        liveness.moment + jnp.einsum("bnk,bi,bj->nkij", assigned, residual, residual),
        liveness.log_router + jnp.einsum("bn,bm->nm", chart, log_router),
    )
    return jax.lax.stop_gradient(new)


def revive(
    params: Params, opt_state: Any, liveness: Liveness, *, dead_code: float, dead_chart: float
) -> tuple[Params, Any, Revived]:
    """Revive at most one code in every live chart and at most one chart; the optimizer forgets what has moved.

    Codes: the least used code of a live chart, if its points are fewer than dead_code times the chart's mean over its
    K codes, becomes e + s u, and the donor e − s u: the chart's code with the largest Σ‖v_loc − e‖².

    Charts: the least used, if its share of the points is below dead_chart / N, becomes a copy of the live chart with
    the largest scatter S = Σ_k M_k + n_k (e_k − ē)(e_k − ē)ᵀ; the centres part by ± s u. Scores are linear in a centre,
    ⟨c, g(x)⟩ with no offset, so the two split the donor's points at ⟨u, g⟩ = 0: u is the top direction of S orthogonal
    to the mean g, or one of the two would take nearly all; g is read off log w_i − log w_j = ⟨c_i − c_j, g⟩.
    The decoder's queries part likewise, by ± s W u orthogonal to the query at the donor's mean: deterministic, small,
    and towards the same side as the centres.

    Deviations from theory 1.6: dead is relative to the mean usage, not 1e-4; any number of calls may be needed where
    many are dead. Power-iteration vectors are not copied: three iterations a step find a copied row's own.

    Args:
      params: {"atlas": ..., maybe "precision"}.
      opt_state: of `topojax.optim.make_optimizer`.
      liveness: since the last revival; start an `empty` one afterwards.
      dead_code: fraction of the chart's mean code usage, in [0, 1); 0 revives no code.
      dead_chart: fraction of the mean chart usage, in [0, 1); 0 revives no chart.

    Returns:
      params and opt_state, bit-identical if nothing is dead, and the counts.
    """
    atlas = params["atlas"]
    used = jnp.sum(liveness.count, axis=1)
    total = jnp.sum(used)
    live = (used >= dead_chart * total / used.shape[0]) & (used > 0)
    codebook, moved, codes = _split_codes(atlas["encoder"]["codebook"], liveness, live, dead_code)
    atlas = {**atlas, "encoder": {**atlas["encoder"], "codebook": codebook}}
    dead = jnp.argmin(used)
    wanted = (total > 0) & (used[dead] < dead_chart * total / used.shape[0])
    atlas, mask, chart = _split_chart(atlas, liveness, live, dead, wanted)
    mask["encoder"]["codebook"] |= moved
    untouched = {name: jax.tree.map(lambda x: jnp.zeros(x.shape, bool), params[name]) for name in params}
    opt_state = reset_moments(opt_state, params, {**untouched, "atlas": mask})
    return {**params, "atlas": atlas}, opt_state, Revived(codes, chart)


def reset_moments(opt_state: Any, params: Params, mask: Params) -> Any:
    """Zero Adam's first and second moment where the mask is true; elsewhere and its count, bit-identical.

    The count stays, so bias is not corrected anew: under a constant gradient the step of what was reset is
    (1 − b1^t) / √(1 − b2^t) times the rate, about 6 at t = 10 for 0.9 and 0.999, before it comes down to 1.

    Args:
      opt_state: of `topojax.optim.make_optimizer`: one flat vector of moments for each label.
      params: the params it is of.
      mask: tree of the params with bool leaves of their shapes.
    """
    of = jax.tree.leaves(labels(params))
    flat = [leaf.reshape(-1) for leaf in jax.tree.leaves(mask)]

    def reset(label: str, state: Any) -> Any:
        here = jnp.concatenate([m for m, name in zip(flat, of, strict=True) if name == label])

        def adam(node: Any) -> Any:
            if not isinstance(node, optax.ScaleByAdamState):
                return node
            return node._replace(mu=jnp.where(here, 0.0, node.mu), nu=jnp.where(here, 0.0, node.nu))

        return jax.tree.map(adam, state, is_leaf=lambda node: isinstance(node, optax.ScaleByAdamState))

    return opt_state._replace(inner_states={k: reset(k, state) for k, state in opt_state.inner_states.items()})


def principal(moment: Array) -> Array:
    """Top eigenvector of positive semi-definite matrices [..., D, D] → unit vectors [..., D], zero for a zero matrix.

    By repeated squaring, M ← M² / tr M², and the column of the largest diagonal entry.
    """

    def scaled(m: Array) -> Array:
        trace = jnp.trace(m, axis1=-2, axis2=-1)[..., None, None]
        return m / jnp.where(trace > 0, trace, 1.0)

    def square(_: int, m: Array) -> Array:
        return scaled(jnp.matmul(m, m, precision=_HIGHEST))

    power = jax.lax.fori_loop(0, _SQUARINGS, square, scaled(moment))
    column = jnp.argmax(jnp.diagonal(power, axis1=-2, axis2=-1), axis=-1)
    u = jnp.take_along_axis(power, column[..., None, None], axis=-1)[..., 0]
    norm = jnp.sqrt(jnp.sum(u**2, axis=-1, keepdims=True))
    return u / jnp.where(norm > 0, norm, 1.0)


def _shift(u: Array, moment: Array, count: Array) -> Array:
    """S u of a split: u [..., D], moment [..., D, D], count [...]."""
    variance = jnp.einsum("...i,...ij,...j->...", u, moment, u, precision=_HIGHEST) / jnp.maximum(count, 1.0)
    return SPREAD * jnp.sqrt(jnp.maximum(variance, 0.0))[..., None] * u


def _split_codes(codebook: Array, liveness: Liveness, live: Array, dead_code: float) -> tuple[Array, Array, Array]:
    """The new codebook, what has moved in it [N, K, D] and the number of codes revived."""
    count, moment = liveness.count, liveness.moment
    index = jnp.arange(count.shape[1])[None, :]
    least = jnp.argmin(count, axis=1, keepdims=True)
    error = jnp.where(index == least, -1.0, jnp.trace(moment, axis1=2, axis2=3))
    donor = jnp.argmax(error, axis=1, keepdims=True)
    # Not finite is not > 0: a chart with a spoilt moment waits for the next call.
    largest = jnp.max(error, axis=1)
    wanted = live & (jnp.min(count, axis=1) < dead_code * jnp.mean(count, axis=1)) & (largest > 0)

    spread = jnp.take_along_axis(moment, donor[:, :, None, None], axis=1)[:, 0]
    points = jnp.take_along_axis(count, donor, axis=1)[:, 0]
    code = jnp.take_along_axis(codebook, donor[:, :, None], axis=1)
    shift = _shift(principal(spread), spread, points)[:, None, :]
    is_dead = ((index == least) & wanted[:, None])[:, :, None]
    is_donor = ((index == donor) & wanted[:, None])[:, :, None]
    moved = jnp.broadcast_to(is_dead | is_donor, codebook.shape)
    codebook = jnp.where(is_dead, code + shift, jnp.where(is_donor, code - shift, codebook))
    return codebook, moved, jnp.sum(wanted, dtype=jnp.int32)


def _split_chart(
    atlas: Params, liveness: Liveness, live: Array, dead: Array, wanted: Array
) -> tuple[Params, Params, Array]:
    """The atlas with chart `dead` revived if wanted and possible, what has moved in it, and 1 or 0."""
    centers, codebook = atlas["encoder"]["centers"], atlas["encoder"]["codebook"]
    used = jnp.sum(liveness.count, axis=1)
    mean = jnp.einsum("nk,nki->ni", liveness.count, codebook) / jnp.maximum(used, 1.0)[:, None]
    around = codebook - mean[:, None, :]
    scatter = jnp.sum(liveness.moment, axis=1) + jnp.einsum("nk,nki,nkj->nij", liveness.count, around, around)
    index = jnp.arange(used.shape[0])
    error = jnp.where(live & (index != dead), jnp.trace(scatter, axis1=1, axis2=2), -1.0)
    donor = jnp.argmax(error)
    wanted = wanted & (error[donor] > _TINY * used[donor])

    look = _mean_look(centers, liveness.log_router[donor] / jnp.maximum(used[donor], 1.0))
    across = jnp.eye(look.shape[0]) - look[:, None] * look[None, :]
    sideways = across @ scatter[donor] @ across
    some = jnp.trace(sideways) > 1e-6 * jnp.trace(scatter[donor])  # none in one dimension
    u = principal(jnp.where(some, sideways, scatter[donor]))
    shift = _shift(u, scatter[donor], used[donor])
    shifts = {"encoder/centers": shift, **_decoder_shift(atlas["decoder"], centers[donor] + mean[donor], shift)}

    def split(path: tuple, leaf: Array) -> tuple[Array, Array]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name not in CHART_ROWS:
            return leaf, jnp.zeros(leaf.shape, bool)
        column = index.reshape(-1, *(1,) * (leaf.ndim - 1))
        touched = wanted & (column == dead)
        row = leaf[donor][None]
        if name in shifts:
            part = shifts[name][None]
            new = jnp.where(touched, row + part, jnp.where(wanted & (column == donor), row - part, leaf))
            touched |= wanted & (column == donor)
        else:
            new = jnp.where(touched, row, leaf)
        return new, jnp.broadcast_to(touched, leaf.shape)

    both = jax.tree_util.tree_map_with_path(split, atlas)
    new, mask = jax.tree.transpose(jax.tree.structure(atlas), jax.tree.structure((0, 0)), both)
    return new, mask, wanted.astype(jnp.int32)


def _mean_look(centers: Array, log_router: Array) -> Array:
    """Unit vector along g of log w_n = ⟨c_n, g⟩ + const in least squares: centres [N, D], mean log w [N] → [D].

    Charts so far off that their weight underflows say nothing.
    """
    weight = (log_router > _READABLE).astype(jnp.float32)[:, None]
    around = weight * (centers - jnp.sum(weight * centers, axis=0, keepdims=True) / jnp.maximum(jnp.sum(weight), 1.0))
    matrix = jnp.einsum("ni,nj->ij", around, around, precision=_HIGHEST)
    # Conjugate gradients: exact in D steps, least norm where N − 1 < D, and no LAPACK.
    g, _ = jax.scipy.sparse.linalg.cg(matrix, log_router @ around, maxiter=centers.shape[1])
    return g / jnp.maximum(jnp.linalg.norm(g), _TINY)


def _decoder_shift(decoder: Params, place: Array, shift: Array) -> dict[str, Array]:
    """± of the decoder's query row of a split chart: s W u without its part along the query at the chart's place.

    The query without its Christoffel term, transport and spectral norm: the split need not halve the points, since the
    consistency loss takes the decoder to the encoder's.
    """
    zeta = jnp.tanh(place)
    if "chart_queries" in decoder:
        name, linear = "decoder/chart_queries", decoder["router"]["query_z"]
        query, part = linear["kernel"] @ zeta + linear["bias"], linear["kernel"] @ shift
    else:
        name, query, part = "decoder/router/kernel", zeta, shift
    along = jnp.dot(part, query) / jnp.maximum(jnp.dot(query, query), _TINY)
    return {name: part - along * query}
