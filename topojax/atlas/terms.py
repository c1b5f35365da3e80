"""The terms that contracts weigh, one row each: name of a contract → C_k of one pass through the atlas.

A row's name is that of its contract in `table.TABLE`, whose controller sets λ_k; `Objective.loss` descends Σ_k λ_k C_k.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import losses
from topojax.atlas.model import Model, nearest_code
from topojax.types import Array, Batch, Encoding, Outputs, Params

INVARIANCES = frozenset({"orbit", "vicreg_inv"})
"""Contracts that compare a batch with a second view of it."""


class Lazy(NamedTuple):
    """A dear term that is taken every n steps."""

    now: Array | np.bool_  # shape=(), bool: whether this step takes it
    last: Array | np.float32  # shape=(): what it was when last taken


class Settings(NamedTuple):
    """What control sets beside the weights; scalars, gradients stopped."""

    window: Array  # ε of the coupling window, nats
    variance: Array  # least energy of the latent, latent units squared
    separation_margin: Array  # latent units
    center_margin: Array  # latent units
    metric_margin: Array  # overlap, or latent units where the metric is latent
    temperature: Array  # T of P(y|k)
    singular: Lazy  # not control's but the step's: whether to take singular values now, and what they gave last


class Pass(NamedTuple):
    """What a term may read of one pass."""

    config: Any  # of the run
    model: Model
    params: Params  # of the atlas
    weights: Params  # the same after spectral normalisation
    settings: Settings
    encoding: Encoding
    decoder_router: Array  # shape=(B, N): w'
    at: Array | None  # shape=(B,), int32: in which chart's place; None is the strongest's
    label: Array  # shape=(B,), int32
    class_table: Any  # shape=(N, C): P(y|k); None where labels do not train the charts
    second: Any  # Encoding of the second view; None where no contract compares with it
    code_usage: Any  # of `losses.code_usage`; None where no contract holds it

    @property
    def router(self) -> Array:
        """The encoder's routing, w [B, N]."""
        return self.encoding.router

    @property
    def aim(self) -> float:
        """Factor on targets of hinges: they aim a little beyond what is promised."""
        return 1.0 + self.config.losses.hinge_margin


def read(
    config: Any,
    model: Model,
    params: Params,
    weights: Params,
    settings: Settings,
    out: Outputs,
    batch: Batch,
    second: Encoding | None,
    at: Array | None = None,
    *,
    names: frozenset[str],
) -> Pass:
    """What the terms of these contracts read; code usage only where one of them needs it.

    Args:
      config: of the run.
      model: the atlas.
      params: its parameters.
      weights: the same after spectral normalisation.
      settings: of control.
      out: of the pass.
      batch: B examples.
      second: of another view of them; None where nothing compares with it.
      at: [B], in which chart's place the decoder was asked; None is the strongest's.
      names: of the contracts.
    """
    table = model.class_table(weights, settings.temperature) if config.supervised.enabled else None
    usage = _code_usage(config, weights, out.encoding) if names & {"code_entropy", "per_chart_code_entropy"} else None
    decoder_router, label = out.decoding.router, batch.label
    found = (out.encoding, decoder_router, at, label, table, second, usage)
    return Pass(config, model, params, weights, settings, *found)


def _code_usage(config: Any, weights: Params, e: Encoding) -> tuple[Array, Array]:
    # Codes spread over the points, not points over the codes: with the encoder's gradient this term fights the
    # charts (digits: AMI 0.80 instead of 0.90).
    v_loc = jax.lax.stop_gradient(e.v_loc)
    distances, *_ = nearest_code(v_loc, weights["encoder"]["codebook"])
    soft = config.losses.code_temperature * jax.lax.stop_gradient(jnp.mean(distances)) + 1e-9
    return losses.code_usage(losses.soft_assignment(distances, soft), e.router)


def _window(p: Pass) -> Array:
    ceiling = jnp.log(p.router.shape[1]) - p.settings.window if p.config.losses.window_two_sided else None
    return losses.window(p.router, p.settings.window * p.aim, ceiling, power=p.config.losses.window_power)


def _consistency(p: Pass) -> Array:
    if p.config.model.discs:
        return losses.sync(p.encoding.chart if p.at is None else p.at, p.decoder_router)
    return losses.consistency(p.router, p.decoder_router)


def _separation(p: Pass) -> Array:
    return losses.hinge_separation(losses.soft_centers(p.router, p.encoding.z_geo), p.settings.separation_margin)


def _orthogonality(p: Pass) -> Array:
    return lazily(orthogonality, p.params, p.settings.singular, p.config.losses.orthogonality_every)


def _disentangle(p: Pass) -> Array:
    if p.config.losses.disentangle_parity:
        return losses.disentangle_parity(p.router, p.encoding.z_geo)
    return losses.disentangle(p.router, p.encoding.z_n, p.encoding.z_tex)


def _orbit(p: Pass) -> Array:
    between = losses.orbit_overlap if p.config.losses.orbit_distance == "overlap" else losses.orbit
    return between(p.router, p.second.router)


def _jump(p: Pass) -> Array:
    z = p.encoding.offset
    jumped = p.model.jump(p.weights, z)
    returned = p.model.round_trip(p.weights, z) if p.config.losses.jump_cycle else None
    return losses.jump(jumped, z, p.router, returned=returned)


def _sup_metric(p: Pass) -> Array:
    if p.config.losses.metric_distance == "latent":
        return losses.sup_metric_latent(p.encoding.z_geo, p.label, p.settings.metric_margin)
    return losses.sup_metric(p.router, p.label, p.settings.metric_margin)


def _prior(name: str) -> Callable[[Pass], Array]:
    def term(p: Pass) -> Array:
        energy = p.config.losses[f"prior_std_{name}"] ** 2 * p.config.model.latent_dim
        return losses.prior(getattr(p.encoding, f"z_{name}"), energy)

    return term


TERMS: dict[str, Callable[[Pass], Array]] = {
    # Routing: sharp charts, all of them used, the decoder in step with the encoder, charts that say something of x.
    "entropy": lambda p: losses.routing_entropy(p.router),
    "diversity": lambda p: losses.diversity(p.router),
    "consistency": _consistency,
    "window": _window,
    # Geometry of the latent.
    "separation": _separation,
    "chart_center_sep": lambda p: losses.hinge_separation(p.weights["encoder"]["centers"], p.settings.center_margin),
    "variance": lambda p: losses.variance(p.encoding.z_geo, p.settings.variance * p.aim),
    "orthogonality": _orthogonality,
    # Codes and residuals.
    "per_chart_code_entropy": lambda p: losses.per_chart_code_entropy(p.code_usage[0]),
    "code_entropy": lambda p: losses.code_entropy(*p.code_usage),
    "codebook_center": lambda p: losses.codebook_center(p.weights["encoder"]["codebook"]),
    "residual_scale": lambda p: losses.residual_scale(p.encoding.z_n),
    "disentangle": _disentangle,
    "prior_n": _prior("n"),
    "prior_tex": _prior("tex"),
    # Invariances, and maps from chart to chart.
    "orbit": _orbit,
    "vicreg_inv": lambda p: losses.gram_difference(p.encoding.z_geo, p.second.z_geo),
    "jump": _jump,
    # Labels.
    "sup_purity": lambda p: losses.class_entropy(p.router, p.class_table),
    "sup_balance": lambda p: losses.sup_balance(p.router),
    "sup_metric": _sup_metric,
}
"""Name of a contract → its term, a scalar or one a chart [N]. `commitment` and `route` are terms of every pass that has
them (`Objective.terms`); `sup_temperature` is no weight of a loss."""


def lazily(term: Callable[[Params], Array], params: Params, when: Lazy, every: int) -> Array:
    """A term taken every n steps, with n times its gradient: on average the gradient of every step.

    Between those steps its value is the last one and its gradient 0 (StyleGAN2's lazy regularisation, Karras et al.
    2020, appendix B).

    Args:
      term: params → scalar.
      params: what it is of.
      when: whether now, and its last value.
      every: n, steps.
    """
    if every == 1:
        return term(params)

    def taken(params: Params) -> Array:
        value = term(params)
        return every * value - jax.lax.stop_gradient((every - 1) * value)

    return jax.lax.cond(when.now, taken, lambda _: when.last, params)


def orthogonality(params: Params) -> Array:
    """Mean variance of log singular values over the atlas's kernels with both sides ≤ 64 (model §7)."""
    leaves = jax.tree_util.tree_leaves_with_path({part: params[part] for part in ("encoder", "decoder")})
    kernels = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    small = [k for k in kernels if k.ndim == 2 and max(k.shape) <= 64]
    return jnp.mean(jnp.stack([losses.log_singular_variance(kernel) for kernel in small]))
