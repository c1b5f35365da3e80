"""The objective: one pass through the atlas, every term of it, and the sum that training descends.

L = w_recon recon + codebook + Σ_k λ_k C_k (+ the detached readout's cross entropy), commitment and route among the C_k.
The λ_k come from controllers and carry no gradient; precisions, when on, weigh the likelihood terms instead.

One weight from its promise to the loss: a row of `table.TABLE` says which signal λ_k must keep where; `control.bank`
turns it into a controller, whose state is in `ControlState`; `Control.weights` reads λ_k out of it, by the row's name;
`terms.TERMS` has C_k under the same name; `Objective.total` adds λ_k C_k. What C_k did comes back as the row's signal
(`measure.make_measure`), and `Control.update` moves λ_k.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import losses
from topojax.atlas.model import Model
from topojax.atlas.model.learned_metric import mixing_penalty
from topojax.atlas.terms import INVARIANCES, TERMS, Settings, read
from topojax.control import precision
from topojax.types import Array, Batch, Encoding, Outputs, Params, Spectral

TASK = ("recon", "codebook", "route")
"""Terms whose unweighted sum is the signal of the rate: no controller moves it by moving a weight."""


def task(terms: Mapping[str, Array]) -> Array:
    """The unweighted sum of `TASK`'s terms, those that a run has."""
    return jnp.sum(jnp.stack([terms[name] for name in TASK if name in terms]))


def progress(terms: Mapping[str, Array], promised: Mapping[str, Any]) -> Array:
    """What more training is for, on a scale on which equal differences matter equally: log recon + max(route, promise).

    A label that is known as well as its contract asks for is known: to know it better is no gain.
    """
    gained = jnp.log(terms["recon"] + losses.ERROR_FLOOR)
    if "route" in terms:
        gained = gained + jnp.maximum(terms["route"], promised.get("route", 0.0))
    return gained


def told(size: int, share: float) -> Array:
    """Which examples of a batch are drawn by the encoder's routing, evenly spread; the others by the decoder's: [B]."""
    return jnp.asarray(np.diff(np.floor(np.arange(size + 1) * share)) > 0)


class Aux(NamedTuple):
    """What a pass leaves for signals and logs."""

    terms: dict[str, Array]  # every loss term, scalar or (N,)
    outputs: Outputs
    spectral: Spectral


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """The terms of a run, pure functions closed over its configuration.

    Attributes:
      config: the run's configuration.
      model: the atlas.
      rows: contracts of the run; only their terms are computed.
    """

    config: Any
    model: Model
    rows: tuple

    def loss(
        self,
        params: Params,
        spectral: Spectral,
        lambdas: Mapping[str, Array],
        settings: Settings,
        batch: Batch,
        view: Array,
    ) -> tuple[Array, Aux]:
        """L, to be descended, and what the pass leaves behind.

        Args:
          params: of the state: `atlas`, and `precision` where it is on.
          spectral: power-iteration vectors.
          lambdas: contract → λ_k, scalar or [N]; no gradient.
          settings: of control; no gradient.
          batch: B examples.
          view: a second view of them, [B, X]; read by the invariances alone.
        """
        lambdas, settings = jax.lax.stop_gradient((dict(lambdas), settings))
        weights, spectral = self.model.normalise(params["atlas"], spectral)
        encoding, second = self.encodings(weights, batch.image, view)
        at = second.chart if second is not None and self.config.losses.glue else None
        which = told(len(batch.image), self.config.losses.told_share)
        out = Outputs(encoding, self.model.reconstruct(weights, encoding, which, at))
        terms = self.terms(params["atlas"], weights, settings, out, batch, second, at=at)
        loss = self.total(terms, lambdas, params)
        logits = self.model.readout(weights, out.encoding.router, out.encoding.z_geo)
        terms["readout"] = losses.cross_entropy(logits, batch.label)
        terms["total"] = loss
        return loss + terms["readout"], Aux(terms, out, spectral)

    def terms(
        self,
        params: Params,
        weights: Params,
        settings: Settings,
        out: Outputs,
        batch: Batch,
        second: Encoding | None,
        *,
        at: Array | None = None,
    ) -> dict[str, Array]:
        """Every term but the readout's, of a pass already made.

        Args:
          params: the atlas's.
          weights: the same after spectral normalisation.
          settings: of control.
          out: of the pass.
          batch: B examples.
          second: of another view of them (`encodings`); None where nothing compares with it.
          at: [B], in which chart's place the decoder was asked; None is the strongest's.
        """
        e, names = out.encoding, frozenset(row.name for row in self.rows)
        terms = {
            "recon": losses.recon(out.decoding.x_hat, batch.image),
            "codebook": losses.codebook(e.v_loc, e.z_q_all, e.router),
            "commitment": losses.commitment(e.v_loc, e.z_q_all, e.router),
        }
        found = read(self.config, self.model, params, weights, settings, out, batch, second, at, names=names)
        terms |= {name: term(found) for name, term in TERMS.items() if name in names}
        if self.config.model.metric != "euclid":
            terms["metric_l1"] = mixing_penalty(params)
        if self.config.supervised.enabled:
            terms["route"] = losses.sup_route(e.router, found.class_table, batch.label)
        return terms

    @property
    def compares(self) -> bool:
        """Whether anything compares a batch with a second view of it."""
        return self.config.losses.glue or any(row.name in INVARIANCES for row in self.rows)

    @property
    def together(self) -> bool:
        """Whether one pass may take a batch and its view: see `encodings`."""
        return self.compares and self.config.mesh.data == 1 and self.config.model.metric == "euclid"

    def encodings(self, weights: Params, x: Array, view: Array) -> tuple[Encoding, Encoding | None]:
        """Of a batch [B, X] and, where something compares with it, of a second view of it.

        One pass over both has half as many operations as two, most of which are too short to keep a machine busy. What
        is split over devices, or encoded by a distance whose scale is the batch's, takes two.
        """
        if not self.compares:
            return self.model.encode(weights, x), None
        if not self.together:
            return self.model.encode(weights, x), self.model.encode(weights, view)
        both = self.model.encode(weights, jnp.concatenate([x, view]))
        return jax.tree.map(lambda leaf: leaf[: len(x)], both), jax.tree.map(lambda leaf: leaf[len(x) :], both)

    def likelihood(self, error: Array) -> Array:
        """What `losses.recon_weight` weighs: the error, or its log."""
        return losses.log_error(error) if self.config.losses.likelihood == "profile" else error

    def total(self, terms: Mapping[str, Array], lambdas: Mapping[str, Array], params: Params) -> Array:
        """L_task + Σ_k λ_k C_k; with precisions, e^−s weighs the likelihoods, and β stays within vq.

        Args:
          terms: of `terms`.
          lambdas: contract → λ_k; those without a term are no weights of the loss.
          params: of the state, for their precisions.
        """
        weighed_already: tuple[str, ...] = ()
        if self.config.precision.enabled:
            vq = terms["codebook"] + lambdas.get("commitment", 0.0) * terms["commitment"]
            likelihoods = {"recon": terms["recon"], "vq": vq}
            if self.config.supervised.enabled:
                likelihoods["route"] = terms["route"]
            loss = precision.total(likelihoods, params["precision"])
            weighed_already = ("commitment", "route")
        else:
            loss = self.config.losses.recon_weight * self.likelihood(terms["recon"]) + terms["codebook"]
        if "metric_l1" in terms:
            loss = loss + self.config.losses.metric_l1 * terms["metric_l1"]
        for name, weight in lambdas.items():
            if name in terms and name not in weighed_already:
                loss = loss + jnp.sum(weight * terms[name])
        return loss
