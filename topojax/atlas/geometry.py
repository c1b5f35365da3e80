"""The latent metric G(z) and the length λ that it gives margins, the jump's weight and latent speeds.

  λ_wfr = √(tr G⁻¹ / D),   d_G(Δz) = √(Δzᵀ G Δz)

G is the state-space metric of theory 1.2, a mean over a probe batch; the parameters' metric is Adam's preconditioner,
and the two never mix. D is the continuous latent: texture is left out.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from topojax.atlas.model import Model
from topojax.control.base import checked, is_known, require_choice, require_positive, typed
from topojax.types import Array, Params

METRICS = ("precision", "router_fisher", "pullback", "poincare")

_EPS = 1e-6  # ridge of every inverse, in the matrix's units and relative to its mean eigenvalue
_WEIGHT_FLOOR = 1e-30  # under a router weight that is divided by
_ERROR_FLOOR = 1e-8  # under a mean squared reconstruction error
_LIKELIHOOD_FLOOR = 1e-8  # inside the logarithm of P(y|z), as in the route loss
_STEP = 3e-3  # of central differences, latent units: rounding 2e-5, truncation less
_BALL = 0.98  # largest ‖z‖ for which the Poincaré factor is taken: where the encoder's ball ends


def potential(
    model: Model, weights: Params, class_table: Array | None, label: Array | None, x: Array
) -> Callable[[Array], Array]:
    """The potential V(z) of each sample, in nats, whose gradient drives the latent (theory 1.2, 1.4).

      with labels   V = −log Σ_k w'_k(z) P(y|k)
      without       V = (X/2) mse_b(z) / σ²,   σ² the batch's mse, detached

    Args:
      model: the atlas.
      weights: its weights, spectrally normalised.
      class_table: P(y|k) [N, C], or None.
      label: [P] int32, or None; without either the potential is the reconstruction's.
      x: [P, X].

    Returns:
      V: z [P, D] ↦ [P]; texture is zero.
    """
    if class_table is None or label is None:

        def reconstruction(z: Array) -> Array:
            x_hat = model.decode(weights, z, jnp.zeros_like(z)).x_hat
            mse = jnp.mean((x_hat - x) ** 2, axis=-1)
            variance = jax.lax.stop_gradient(jnp.maximum(jnp.mean(mse), _ERROR_FLOOR))
            return 0.5 * x.shape[-1] * mse / variance

        return reconstruction

    def classes(z: Array) -> Array:
        router = model.decode(weights, z, jnp.zeros_like(z)).router
        likelihood = jnp.take_along_axis(router @ class_table, label[:, None], axis=1)[:, 0]
        return jnp.where(label >= 0, -jnp.log(likelihood + _LIKELIHOOD_FLOOR), 0.0)  # an unknown class draws nowhere

    return classes


def latent_metric(
    name: str,
    model: Model,
    weights: Params,
    z: Array,
    x: Array,
) -> Array:
    """Metric G of the latent over a probe batch (theory 1.2).

      precision      (Cov_b(z) + εI)⁻¹: λ is the RMS standard deviation per dimension
      router_fisher  E_b Σ_k ∂_i w'_k ∂_j w'_k / w'_k: λ is how far the chart posterior takes to change by O(1);
                     points at which the router's τ is on its floor dominate this mean
      pullback       E_b JᵀJ / σ_x², J of the decoder by central differences, σ_x² its mean squared error
      poincare       E_b 4/(1 − ‖z‖²)² I, ‖z‖ held to 0.98; points at the rim dominate this mean

    Args:
      name: one of `METRICS`.
      model: the atlas.
      weights: its weights, spectrally normalised.
      z: z_geo of the probe batch, [P, D].
      x: its inputs, [P, X]; `pullback` only.

    Returns:
      [D, D] float32, symmetric, gradient stopped.

    Raises:
      ValueError: unknown name.
    """
    require_choice("metric", name, METRICS)
    z = jax.lax.stop_gradient(z)
    points, latent = z.shape
    texture = jnp.zeros_like(z)

    def precision() -> Array:
        centred = z - jnp.mean(z, axis=0, keepdims=True)
        return _inverse(centred.T @ centred / points)

    def router_fisher() -> Array:
        router, pull = jax.vjp(lambda z: model.decode(weights, z, texture).router, z)
        basis = jnp.broadcast_to(jnp.eye(router.shape[1])[:, None, :], (router.shape[1], *router.shape))
        slope = jax.vmap(pull)(basis)[0] / jnp.sqrt(jnp.maximum(router.T, _WEIGHT_FLOOR))[:, :, None]
        return jnp.einsum("npi,npj->ij", slope, slope) / points

    def pullback() -> Array:
        offsets = _STEP * jnp.concatenate([jnp.eye(latent), -jnp.eye(latent), jnp.zeros((1, latent))])
        moved = (z[None] + offsets[:, None]).reshape(-1, latent)
        images = model.decode(weights, moved, jnp.zeros_like(moved)).x_hat.reshape(2 * latent + 1, points, -1)
        slope = (images[:latent] - images[latent:-1]) / (2.0 * _STEP)
        error = jnp.maximum(jnp.mean((images[-1] - x) ** 2), _ERROR_FLOOR)
        return jnp.einsum("ipx,jpx->ij", slope, slope) / (points * error)

    def poincare() -> Array:
        squared = jnp.minimum(jnp.sum(z**2, axis=-1), _BALL**2)
        return jnp.mean(4.0 / (1.0 - squared) ** 2) * jnp.eye(latent)

    builders = (precision, router_fisher, pullback, poincare)
    return jax.lax.stop_gradient(builders[METRICS.index(name)]())


def _inverse(matrix: Array) -> Array:
    """(A + ε (1 + tr A/D) I)⁻¹ of a symmetric A, symmetric again; below a relative ε, float32 inverts rounding."""
    size = matrix.shape[-1]
    ridge = _EPS * (1.0 + jnp.trace(matrix) / size)
    inverse = jnp.linalg.inv(matrix + ridge * jnp.eye(size))
    return 0.5 * (inverse + inverse.T)


def wfr_length(metric: Array) -> Array:
    """Transport–reaction crossover length λ = √(tr (G + εI)⁻¹ / D), latent units (theory 1.10).

    Args:
      metric: G [D, D].

    Returns:
      float32 scalar. The ridge is ε (1 + tr G/D), ε = 1e-6, and the inverse's diagonal is clamped to [0, 1/ε]: a
      direction that G does not see gives a large length, not infinity. Not finite where G is not.
    """
    scale = jnp.clip(jnp.diagonal(_inverse(metric)), 0.0, 1.0 / _EPS)
    return jnp.sqrt(jnp.mean(scale))


def speed(metric: Array, dz: Array) -> Array:
    """Distance d_G = √(Δzᵀ G Δz) that each point moved: G [D, D], Δz [P, D] → [P] (theory 1.5)."""
    return jnp.sqrt(jnp.maximum(jnp.einsum("pi,ij,pj->p", dz, metric, dz), 0.0))


class GeometryState(NamedTuple):
    """The metric in force and the length that margins use."""

    metric: Array  # shape=(D, D), float32: average of the measured G
    length: Array  # shape=(), float32: λ_wfr in force, latent units
    measured: Array  # shape=(), int32: measurements taken up


class Geometry(NamedTuple):
    """Average of measured metrics, in the manner of an optax transform.

    Attributes:
      init: () → GeometryState.
      update: (state, metric [D, D], measured=True, active=True) → GeometryState.
    """

    init: Callable[[], GeometryState]
    update: Callable[..., GeometryState]


def geometry(
    *,
    latent_dim: int,
    initial_length: float = 1.0,
    decay: float = 0.5,
    calibrations: int = 4,
    bounds: tuple[float, float] = (0.1, 10.0),
) -> Geometry:
    """Average G over a calibration, then hold it, so that a margin set by λ cannot inflate with the spread it causes.

      G ← G_measured                     first measurement
      G ← d G + (1 − d) G_measured       while calibrating, then no change
      λ ← clip(wfr_length(G), bounds)

    Args:
      latent_dim: D.
      initial_length: λ before the first measurement, latent units, within bounds; the metric is then I/λ².
      decay: of the calibration's average, in [0, 1).
      calibrations: active measurements that calibrate.
      bounds: least and largest λ.

    Returns:
      A `Geometry`. Its update keeps every bit where not `measured`, not `active`, frozen, or where G is not finite.

    Raises:
      ValueError: a value out of its range.

    References:
      theory 1.10 (feedback risk), 1.2 (smoothing rule).
    """
    require_positive(latent_dim=latent_dim, calibrations=calibrations, bounds=np.asarray(bounds))
    checked(minimum=bounds[0], maximum=bounds[1], initial=initial_length)
    if is_known(decay) and not 0 <= decay < 1:
        raise ValueError(f"decay must lie in [0, 1), got {decay}")

    def init() -> GeometryState:
        metric = np.eye(latent_dim) / initial_length**2
        return GeometryState(typed(metric), typed(initial_length), typed(0, jnp.int32))

    def update(
        state: GeometryState, metric: Array, measured: ArrayLike = True, active: ArrayLike = True
    ) -> GeometryState:
        metric = jax.lax.stop_gradient(metric)
        calibrating = state.measured < calibrations
        keep = jnp.where(state.measured > 0, jnp.float32(decay), 0.0)
        average = keep * state.metric + (1.0 - keep) * metric
        length = jnp.clip(wfr_length(average), *bounds)
        moves = jnp.asarray(measured, bool) & jnp.asarray(active, bool)
        moves = moves & jnp.all(jnp.isfinite(average)) & jnp.isfinite(length)
        moves = moves & calibrating
        new = GeometryState(average, length, state.measured + 1)
        return jax.tree.map(lambda n, o: jnp.where(moves, n, o), new, state)

    return Geometry(init, update)
