"""What one pass measures, gradients stopped: the signals that controllers are told, and what control sets in return."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from topojax.atlas import losses, signals
from topojax.atlas.objective import Aux, progress, task
from topojax.atlas.signals import Usage
from topojax.atlas.terms import Lazy, Settings
from topojax.types import Array

ALWAYS = Lazy(now=np.bool_(True), last=np.float32(0.0))
"""Singular values are taken whenever asked for; a step that waits says so itself."""


def make_settings(config: Any, rows: tuple) -> Callable[..., Settings]:
    """Build `settings(targets, epsilon, length, weights) -> Settings`: margins, temperature and targets of the losses.

    Margins are λ_wfr where `geometry.margins` says so, else the configuration's.
    """
    unit = 1.0 * config.contracts.variance.target  # the row's unit is 1
    fixed = (config.losses.separation_margin, config.losses.center_margin, config.losses.metric_margin)
    names = {row.name for row in rows}

    def settings(targets: Mapping[str, Array], epsilon: Array, length: Array, weights: Mapping[str, Array]) -> Settings:
        separation, center, metric = (jnp.float32(margin) for margin in fixed)
        if config.geometry.margins:
            separation = center = length
            metric = length if config.losses.metric_distance == "latent" else metric
        temperature = jnp.float32(config.supervised.temperature)
        if "sup_temperature" in names:
            temperature = temperature * jnp.exp(weights["sup_temperature"])
        variance = targets.get("variance", jnp.float32(unit))
        return Settings(epsilon, variance, separation, center, metric, temperature, ALWAYS)

    return settings


def make_measure(config: Any, rows: tuple) -> Callable[..., dict[str, Array]]:
    """Build `measure(aux, usage, settings) -> signals`: everything a contract may hold that one pass has computed."""
    latent = config.model.latent_dim
    renamed = {"sup_purity": "class_entropy", "sup_balance": "balance"}
    names = {row.signal for row in rows}
    promised = {row.name: row.target for row in rows if row.name == "route"}

    def measure(aux: Aux, usage: Usage, settings: Settings) -> dict[str, Array]:
        e, terms = aux.outputs.encoding, aux.terms
        out = {
            **signals.routing(e.router),
            **signals.code_entropies(usage.counts),
            **signals.usage(usage),
            "energy": losses.energy(e.z_geo),
            "energy_n": losses.energy(e.z_n),
            "energy_tex": losses.energy(e.z_tex),
            "task": task(terms),
            "progress": progress(terms, promised),
        }
        shaped = {
            "separation": lambda x: x / settings.separation_margin,
            "chart_center_sep": lambda x: x / settings.center_margin,
            # |E − target| / target: the priors' losses are squared deviations.
            "prior_n": lambda x: jnp.sqrt(x) / (config.losses.prior_std_n**2 * latent),
            "prior_tex": lambda x: jnp.sqrt(x) / (config.losses.prior_std_tex**2 * latent),
        }
        for name, term in terms.items():
            signal = renamed.get(name, name)
            if signal in names and signal not in out:
                out[signal] = shaped.get(name, lambda x: x)(term)
        return jax.lax.stop_gradient(out)

    return measure
