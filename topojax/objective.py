"""The objective: one pass through the atlas, every term of it, and the sum that training descends.

L = recon + codebook + β commitment + w_sup route + Σ_k λ_k C_k (+ the detached readout's cross entropy).
The λ_k come from controllers and carry no gradient; precisions, when on, weigh the likelihood terms instead of 1.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from topojax import losses
from topojax.control import precision
from topojax.model import Model, nearest_code
from topojax.types import Array, Batch, Encoding, Outputs, Params, Spectral

LIKELIHOODS = ("recon", "vq", "route")
"""Terms that are negative log likelihoods up to scale: what precisions may weigh."""


class Aux(NamedTuple):
    """What a pass leaves for signals and logs."""

    terms: dict[str, Array]  # every loss term, scalar or (N,)
    outputs: Outputs
    spectral: Spectral


def make_objective(config: Any, model: Model, rows: tuple, targets: Mapping[str, float]) -> Callable:
    """Build `objective(params, spectral, lambdas, batch, view) -> (loss, Aux)`.

    Args:
      config: the run's configuration.
      model: the atlas.
      rows: contracts of the run; only their terms are computed.
      targets: contract name → target in the signal's units, where a hinge or a prior needs it.
    """
    names = {row.name for row in rows}
    supervised = config.supervised.enabled
    aim = 1.0 + config.losses.hinge_margin

    def contract_terms(params: Params, weights: Params, out: Outputs, batch: Batch, view) -> dict[str, Array]:
        e, w = out.encoding, out.encoding.router
        table: Any = model.class_table(weights, jnp.float32(config.supervised.temperature)) if supervised else None
        charts = w.shape[1]
        ceiling = jnp.log(charts) - targets["window"] if config.losses.window_two_sided else None
        latent = config.model.latent_dim
        augmented: list[Encoding] = []
        if names & {"orbit", "vicreg_inv"}:
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
            "window": lambda: losses.window(w, targets["window"] * aim, ceiling),
            "separation": lambda: losses.hinge_separation(
                losses.soft_centers(w, e.z_geo), config.losses.separation_margin
            ),
            "chart_center_sep": lambda: losses.hinge_separation(
                weights["encoder"]["centers"], config.losses.center_margin
            ),
            "variance": lambda: losses.variance(e.z_geo, targets["variance"] * aim),
            "orthogonality": lambda: orthogonality(params),
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
            "orbit": lambda: losses.orbit(w, augmented[0].router),
            "vicreg_inv": lambda: losses.gram_difference(e.z_geo, augmented[0].z_geo),
            "jump": lambda: jump_term(weights, e),
            "sup_purity": lambda: losses.class_entropy(w, table),
            "sup_balance": lambda: losses.sup_balance(w),
            "sup_metric": lambda: losses.sup_metric(w, batch.label, config.losses.metric_margin),
        }
        out_terms = {name: terms[name]() for name in terms if name in names}
        if supervised:
            out_terms["route"] = losses.sup_route(w, table, batch.label)
        return out_terms

    def jump_term(weights: Params, e: Encoding) -> Array:
        jumped = model.jump(weights, e.z_n_all)
        returned = model.jump_back(weights, jumped) if config.losses.jump_cycle else None
        return losses.jump(jumped, e.z_n_all, e.router, returned=returned)

    def objective(params: Params, spectral: Spectral, lambdas: Mapping[str, Array], batch: Batch, view: Array):
        weights, spectral = model.normalise(params["atlas"], spectral)
        out = model(weights, batch.image)
        e = out.encoding
        v_loc = e.v - e.c_bar
        code, commit = (f(v_loc, e.z_q_all, e.router) for f in (losses.codebook, losses.commitment))
        terms = {
            "recon": losses.recon(out.decoding.x_hat, batch.image),
            "codebook": code,
            "commitment": commit,
            "vq": code + config.losses.vq_beta * commit,
            **contract_terms(params["atlas"], weights, out, batch, view),
        }
        scale = {"recon": 1.0, "vq": 1.0, "route": config.supervised.weight}
        likelihood = {name: terms[name] for name in LIKELIHOODS if name in terms}
        if config.precision.enabled:
            loss = precision.total(likelihood, params["precision"])
        else:
            loss = sum(scale[name] * term for name, term in likelihood.items())
        for name, weight in lambdas.items():
            loss = loss + jnp.sum(jax.lax.stop_gradient(weight) * terms[name])
        logits = model.readout(weights, e.router, e.z_geo)
        terms["readout"] = losses.cross_entropy(logits, batch.label)
        terms["total"] = loss
        return loss + terms["readout"], Aux(terms, out, spectral)

    return objective


def orthogonality(params: Params) -> Array:
    """Mean variance of log singular values over the atlas's kernels with both sides ≤ 64 (model §7)."""
    leaves = jax.tree_util.tree_leaves_with_path({part: params[part] for part in ("encoder", "decoder")})
    kernels = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    small = [k for k in kernels if k.ndim == 2 and max(k.shape) <= 64]
    return jnp.mean(jnp.stack([losses.log_singular_variance(kernel) for kernel in small]))
