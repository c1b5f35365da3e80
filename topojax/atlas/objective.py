"""The objective: one pass through the atlas, every term of it, and the sum that training descends.

L = w_recon recon + codebook + Σ_k λ_k C_k (+ the detached readout's cross entropy), commitment and route among the C_k.
The λ_k come from controllers and carry no gradient; precisions, when on, weigh the likelihood terms instead.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import losses
from topojax.atlas.model import Model, nearest_code
from topojax.control import precision
from topojax.types import Array, Batch, Encoding, Outputs, Params, Spectral

TASK = ("recon", "codebook", "route")
"""Terms whose unweighted sum is the signal of the rate: no controller moves it by moving a weight."""


INVARIANCES = frozenset({"orbit", "vicreg_inv"})
"""Contracts that compare a batch with a second view of it."""


def task(terms: Mapping[str, Array]) -> Array:
    """The unweighted sum of `TASK`'s terms, those that a run has."""
    return jnp.sum(jnp.stack([terms[name] for name in TASK if name in terms]))


class Aux(NamedTuple):
    """What a pass leaves for signals and logs."""

    terms: dict[str, Array]  # every loss term, scalar or (N,)
    outputs: Outputs
    spectral: Spectral


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


class Objective(NamedTuple):
    """Pure functions of the terms of a run.

    Attributes:
      loss: (params, spectral, lambdas, settings, batch, view) → (loss, Aux).
      terms: (params, weights, settings, outputs, batch, view) → every term but the readout's, of a pass already made;
        `params` are the atlas's, `weights` those after spectral normalisation.
    """

    loss: Callable[..., tuple[Array, Aux]]
    terms: Callable[..., dict[str, Array]]


def make_objective(config: Any, model: Model, rows: tuple) -> Objective:
    """Close the loss terms over a configuration.

    Args:
      config: the run's configuration.
      model: the atlas.
      rows: contracts of the run; only their terms are computed.
    """
    names = {row.name for row in rows}
    supervised = config.supervised.enabled
    aim = 1.0 + config.losses.hinge_margin
    every = config.losses.orthogonality_every
    orbit = losses.orbit_overlap if config.losses.orbit_distance == "overlap" else losses.orbit

    def contract_terms(
        params: Params, weights: Params, settings: Settings, out: Outputs, batch: Batch, view: Array
    ) -> dict[str, Array]:
        e, w = out.encoding, out.encoding.router
        table: Any = model.class_table(weights, settings.temperature) if supervised else None
        ceiling = jnp.log(w.shape[1]) - settings.window if config.losses.window_two_sided else None
        latent = config.model.latent_dim
        augmented: list[Encoding] = []
        if names & INVARIANCES:
            augmented.append(model.encode(weights, view))
        usage: Any = None
        if names & {"code_entropy", "per_chart_code_entropy"}:
            # Codes spread over the points, not points over the codes: with the encoder's gradient this term fights the
            # charts (digits: AMI 0.80 instead of 0.90).
            v_loc = jax.lax.stop_gradient(e.v - e.c_bar)
            distances, *_ = nearest_code(v_loc, weights["encoder"]["codebook"])
            soft = config.losses.code_temperature * jax.lax.stop_gradient(jnp.mean(distances)) + 1e-9
            usage = losses.code_usage(losses.soft_assignment(distances, soft), w)

        # One line for each contract; only those of the run are evaluated.
        terms: dict[str, Callable[[], Array]] = {
            "entropy": lambda: losses.routing_entropy(w),
            "diversity": lambda: losses.diversity(w),
            "consistency": lambda: losses.consistency(w, out.decoding.router),
            "window": lambda: losses.window(w, settings.window * aim, ceiling),
            "separation": lambda: losses.hinge_separation(losses.soft_centers(w, e.z_geo), settings.separation_margin),
            "chart_center_sep": lambda: losses.hinge_separation(weights["encoder"]["centers"], settings.center_margin),
            "variance": lambda: losses.variance(e.z_geo, settings.variance * aim),
            "orthogonality": lambda: lazily(orthogonality, params, settings.singular, every),
            "per_chart_code_entropy": lambda: losses.per_chart_code_entropy(usage[0]),
            "code_entropy": lambda: losses.code_entropy(*usage),
            "codebook_center": lambda: losses.codebook_center(weights["encoder"]["codebook"]),
            "residual_scale": lambda: losses.residual_scale(e.z_n),
            "disentangle": lambda: (
                losses.disentangle_parity(w, e.z_geo)
                if config.losses.disentangle_parity
                else losses.disentangle(w, e.z_n, e.z_tex)
            ),
            "prior_n": lambda: losses.prior(e.z_n, config.losses.prior_std_n**2 * latent),
            "prior_tex": lambda: losses.prior(e.z_tex, config.losses.prior_std_tex**2 * latent),
            "orbit": lambda: orbit(w, augmented[0].router),
            "vicreg_inv": lambda: losses.gram_difference(e.z_geo, augmented[0].z_geo),
            "jump": lambda: jump_term(weights, e),
            "sup_purity": lambda: losses.class_entropy(w, table),
            "sup_balance": lambda: losses.sup_balance(w),
            "sup_metric": lambda: (
                losses.sup_metric_latent(e.z_geo, batch.label, settings.metric_margin)
                if config.losses.metric_distance == "latent"
                else losses.sup_metric(w, batch.label, settings.metric_margin)
            ),
        }
        out_terms = {name: terms[name]() for name in terms if name in names}
        if supervised:
            out_terms["route"] = losses.sup_route(w, table, batch.label)
        return out_terms

    def jump_term(weights: Params, e: Encoding) -> Array:
        jumped = model.jump(weights, e.z_n_all)
        returned = model.round_trip(weights, e.z_n_all) if config.losses.jump_cycle else None
        return losses.jump(jumped, e.z_n_all, e.router, returned=returned)

    def all_terms(
        params: Params, weights: Params, settings: Settings, out: Outputs, batch: Batch, view: Array
    ) -> dict[str, Array]:
        e = out.encoding
        v_loc = e.v - e.c_bar
        return {
            "recon": losses.recon(out.decoding.x_hat, batch.image),
            "codebook": losses.codebook(v_loc, e.z_q_all, e.router),
            "commitment": losses.commitment(v_loc, e.z_q_all, e.router),
            **contract_terms(params, weights, settings, out, batch, view),
        }

    def objective(
        params: Params,
        spectral: Spectral,
        lambdas: Mapping[str, Array],
        settings: Settings,
        batch: Batch,
        view: Array,
    ) -> tuple[Array, Aux]:
        lambdas, settings = jax.lax.stop_gradient((dict(lambdas), settings))
        weights, spectral = model.normalise(params["atlas"], spectral)
        out = model(weights, batch.image)
        terms = all_terms(params["atlas"], weights, settings, out, batch, view)
        if config.precision.enabled:  # β stays within vq; the route's weight is its precision
            vq = terms["codebook"] + lambdas.get("commitment", 0.0) * terms["commitment"]
            weighed = {"recon": terms["recon"], "vq": vq} | ({"route": terms["route"]} if supervised else {})
            loss = precision.total(weighed, params["precision"])
        else:
            loss = config.losses.recon_weight * terms["recon"] + terms["codebook"]
        in_precision = ("commitment", "route") if config.precision.enabled else ()
        for name, weight in lambdas.items():
            if name in terms and name not in in_precision:
                loss = loss + jnp.sum(weight * terms[name])
        logits = model.readout(weights, out.encoding.router, out.encoding.z_geo)
        terms["readout"] = losses.cross_entropy(logits, batch.label)
        terms["total"] = loss
        return loss + terms["readout"], Aux(terms, out, spectral)

    return Objective(objective, all_terms)


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
