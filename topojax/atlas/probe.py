"""What one update did to a fixed probe batch: scaling exponents, churn, latent speed, ratios of gradients.

θ⁻ and θ are one update apart, so every number is per update and no earlier parameters need to be stored.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from topojax.atlas import losses
from topojax.atlas.geometry import potential as potential
from topojax.atlas.geometry import speed
from topojax.atlas.model import Model
from topojax.types import Array, Decoding, Encoding, Outputs, Params, Spectral

_FLOOR = 1e-12  # under a norm that is divided by


class Drift(NamedTuple):
    """The four scales of theory 1.4 and how far the latent moved; float32 scalars, gradients stopped, per update."""

    alpha: Array  # λ RMS ‖∇_z V‖ at θ, nats: what there is to learn within one length
    beta: Array  # mean KL(w_θ ‖ w_θ⁻), nats: change of the routing
    gamma: Array  # RMS ‖Δ Dec(z₀)‖ / RMS ‖x‖ at fixed z₀: change of the decoder alone
    delta: Array  # RMS ‖Δ z_geo‖ / λ: change of the representation
    chart_churn: Array  # fraction of points with another chart
    code_churn: Array  # fraction of points with another (chart, code)
    speed_mean: Array  # d_G of Δ z_geo: mean,
    speed_p95: Array  # 95th percentile (nearest rank),
    speed_max: Array  # and largest


class Passes(NamedTuple):
    """The probe batch through the atlas before and after an update."""

    before: Encoding
    after: Outputs
    weights: Params  # θ, spectrally normalised
    images: Array  # shape=(2, P, X): Dec_θ⁻(z₀) and Dec_θ(z₀) at z₀ = z_geo(x; θ⁻), no texture
    second: Encoding | None = None  # of the second view, after


def passes(
    model: Model,
    before: tuple[Params, Spectral],
    after: tuple[Params, Spectral],
    x: Array,
    view: Array | None = None,
) -> Passes:
    """Run the probe batch under θ⁻ and θ: one model in the graph, scanned over both.

    Args:
      model: the atlas.
      before: raw parameters and power-iteration vectors of the atlas, θ⁻.
      after: θ.
      x: the probe batch, [P, X].
      view: a second view of it, to be encoded too.
    """
    points = x.shape[0]
    # As two vectors: a stack of each leaf would be a kernel of each to compile.
    _, unravel = ravel_pytree(before)
    stacked = jnp.stack([ravel_pytree(tree)[0] for tree in (before, after)])
    seen = x if view is None else jnp.concatenate([x, view])
    z_geo = jax.eval_shape(model.encode, before[0], x).z_geo

    def run(start: tuple[Array, Array], one: Array) -> tuple[tuple[Array, Array], Any]:
        z_0, started = start
        weights, _ = model.normalise(*unravel(one))
        whole = model.encode(weights, seen)
        e = whole if view is None else jax.tree.map(lambda leaf: leaf[:points], whole)
        z_0 = jnp.where(started, z_0, e.z_geo)
        texture = jnp.concatenate([e.z_tex, jnp.zeros_like(e.z_tex)])
        decoding = model.decode(weights, jnp.concatenate([e.z_geo, z_0]), texture)
        return (z_0, jnp.ones_like(started)), (whole, decoding, weights)

    start = (jnp.zeros(z_geo.shape), jnp.zeros((), bool))
    _, (encodings, decodings, weights) = jax.lax.scan(run, start, stacked)
    old, new = (jax.tree.map(lambda leaf, i=i: leaf[i], encodings) for i in (0, 1))
    weights, second = jax.tree.map(lambda leaf: leaf[1], weights), None
    if view is not None:
        second = jax.tree.map(lambda leaf: leaf[points:], new)
        old, new = (jax.tree.map(lambda leaf: leaf[:points], e) for e in (old, new))
    dream = Decoding(*(leaf[1, :points] for leaf in decodings))
    return Passes(old, Outputs(new, dream), weights, decodings.x_hat[:, points:], second)


def drift(two: Passes, x: Array, *, metric: Array, length: Array, potential: Callable[[Array], Array]) -> Drift:
    """Measure one update on a probe batch (theory 1.4, 1.5).

      δ = RMS ‖z_geo(x; θ) − z_geo(x; θ⁻)‖ / λ
      γ = RMS ‖Dec_θ(z₀) − Dec_θ⁻(z₀)‖ / RMS ‖x‖,   z₀ = z_geo(x; θ⁻), no texture, the decoder's own routing
      β = E_x KL(w_θ ‖ w_θ⁻)
      α = λ RMS ‖∇_z V‖ at z_geo(x; θ)

    The healthy order is δ ≪ γ ≪ α and β ≤ α. The metric is taken as it is, not at each step's midpoint: it is one
    matrix for the batch.

    Args:
      two: of `passes`.
      x: the probe batch, [P, X].
      metric: G [D, D].
      length: λ, scalar > 0.
      potential: V of θ, z [P, D] ↦ [P], as `potential` builds it.

    Returns:
      A `Drift`; not finite where a pass is not.
    """
    old, encoding, images = two.before, two.after.encoding, two.images
    dz = encoding.z_geo - old.z_geo
    speeds = jnp.sort(speed(metric, dz))
    points = speeds.shape[0]
    slope = jax.grad(lambda z: jnp.sum(potential(z)))(encoding.z_geo)
    other_chart = encoding.chart != old.chart
    out = Drift(
        alpha=length * _rms(slope),
        beta=jnp.mean(_divergence(encoding.router, old.router)),
        gamma=_rms(images[1] - images[0]) / jnp.maximum(_rms(x), _FLOOR),
        delta=_rms(dz) / length,
        chart_churn=jnp.mean(other_chart.astype(jnp.float32)),
        code_churn=jnp.mean((other_chart | (encoding.code != old.code)).astype(jnp.float32)),
        speed_mean=jnp.mean(speeds),
        speed_p95=speeds[-(-95 * points // 100) - 1],
        speed_max=speeds[-1],
    )
    return jax.lax.stop_gradient(out)


def _rms(rows: Array) -> Array:
    """√ mean_b ‖row_b‖² of [B, ...]."""
    return jnp.sqrt(jnp.mean(jnp.sum(rows**2, axis=-1)))


def _divergence(w: Array, old: Array) -> Array:
    """KL(w ‖ w⁻) of rows [B, N] → [B], with the usual floor under both.

    As Σ (w + ε)(u − log(1 + u)), u = (w⁻ − w)/(w + ε): no term is negative, and a small change, here the rule, is not
    lost in the rounding of a logarithm near 1.
    """
    u = (old - w) / (w + losses.LOG_FLOOR)
    return jnp.sum((w + losses.LOG_FLOOR) * (u - jnp.log1p(u)), axis=-1)


class VQRatio(NamedTuple):
    """The gradient balance of quantisation: values for β (theory 1.9)."""

    ratio: Array  # ‖∂L_codebook/∂E‖ / ‖∂L_commitment/∂θ_enc‖
    ratio_rms: Array  # the same with each norm over √(number of entries)


def vq_ratio(model: Model, params: Params, spectral: Spectral, x: Array) -> VQRatio:
    """Gradient of the codebook's loss on the codes over that of the commitment on the encoder.

      β = ‖∂L_codebook/∂E‖_F / ‖∂L_commitment/∂θ_enc‖

    Each loss stops at the other's side, so one backward pass of their sum gives both gradients.

    Args:
      model: the atlas.
      params: its raw parameters, `params["atlas"]` of a state.
      spectral: its power-iteration vectors.
      x: [P, X].

    Returns:
      A `VQRatio`, gradient stopped; 0 where both gradients vanish. θ_enc is the encoder without its codebook.
    """

    def quantisation(encoder: Params) -> Array:
        weights, _ = model.normalise({"encoder": encoder}, {"encoder": spectral["encoder"]})
        e = model.encode(weights, x)
        return losses.codebook(e.v_loc, e.z_q_all, e.router) + losses.commitment(e.v_loc, e.z_q_all, e.router)

    gradient = jax.grad(quantisation)(params["encoder"])
    codes = gradient["codebook"]
    rest = jax.tree.leaves({name: leaf for name, leaf in gradient.items() if name != "codebook"})
    ratio = _norm([codes]) / jnp.maximum(_norm(rest), _FLOOR)
    scale = (sum(leaf.size for leaf in rest) / codes.size) ** 0.5
    return jax.lax.stop_gradient(VQRatio(ratio, ratio * scale))


def route_ratio(
    model: Model,
    params: Params,
    spectral: Spectral,
    x: Array,
    label: Array,
    temperature: Array,
    *,
    vq_beta: ArrayLike,
    recon_weight: float = 1.0,
) -> Array:
    """Gradient of reconstruction and quantisation over that of the labels, on the encoder (report §3, `sup_weight`).

      w_sup = ‖∇_θenc (w_recon L_recon + L_codebook + β L_commitment)‖ / ‖∇_θenc L_route‖

    Args:
      model: the atlas.
      params: its raw parameters, `params["atlas"]` of a state.
      spectral: its power-iteration vectors.
      x: [P, X].
      label: [P] int32.
      temperature: class temperature T, scalar.
      vq_beta: β.
      recon_weight: w_recon.

    Returns:
      float32 scalar, gradient stopped. θ_enc is the encoder without its codebook, which no label reaches.
    """
    fixed, _ = model.normalise(
        {name: leaf for name, leaf in params.items() if name != "encoder"},
        {name: leaf for name, leaf in spectral.items() if name != "encoder"},
    )
    table = model.class_table(fixed, temperature)

    def both(encoder: Params) -> Array:
        weights, _ = model.normalise({"encoder": encoder}, {"encoder": spectral["encoder"]})
        e, decoding = model({**fixed, **weights}, x)
        vq = losses.codebook(e.v_loc, e.z_q_all, e.router) + vq_beta * losses.commitment(e.v_loc, e.z_q_all, e.router)
        return jnp.stack(
            [recon_weight * losses.recon(decoding.x_hat, x) + vq, losses.sup_route(e.router, table, label)]
        )

    _, pull = jax.vjp(both, params["encoder"])
    # One backward pass in the graph, run for either loss.
    (gradient,) = jax.vmap(pull)(jnp.eye(2))
    rest = {name: leaf for name, leaf in gradient.items() if name != "codebook"}
    squares = [jnp.sum(leaf.reshape(2, -1) ** 2, axis=1) for leaf in jax.tree.leaves(rest)]
    task, route = jnp.sqrt(jnp.sum(jnp.stack(squares), axis=0))
    return jax.lax.stop_gradient(task / jnp.maximum(route, _FLOOR))


def _norm(leaves: list[Array]) -> Array:
    return jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in leaves])))
